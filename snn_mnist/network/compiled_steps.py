"""The training steps of an epoch on the CPU's fused backend: each chunk of them is one compiled call.

The bits do not depend on the number of threads, nor on how an epoch is cut into calls of `run`. Between them weight,
average, rates and the optimiser's state are up to date.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels.cpu import fused, simd
from snn_mnist.kernels.cpu import training as kernel
from snn_mnist.kernels.cpu.jit import gradient_function, on_threads
from snn_mnist.kernels.cpu.spikes import ActivePixels, key_words
from snn_mnist.kernels.neuron import NeuronSpec
from snn_mnist.kernels.spikes import SpikeKey
from snn_mnist.network.poisson import Stream, dropout_limit
from snn_mnist.network.training_steps import Training, TrainingSteps
from snn_mnist.storage.checkpoint import WEIGHT

CHUNK_WORK = 640_000  # images times time steps of a chunk, some 40 ms
_UNSUPPORTED = ("weight_decay", "amsgrad", "maximize", "dampening", "nesterov")


class CompiledSteps(TrainingSteps):
    """The training steps of an epoch; see above.

    weight [C votes, P] float32, the parameter of the optimiser, a FusedOptimizer; labels [N, C] float32: the targets of
    all images. With amp the kernels round the weights to bfloat16.
    """

    def __init__(
        self,
        weight: Tensor,
        active: ActivePixels,
        labels: Tensor,
        spec: NeuronSpec,
        training: Training,
        encoding: str = "poisson",
    ) -> None:
        self.weight, self.active, self.labels, self.training = weight, active, labels, training
        self.encoding, self.neuron = encoding, fused.input_coefficients(spec, encoding, training.dropout)
        self.chunk = min(training.steps, max(1, CHUNK_WORK // (training.batch * max(training.T, 20))))
        weights, moment, square = (fused.new_rows(*weight.shape) for _ in range(3))
        used = fused.new_rows(*weight.shape) if training.amp else weights
        average = fused.new_rows(*weight.shape) if training.average is not None else np.empty(0, np.float32)
        sums = simd.aligned_array(
            kernel.groups_of(training.batch, -(-len(weight) // fused.ROW)) * len(weights), np.float32
        )
        self.rows = kernel.Rows(weights, used, moment, square, average, sums)
        self.gradient = gradient_function(spec.surrogate, spec.parameters).address

    def warm_up(self) -> None:
        """Run no steps: the kernel is compiled, or loaded from its cache, outside of the measured time."""
        self.begin(SpikeKey(0, 0, 0), torch.zeros(0, dtype=torch.int64), [])
        self.run(0, 0)

    def run(self, first: int, last: int) -> None:
        training, rows, optimizer = self.training, self.rows, self.training.optimizer
        kind, settings, state = optimizer.for_kernel()
        update = kernel.Update(
            kind, settings, self.learning_rates, self.new_weight_shares, optimizer.steps_done - first
        )
        votes, scale = len(self.weight) // self.labels.shape[1], training.loss.scale
        batches = kernel.Batches(
            training.batch,
            self.order.numpy(),
            self.labels.numpy(),
            training.rates.numpy(),
            votes,
            scale if training.loss.kind == "ce" else 0.0,
        )
        encoding = kernel.Encoding(
            fused.ENCODINGS[self.encoding],
            key_words(self.key),
            dropout_limit(training.dropout),
            key_words(self.key._replace(stream=Stream.DROPOUT)),
        )
        copies = [(self.weight, rows.weights), *zip(state, (rows.moment, rows.square), strict=False)]
        if training.average is not None:
            copies.append((training.average[WEIGHT], rows.average))
        for matrix, its_rows in copies:
            fused.copy_to_rows(matrix, its_rows)
        on_threads(
            kernel.train_steps, first, last, self.active, batches, training.T, encoding,
            self.neuron, self.gradient, rows, update, workers=None if last > first else 1,
        )  # fmt: skip
        for matrix, its_rows in copies:
            fused.copy_from_rows(its_rows, matrix)
        if last > first:
            optimizer.param_groups[0]["lr"] = float(self.learning_rates[last - 1])
            optimizer.count(last - first)


# ---- optimisers ----------------------------------------------------------------------------------------------------


class FusedOptimizer:
    """Adam or SGD of one weight as a record: settings and state in the form of torch.optim, without importing it.

    The arithmetic is in kernels/cpu/training.py. `state_dict` and `load_state_dict` exchange with torch.optim's classes
    of the same names; importing torch.optim would take 1.8 s, for it imports torch._dynamo.
    """

    defaults: ClassVar[dict[str, Any]]

    def __init__(self, weight: Tensor, **settings: Any) -> None:
        self.weight = weight
        self.param_groups: list[dict[str, Any]] = [{"params": [weight], **self.defaults, **settings}]
        self.state: dict[Tensor, dict[str, Tensor]] = {weight: {}}

    def state_dict(self) -> dict[str, Any]:
        """{'state': {0: {…}}, 'param_groups': [{…, 'params': [0]}]}; the tensors are not copied, as in torch.optim."""
        (group,) = self.param_groups
        state = self.state[self.weight]
        settings = {name: value for name, value in group.items() if name != "params"}
        return {"state": {0: dict(state)} if state else {}, "param_groups": [{**settings, "params": [0]}]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over settings and state, copied; a setting that the saved form lacks keeps its value."""
        (group,) = saved["param_groups"]
        if on := [name for name in _UNSUPPORTED if group.get(name)]:
            raise ValueError(f"the compiled steps do not support {', '.join(on)}; use -backend torch")
        self.param_groups[0].update({name: value for name, value in group.items() if name != "params"})
        state = saved["state"].get(group["params"][0], {})
        self.state[self.weight] = {
            name: torch.as_tensor(value, dtype=torch.float32).clone(memory_format=torch.contiguous_format)
            for name, value in state.items()
            if value is not None
        }

    def for_kernel(self) -> tuple[int, np.ndarray, list[Tensor]]:
        """Return (kind, numbers, state tensors); the state is made where there is none."""
        raise NotImplementedError

    def _zeros(self, *names: str) -> list[Tensor]:
        state = self.state[self.weight]
        for name in names:
            if state.get(name) is None:
                state[name] = torch.zeros_like(self.weight.detach())
        return [state[name] for name in names]

    @property
    def steps_done(self) -> int:
        return int(self.state[self.weight].get("step", 0))

    def count(self, steps: int) -> None:
        """Count these steps as done, where torch.optim's class does so."""


class FusedAdam(FusedOptimizer):
    """torch.optim.Adam([weight], lr, fused=True)."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False,
        "foreach": None, "capturable": False, "differentiable": False, "fused": True, "decoupled_weight_decay": False,
    }  # fmt: skip

    def for_kernel(self) -> tuple[int, np.ndarray, list[Tensor]]:
        group = self.param_groups[0]
        self.state[self.weight].setdefault("step", torch.zeros(()))
        return kernel.ADAM, np.array([*group["betas"], group["eps"]]), self._zeros("exp_avg", "exp_avg_sq")

    def count(self, steps: int) -> None:
        self.state[self.weight]["step"] += steps


class FusedSGD(FusedOptimizer):
    """torch.optim.SGD([weight], lr, momentum, fused=True)."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False,
        "foreach": None, "differentiable": False, "fused": True,
    }  # fmt: skip

    def for_kernel(self) -> tuple[int, np.ndarray, list[Tensor]]:
        momentum = self.param_groups[0]["momentum"]
        return kernel.SGD, np.array([momentum, 0.0, 0.0]), self._zeros("momentum_buffer") if momentum else []
