"""The training steps of an epoch on the fused CUDA backend, without autograd, replayed from CUDA graphs.

A step is: kernels, gradient of the loss, GradScaler, optimiser, moving average: bit for bit what autograd and the
optimiser would do. A captured graph holds pointers to what its steps read, so a chunk's images, targets, learning rates
(as float32) and rates lie in buffers of a fixed address, filled before a chunk and read after it: one graph serves all
chunks of a run, a second one the shorter chunk at the end of an epoch. A step that is launched and the same step
replayed are the same kernels in the same order, so an epoch may be cut anywhere without changing a bit: whole chunks
are replayed, other steps are launched one by one. The first chunk of a process is always launched: it creates the
optimiser's state and loads the kernels, which a capture can't do. Between runs the optimiser is in the state that an
ordinary loop would leave, so checkpoints need nothing special.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch
from torch import Tensor

from snn_mnist.errors import SNNError
from snn_mnist.kernels.cuda import fused as kernels
from snn_mnist.kernels.neuron import NeuronSpec
from snn_mnist.kernels.spikes import SpikeKey
from snn_mnist.network.training_steps import Training, TrainingSteps

CHUNK = 32  # steps in a graph


class FusedSteps(TrainingSteps):
    """The training steps of an epoch; see above.

    weight [C, P] float32, the only parameter of the optimiser (fused; Adam on a CUDA device also capturable, as torch
    requires); labels [N, C] float32: the targets of all images; capture: chunks are replayed from graphs, by default on
    a CUDA device. Make a new one after loading a checkpoint: graphs hold pointers to the optimiser's tensors.
    """

    def __init__(
        self,
        weight: Tensor,
        active: kernels.ActivePixels,
        labels: Tensor,
        spec: NeuronSpec,
        training: Training,
        chunk: int = CHUNK,
        capture: bool | None = None,
    ) -> None:
        self.weight, self.active, self.labels, self.spec, self.training = weight, active, labels, spec, training
        self.chunk = min(chunk, training.steps)
        device, images = weight.device, self.chunk * training.batch
        self.precision = torch.get_autocast_dtype(device.type) if training.amp else torch.float32  # of rounded weights
        self.capture = device.type == "cuda" if capture is None else capture
        if self.capture:
            self._require_memory()
        self.index = torch.zeros(images, dtype=torch.int64, device=device)
        self.targets = torch.zeros(images, len(weight), device=device)
        self.rates = torch.zeros(images, len(weight), device=device)
        self.numbers = torch.zeros(2, self.chunk, device=device)  # learning rates, 1 - decay
        self.epoch = torch.zeros(1, dtype=torch.int32, device=device)
        self.eligibility = kernels.new_eligibility(active, training.batch, weight.shape)
        self.gradient = torch.zeros_like(weight)
        self.one = torch.ones((), device=device)
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}  # number of steps -> the graph of such a chunk
        # torch's default stream for captures belongs to the device of the first capture in the process
        self.stream = torch.cuda.Stream(device) if self.capture else None
        self.warm = False

    def _require_memory(self) -> None:
        T, batch, device = self.training.T, self.training.batch, self.weight.device
        needed = kernels.work_memory(self.weight.shape, self.active, self.spec, T, batch)
        free, _ = torch.cuda.mem_get_info(device)
        if needed > free:
            raise SNNError(
                f"T={T} with b={batch} needs {needed / 1e9:.1f} GB of work memory, and {free / 1e9:.1f} GB are free on "
                f"{device}; lower -T or -b, or use -backend torch -step-mode s"
            )

    @torch.no_grad()
    def warm_up(self) -> None:
        """Run one image forward and back, so that no kernel is compiled within the measured time."""
        index, rate = self.index[:1], torch.zeros_like(self.rates[:1])
        self.learn(index, rate, SpikeKey(0, 0, 0))
        self.contract(index, rate)

    def learn(self, index: Tensor, rate: Tensor, key: SpikeKey) -> None:
        """Write the firing rates of these images, and keep what their gradient needs."""
        T, precision, table = self.training.T, self.precision, self.eligibility
        kernels.learn(self.weight, self.active, index, T, key, self.spec, precision, rate, table)

    def contract(self, index: Tensor, upstream: Tensor) -> None:
        """Set the weight's gradient from that of the rates of the images that were learned last."""
        table, T = self.eligibility, self.training.T
        kernels.weight_gradient(self.active, index, upstream, table, self.spec, T, self.gradient)

    def begin(
        self, key: SpikeKey, order: Tensor, learning_rates: Sequence[float], decays: Sequence[float] | None = None
    ) -> None:
        if self.warm and key[:2] != self.key[:2]:
            self.graphs.clear()  # seed and stream are constants in the graphs
        super().begin(key, order.to(self.weight.device), learning_rates, decays)
        self.epoch.fill_(key.epoch - (1 << 32 if key.epoch >= 1 << 31 else 0))  # the same 32 bits as int32
        shares = self.new_weight_shares if decays else torch.zeros(len(self.learning_rates))
        both = [torch.as_tensor(numbers, dtype=torch.float32) for numbers in (self.learning_rates, shares)]
        self.epoch_numbers = torch.stack(both).to(self.weight.device)

    def run(self, first: int, last: int) -> None:
        """Run steps first .. last - 1, on a CUDA device without waiting for them."""
        while first < last:
            end = min(first - first % self.chunk + self.chunk, last)
            self._run_chunk(first, end)
            first = end
        for group in self.training.optimizer.param_groups:
            group["lr"] = float(self.learning_rates[last - 1])  # not the tensor that a step put there

    def _run_chunk(self, first: int, end: int) -> None:
        count, training = end - first, self.training
        images = slice(first * training.batch, end * training.batch)
        index, rates = self.index[: count * training.batch], self.rates[: count * training.batch]
        index.copy_(self.order[images])
        torch.index_select(self.labels, 0, index, out=self.targets[: len(index)])
        self.numbers[:, :count] = self.epoch_numbers[:, first:end]
        whole = first % self.chunk == 0 and (count == self.chunk or end == training.steps)
        if self.capture and self.warm and whole:
            if count not in self.graphs:
                self.graphs[count] = self._captured(count)
            self.graphs[count].replay()
        else:
            for place in range(count):
                self._step(place)
            self.warm = True
        training.rates[images] = rates

    def _captured(self, count: int) -> torch.cuda.CUDAGraph:
        """Record the next steps without running them. A graph that is collected meanwhile would make it fail."""
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.graphs.values())).pool() if self.graphs else None
        gc.collect()
        gc.disable()
        try:
            with torch.cuda.device(self.weight.device), torch.cuda.graph(graph, pool=pool, stream=self.stream):
                for place in range(count):
                    self._step(place)
        finally:
            gc.enable()
        return graph

    def _step(self, place: int) -> None:
        """Run the training step at this place of the chunk; all that it reads and writes has a fixed address."""
        training, optimizer, scaler = self.training, self.training.optimizer, self.training.scaler
        part = slice(place * training.batch, (place + 1) * training.batch)
        index, rate = self.index[part], self.rates[part]
        with torch.no_grad():
            self.learn(index, rate, self.key._replace(epoch=self.epoch))  # type: ignore[arg-type]
            scale = scaler.scale(self.one)
            upstream = torch.ops.aten.mse_loss_backward(scale, rate, self.targets[part], 1)  # 1: of the mean
            self.contract(index, upstream)
        self.weight.grad = self.gradient
        for group in optimizer.param_groups:
            group["lr"] = self.numbers[0, place]
        scaler.step(optimizer)
        scaler.update()
        if scaler.is_enabled():
            training.skipped.add_(scaler.scale(self.one) < scale)
        if training.average is not None:
            with torch.no_grad():
                training.average.lerp_(self.weight, self.numbers[1, place])
