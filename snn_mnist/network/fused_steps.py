"""The training steps of an epoch on a fused backend, without autograd; on a CUDA device replayed from CUDA graphs.

    run = FusedSteps(kernels, weight, active, labels, spec, steps=937, batch=64, T=100, optimizer=…, scaler=…)
    run.begin(key, order, learning_rates)             # what differs between epochs
    run.run(0, 937)                                   # nothing is read back: rates [steps * batch, C] stay there

A step is: kernels, gradient of the loss, GradScaler, optimiser, moving average: bit for bit what autograd and the
optimiser would do. Captured graphs hold pointers to what a step reads, so on a CUDA device the epoch's number, order,
labels and learning rates (as float32) are copied into the same tensors each epoch. A step that is launched and the same
step replayed are the same kernels in the same order, so an epoch may be cut into pieces anywhere without changing a
bit: whole chunks are replayed, other steps are launched one by one. The very first step is always launched: it creates
the optimiser's state and loads the kernels, which a capture can't do. Between runs the optimiser is in the state that
an ordinary loop would leave, so checkpoints need nothing special.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snn_mnist.kernels.neuron import NeuronSpec
from snn_mnist.kernels.spikes import SpikeKey
from snn_mnist.network.training_steps import TrainingSteps

CHUNK = 128  # steps in a graph
capture_seconds: list[float] = []  # of each graph captured in this process


class FusedSteps(TrainingSteps):
    """The training steps of an epoch; see above.

    kernels: the module of a fused pass; active: its `active_pixels` of the images; weight [C, P] float32, the only
    parameter of `optimizer` (fused; Adam on a CUDA device also capturable, as torch requires); labels [N, C] float32:
    the targets of all images; scaler: a GradScaler, enabled or not; precision: the type to which the kernels round the
    weights; average [C, P] or None: a moving average, average = decay average + (1 - decay) weight at each step;
    rates [steps * batch, C] receives the rates of each batch, with the weights before its step; skipped, an int64
    tensor [], counts the steps that the scaler skipped; chunk: steps in a graph, a run is best stopped after a multiple
    of them; static: what differs between epochs lies in tensors; capture: chunks are replayed from graphs; both by
    default on a CUDA device. Make a new one after loading a checkpoint: graphs hold pointers to the optimiser's
    tensors.
    """

    def __init__(
        self, kernels: Any, weight: Tensor, active: Any, labels: Tensor, spec: NeuronSpec, *, steps: int, batch: int,
        T: int, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, precision: torch.dtype = torch.float32,
        average: Tensor | None = None, rates: Tensor | None = None, skipped: Tensor | None = None,
        chunk: int | None = None, static: bool | None = None, capture: bool | None = None,
    ) -> None:  # fmt: skip
        device, outputs = weight.device, len(weight)
        self.static = device.type == "cuda" if static is None else static
        self.capture = device.type == "cuda" if capture is None else capture
        if self.capture and not optimizer.param_groups[0].get("capturable", True):
            raise ValueError("an optimizer with capturable=False can't be captured in a CUDA graph; make it with True")
        self.kernels, self.weight, self.active, self.labels, self.spec = kernels, weight, active, labels, spec
        self.T, self.steps, self.batch, self.precision = T, steps, batch, precision
        self.chunk = min(chunk or (CHUNK if self.capture else 1), steps)
        self.optimizer, self.scaler, self.average = optimizer, scaler, average
        self.index = torch.zeros(steps * batch, dtype=torch.int64, device=device)
        self.targets = torch.zeros(steps * batch, outputs, device=device)
        self.rates = torch.zeros(steps * batch, outputs, device=device) if rates is None else rates
        self.skipped = torch.zeros((), dtype=torch.int64, device=device) if skipped is None else skipped
        if self.static:
            self.epoch = torch.zeros(1, dtype=torch.int32, device=device)
            self.tensors = torch.zeros(2, steps, device=device)  # learning rates, 1 - decay
        self.eligibility = kernels.new_eligibility(active, batch, weight.shape)
        self.gradient = torch.zeros_like(weight)
        self.one = torch.ones((), device=device)
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}  # first step of a chunk -> its graph
        # torch's default stream for captures belongs to the device of the first capture in the process
        self.stream = torch.cuda.Stream(device) if self.capture else None
        self.warm = False

    @torch.no_grad()
    def warm_up(self) -> None:
        """One image forward and back, so that no kernel is compiled within the measured time."""
        index, rate = self.index[:1], torch.zeros_like(self.rates[:1])
        key = SpikeKey(0, 0, self.epoch if self.static else 0)  # type: ignore[arg-type]
        self.kernels.learn(
            self.weight, self.active, index, self.T, key, self.spec, self.precision, rate, self.eligibility
        )
        self.kernels.weight_gradient(self.active, index, rate, self.eligibility, self.spec, self.T, self.gradient)

    def begin(
        self, key: SpikeKey, order: Tensor, learning_rates: Sequence[float], decays: Sequence[float] | None = None
    ) -> None:
        if self.warm and key[:2] != self.key[:2]:
            self.graphs.clear()  # seed and stream are constants in the graphs
        super().begin(key, order, learning_rates, decays)
        self.index.copy_(order[: len(self.index)])
        self.targets.copy_(self.labels[self.index])
        self.numbers = self.learning_rates.tolist(), self.new_weight_shares.tolist()
        if self.static:
            self.epoch.fill_(key.epoch - (1 << 32 if key.epoch >= 1 << 31 else 0))  # the same 32 bits as int32
            self.tensors[0].copy_(torch.tensor(self.numbers[0], dtype=torch.float32))
            if decays is not None:
                self.tensors[1].copy_(torch.tensor(self.numbers[1], dtype=torch.float32))

    def run(self, first: int, last: int) -> None:
        """Steps first .. last - 1, on a CUDA device without waiting for them."""
        step = first
        while step < last:
            end = min(step + self.chunk, self.steps)
            if self.capture and self.warm and step % self.chunk == 0 and end <= last:
                self._graph(step, end).replay()
                step = end
            else:
                self.step(step)
                self.warm = True
                step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.numbers[0][last - 1]  # not the tensor that `step` put there

    def _graph(self, first: int, end: int) -> torch.cuda.CUDAGraph:
        if first not in self.graphs:
            started = time.perf_counter()
            graph = torch.cuda.CUDAGraph()
            pool = next(iter(self.graphs.values())).pool() if self.graphs else None
            device = self.weight.device
            with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool, stream=self.stream):
                for step in range(first, end):  # recorded, not run
                    self.step(step)
            self.graphs[first] = graph
            capture_seconds.append(time.perf_counter() - started)
        return self.graphs[first]

    def step(self, step: int) -> None:
        """One training step; all that it reads and writes on a CUDA device has a fixed address."""
        part = slice(step * self.batch, (step + 1) * self.batch)
        index, rate = self.index[part], self.rates[part]
        key = self.key._replace(epoch=self.epoch) if self.static else self.key  # type: ignore[arg-type]
        learning_rates, shares = self.tensors if self.static else self.numbers
        with torch.no_grad():
            self.kernels.learn(
                self.weight, self.active, index, self.T, key, self.spec, self.precision, rate, self.eligibility
            )
            scale = self.scaler.scale(self.one)
            upstream = torch.ops.aten.mse_loss_backward(scale, rate, self.targets[part], 1)  # 1: of the mean
            self.kernels.weight_gradient(
                self.active, index, upstream, self.eligibility, self.spec, self.T, self.gradient
            )
        self.weight.grad = self.gradient
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rates[step]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled():
            self.skipped += self.scaler.scale(self.one) < scale
        if self.average is not None:
            with torch.no_grad():
                self.average.lerp_(self.weight, shares[step])
