"""The training steps of an epoch on the CPU's fused backend: each chunk of them is one compiled call.

    run = CompiledSteps(active, weight, labels, spec, steps=937, batch=64, T=100, optimizer=FusedAdam(weight))
    run.begin(key, order, learning_rates)             # what differs from epoch to epoch
    run.run(0, 937)

The bits do not depend on the number of threads, nor on how an epoch is cut into calls of `run`. Between them weight,
average, rates and the optimiser's state are up to date.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels.cpu import training
from snn_mnist.kernels.cpu.gradient import gradient_function
from snn_mnist.kernels.cpu.optimizer import ADAM, SGD
from snn_mnist.kernels.cpu.spikes import ActivePixels
from snn_mnist.kernels.neuron_spec import NeuronSpec, coefficients
from snn_mnist.kernels.spikes import SpikeKey

CHUNK_WORK = 320_000  # images times time steps of a chunk, some 20 ms
_UNSUPPORTED = ("weight_decay", "amsgrad", "maximize", "dampening", "nesterov")
_NONE = np.empty(0, np.float32)


class CompiledSteps:
    """The training steps of an epoch; see above.

    active: the active pixels of the data set; weight [C, P] float32, the parameter of `optimizer` (FusedAdam, FusedSGD
    or torch.optim's own: only its settings and state are used); labels [N, C] float32, targets of all images;
    precision: float32, or bfloat16 to which the kernels round the weights; average [C, P] or None: a moving average,
    average = decay average + (1 - decay) weight at each step; rates [steps * batch, C] receives each batch's rates
    with the weights before its step; chunk: a run is best stopped after a multiple of this many steps.
    """

    def __init__(
        self, active: ActivePixels, weight: Tensor, labels: Tensor, spec: NeuronSpec, *, steps: int, batch: int, T: int,
        optimizer: Any, precision: torch.dtype = torch.float32, average: Tensor | None = None,
        rates: Tensor | None = None, chunk: int | None = None,
    ) -> None:  # fmt: skip
        outputs, pixels = weight.shape
        if outputs > training.ROW:
            raise ValueError(f"the fused CPU kernel takes at most {training.ROW} neurons, not {outputs}")
        self.active, self.weight, self.labels, self.spec = active, weight, labels, spec
        self.batch, self.T, self.optimizer, self.average = batch, T, optimizer, average
        self.rates = torch.zeros(steps * batch, outputs) if rates is None else rates
        self.chunk = min(steps, chunk or max(1, CHUNK_WORK // (batch * max(T, 20))))
        self.groups = training.groups_of(batch)
        rows = (pixels + 1) * training.ROW
        self._weights, self._moment, self._square = (training.aligned((rows,), np.float32) for _ in range(3))
        self._used = self._weights if precision == torch.float32 else training.aligned((rows,), np.float32)
        self._average = _NONE if average is None else training.aligned((rows,), np.float32)
        self._sums = training.aligned((self.groups * rows,), np.float32)
        self._room = training.new_room(1, pixels, T)
        self._gradient = gradient_function(spec.surrogate, spec.parameters).address

    def begin(
        self, key: SpikeKey, order: Tensor, learning_rates: Sequence[float], decays: Sequence[float] | None = None
    ) -> None:
        """The epoch's own: key.epoch its number, order [>= steps * batch] of the images, a learning rate a step, and
        a decay of the moving average."""
        if self.average is not None and decays is None:
            raise ValueError("a moving average needs a decay for each step; give decays")
        self.key, self.order = key, order.numpy()
        self.learning_rates = np.asarray(learning_rates, np.float64)
        self.fresh = 1 - np.asarray(decays if decays is not None else (), np.float64)

    def run(self, first: int, last: int) -> None:
        """Steps first .. last - 1."""
        if first < last:
            self._run(first, last)

    def warm_up(self) -> None:
        """No steps: the kernel is compiled, or loaded from its cache, outside of the measured time."""
        self.begin(SpikeKey(0, 0, 0), torch.zeros(0, dtype=torch.int64), [0.0], None if self.average is None else [0.0])
        self._run(0, 0)

    def _run(self, first: int, last: int) -> None:
        workers = numba.get_num_threads()
        if len(self._room.current) < workers:
            self._room = training.new_room(workers, self.weight.shape[1], self.T)
        kind, settings, state = self._settings()
        pairs = [(self.weight, self._weights)]
        pairs += [(tensor, rows) for tensor, rows in zip(state, (self._moment, self._square), strict=False)]
        if self.average is not None:
            pairs.append((self.average, self._average))
        arrays = [(tensor.detach().numpy(), rows) for tensor, rows in pairs]
        for matrix, rows in arrays:
            training.to_rows(matrix, rows)
        active, key = self.active, self.key
        training.train_steps(
            active.offsets, active.pixels, active.values, self.order, self.labels.numpy(), first, last, self.batch,
            self.T, np.uint32(key.epoch), np.uint32(key.seed), np.uint32(key.stream), tuple(coefficients(self.spec)),
            self._gradient, self.rates.numpy(), self._weights, self._used, self._moment, self._square, self._average,
            kind, settings, self._done(), self.learning_rates, self.fresh, self.groups, self._sums, self._room, workers,
        )  # fmt: skip
        for matrix, rows in arrays:
            training.from_rows(rows, matrix)
        if last > first:
            self._count(last - first, float(self.learning_rates[last - 1]))

    def _settings(self) -> tuple[int, np.ndarray, list[Tensor]]:
        """(kind, numbers, state tensors) of the optimiser, whose state is made where there is none."""
        (group,) = self.optimizer.param_groups
        if on := [name for name in _UNSUPPORTED if group.get(name)]:
            raise ValueError(f"the compiled steps do not support {', '.join(on)}; use torch.optim with FusedSteps")
        state = self.optimizer.state[self.weight]
        if "betas" in group:
            if "step" not in state:
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(self.weight.detach()) for _ in range(2))
            settings = np.array([*group["betas"], group["eps"]], np.float64)
            return ADAM, settings, [state["exp_avg"], state["exp_avg_sq"]]
        settings = np.array([group["momentum"], 0, 0], np.float64)
        if not group["momentum"]:
            return SGD, settings, []
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(self.weight.detach())
        return SGD, settings, [state["momentum_buffer"]]

    def _done(self) -> int:
        return int(self.optimizer.state[self.weight].get("step", 0))

    def _count(self, steps: int, learning_rate: float) -> None:
        (group,) = self.optimizer.param_groups
        group["lr"] = learning_rate
        if "betas" in group:
            self.optimizer.state[self.weight]["step"] += steps
