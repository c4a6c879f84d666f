"""An epoch of training steps on a CUDA device, captured in CUDA graphs and replayed many steps a launch.

    epoch = Epoch(weight, live, labels, spec, steps=937, batch=64, T=100, optimizer=…, scaler=…)
    epoch.begin(e, order, learning_rates, draw)       # copies what differs from epoch to epoch to the device
    epoch.run(0, 937)                                 # nothing is read back: rates [steps * batch, C] stay there

A step is: kernels, gradient of the loss, GradScaler, optimiser, moving average. All of it reads static tensors: the
epoch's number, order, labels and learning rates lie on the device at places that the graphs have by heart. A step
that is run alone and the same step replayed are the same launches in the same order, so an epoch cut into pieces in
any way gives the same bits; whole chunks are replayed, the rest is run step by step. The first step of all is always
run so: it makes the optimiser's state and loads the kernels, neither of which a capture may do. Between runs the
optimiser is as after an ordinary loop, so a checkpoint is taken as from one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snn_mnist.kernels import fused_cuda
from snn_mnist.kernels.fused_cuda import LivePixels
from snn_mnist.kernels.spec import NeuronSpec
from snn_mnist.kernels.spikes import Draw


class Epoch:
    """The training steps of an epoch on static tensors; see above.

    weight [C, P] float32, the one parameter of `optimizer` (fused; Adam also capturable, on which torch insists);
    labels [N, C] float32, targets of all images; scaler a GradScaler, enabled or not; rounded: weights in half
    precision; average [C, P] or None: a moving average, average = decay average + (1 - decay) weight at each step;
    rates [steps * batch, C] receives each batch's rates with the weights it met; skipped, an int64 tensor [], counts
    the steps that the scaler left out; chunk: steps a graph; capture=False runs every step alone. Made anew after a
    checkpoint is loaded, for graphs have the optimiser's tensors by heart.
    """

    def __init__(
        self, weight: Tensor, live: LivePixels, labels: Tensor, spec: NeuronSpec, *, steps: int, batch: int, T: int,
        optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, rounded: bool = False,
        average: Tensor | None = None, rates: Tensor | None = None, skipped: Tensor | None = None, chunk: int = 128,
        capture: bool = True,
    ) -> None:  # fmt: skip
        device, outputs = live.images.device, len(weight)
        group = optimizer.param_groups[0]
        if capture and not group.get("capturable", True):
            raise ValueError("an optimizer with capturable=False can't be captured in a CUDA graph; make it with True")
        self.weight, self.live, self.labels, self.spec, self.T = weight, live, labels, spec, T
        self.steps, self.batch, self.chunk, self.capture = steps, batch, min(chunk, steps), capture
        self.optimizer, self.scaler, self.rounded, self.average = optimizer, scaler, rounded, average
        self.order = torch.zeros(steps * batch, dtype=torch.int64, device=device)
        self.targets = torch.zeros(steps * batch, outputs, device=device)
        self.rates = torch.zeros(steps * batch, outputs, device=device) if rates is None else rates
        self.skipped = torch.zeros((), dtype=torch.int64, device=device) if skipped is None else skipped
        self.learning_rates = torch.zeros(steps, device=device)
        self.fresh = torch.zeros(steps, device=device)  # 1 - decay
        self.epoch = torch.zeros(1, dtype=torch.int32, device=device)
        self.eligibility = torch.zeros(batch, *weight.shape, device=device)
        self.gradient = torch.zeros_like(weight)
        self.one = torch.ones((), device=device)
        if group.get("momentum") and optimizer.state[weight].get("momentum_buffer") is None:
            # torch's fused SGD leaves it uninitialised when the scaler skips the very first step; 0 gives what it means
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        self.draw: Draw | None = None
        self.numbers: list[float] = []  # the learning rates
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}  # first step of a chunk -> its graph
        self.warm = False

    def begin(
        self, draw: Draw, order: Tensor, learning_rates: Sequence[float], decays: Sequence[float] | None = None
    ) -> None:
        """The epoch's own: draw.epoch its number, order [>= steps * batch] of the images, a learning rate a step."""
        if self.draw is not None and draw[:2] != self.draw[:2]:
            self.graphs.clear()  # seed and stream are numbers inside the graphs
        self.draw = draw
        number = draw.epoch - (1 << 32 if draw.epoch >= 1 << 31 else 0)  # the same 32 bits
        self.epoch.fill_(number)
        self.order.copy_(order[: len(self.order)])
        self.targets.copy_(self.labels[self.order])
        self.numbers = list(learning_rates)
        self.learning_rates.copy_(torch.tensor(self.numbers, dtype=torch.float32))
        if decays is not None:
            self.fresh.copy_(torch.tensor([1 - decay for decay in decays], dtype=torch.float32))

    def run(self, first: int, last: int) -> None:
        """Steps first .. last - 1, without waiting for them."""
        step = first
        while step < last:
            end = min(step + self.chunk, self.steps)
            if self.capture and self.warm and step % self.chunk == 0 and end <= last:
                self._graph(step, end).replay()
                step = end
            else:
                self._step(step)
                self.warm = True
                step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.numbers[last - 1]  # a number again

    def _graph(self, first: int, end: int) -> torch.cuda.CUDAGraph:
        if first not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            pool = next(iter(self.graphs.values())).pool() if self.graphs else None
            with torch.cuda.graph(graph, pool=pool):  # records, runs nothing
                for step in range(first, end):
                    self._step(step)
            self.graphs[first] = graph
        return self.graphs[first]

    def _step(self, step: int) -> None:
        """One training step; everything it reads and writes lies at a fixed place on the device."""
        part = slice(step * self.batch, (step + 1) * self.batch)
        assert self.draw is not None, "call begin first"
        index, rate = self.order[part], self.rates[part]
        draw = self.draw._replace(epoch=self.epoch)  # type: ignore[arg-type]
        with torch.no_grad():
            fused_cuda.learn(
                self.weight, self.live, index, self.T, draw, self.spec, self.rounded, rate, self.eligibility
            )
            scale = self.scaler.scale(self.one)
            upstream = torch.ops.aten.mse_loss_backward(scale, rate, self.targets[part], 1)  # 1: of the mean
            fused_cuda.weight_gradient(self.live, index, upstream, self.eligibility, self.spec, self.T, self.gradient)
        self.weight.grad = self.gradient
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rates[step]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled():
            self.skipped += self.scaler.scale(self.one) < scale
        if self.average is not None:
            with torch.no_grad():
                self.average.lerp_(self.weight, self.fresh[step])
