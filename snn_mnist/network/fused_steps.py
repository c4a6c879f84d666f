"""The training steps of an epoch on the fused CUDA backend, without autograd, replayed from CUDA graphs.

A step is: kernels, gradient of the loss, GradScaler, optimiser, moving average: bit for bit what autograd and the
optimiser would do. A captured graph holds pointers to what its steps read, so a chunk's images, targets, learning rates
(as float32) and firing rates lie in buffers of a fixed address, filled before a chunk and read after it: one graph
serves all chunks of a run, a second one the shorter chunk at the end of an epoch. Steps that are no whole chunk are
launched one by one, with the same bits. So is the first chunk of a process: it creates the optimiser's state and loads
the kernels, which a capture can't do. Between runs the optimiser's state is that of an ordinary loop.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Sequence

import torch
from torch import Tensor

from snn_mnist.core import neuron, surrogate
from snn_mnist.errors import SNNError
from snn_mnist.kernels import spikes
from snn_mnist.kernels.cuda import fused as kernels
from snn_mnist.kernels.cuda.launch import one_line
from snn_mnist.kernels.neuron import NeuronSpec
from snn_mnist.kernels.spikes import SpikeKey
from snn_mnist.network.training_steps import Training, TrainingSteps
from snn_mnist.storage.checkpoint import WEIGHT

CHUNK = 32  # steps in a graph


class FusedSteps(TrainingSteps):
    """The training steps of an epoch.

    weight [C, P] float32, the only parameter of the optimiser (fused; Adam on a CUDA device also capturable, as torch
    requires); labels [N, C] float32: the targets of all images; capture: chunks are replayed from graphs, by default on
    a CUDA device. Make a new one after loading a checkpoint and for another seed: graphs hold pointers to the
    optimiser's tensors, and seed and stream as constants.
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
        needed = kernels.work_memory(weight.shape, active, spec, training.T, training.batch) if self.capture else 0
        if needed and needed > (free := torch.cuda.mem_get_info(device)[0]):
            raise SNNError(
                f"T={training.T} with b={training.batch} needs {needed / 1e9:.1f} GB of work memory, and "
                f"{free / 1e9:.1f} GB are free on {device}; lower -T or -b, or use -backend torch -step-mode s"
            )
        self.index = torch.zeros(images, dtype=torch.int64, device=device)
        self.targets = torch.zeros(images, len(weight), device=device)
        self.rates = torch.zeros(images, len(weight), device=device)
        self.numbers = torch.zeros(2, self.chunk, device=device)  # learning rates, 1 - decay
        self.epoch = torch.zeros(1, dtype=torch.int32, device=device)
        self.eligibility = torch.empty(training.batch, *weight.shape, device=device)  # E, see fused.cu
        self.gradient = torch.zeros_like(weight)
        self.one = torch.ones((), device=device)
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}  # number of steps -> the graph of such a chunk
        # torch's default stream for captures belongs to the device of the first capture in the process
        self.stream = torch.cuda.Stream(device) if self.capture else None
        self.warm = False

    @torch.no_grad()
    def warm_up(self) -> None:
        """Run one image forward and back, so that no kernel is compiled within the measured time."""
        index, rate = self.index[:1], torch.zeros_like(self.rates[:1])
        self.learn(index, rate, SpikeKey(0, 0, 0))
        self.contract(index, rate)

    def learn(self, index: Tensor, rate: Tensor, key: SpikeKey) -> None:
        """Write the firing rates of these images to `rate`, and what their gradient needs to `eligibility`."""
        T, precision, table = self.training.T, self.precision, self.eligibility
        kernels.learn(self.weight, self.active, index, T, key, self.spec, precision, rate, table)

    def contract(self, index: Tensor, upstream: Tensor) -> None:
        """Set the weight's gradient from that of the rates of the last images passed to `learn`."""
        table, T = self.eligibility, self.training.T
        kernels.weight_gradient(self.active, index, upstream, table, self.spec, T, self.gradient)

    def begin(
        self, key: SpikeKey, order: Tensor, learning_rates: Sequence[float], decays: Sequence[float] | None = None
    ) -> None:
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
                training.average[WEIGHT].lerp_(self.weight, self.numbers[1, place])


# ---- start-up check ------------------------------------------------------------------------------------------------


@functools.cache
@torch.enable_grad()
def start_up_error(device: torch.device) -> str | None:
    """Return None if a small batch gives on this device what it gives on the CPU, else what is wrong.

    A SNNError if torch can't use the device, perhaps because a faulting kernel has invalidated the CUDA context.
    """
    try:
        found = _wrong_results(device) or _wrong_graphs(device)
    except Exception as error:  # a kernel that can't be compiled or launched, or an error of the device
        found = one_line(error)
        try:
            torch.zeros(1, device=device).cpu()
        except RuntimeError as lost:
            raise SNNError(
                f"{device} can't be used ({found}); if it is free, use -backend torch, and report this"
            ) from lost
    return f"its start-up check failed: {found}" if found else None


def _images_and_weight(samples: int) -> tuple[Tensor, Tensor]:
    """Return images [N, 96] uint8 and a weight [10, 96] that leave each neuron 1e-5 or more from its threshold."""
    n, c, p = torch.arange(samples)[:, None], torch.arange(10)[:, None], torch.arange(96)
    images = ((37 * p + 101 * n) % 256).byte()
    images[:, ::3], images[:, 1::16] = 0, 255
    return images, ((13 * c + 7 * p + 5 * c * p) % 17 - 7) * 0.03


def _wrong_results(device: torch.device) -> str | None:
    """Compare spikes bit by bit, and rates, counts and gradient with the neurons of core in float64."""
    samples, steps, key = 5, 40, SpikeKey(1, 2, 3)
    (images, weight), index = _images_and_weight(samples), torch.arange(samples).flip(0)
    row = torch.arange(samples)[:, None]
    upstream = (row + 1) * torch.cos(row + 2.0 * torch.arange(10))
    active = kernels.active_pixels(images.to(device))
    inputs = spikes.encode(images[index], index, 0, steps, key)
    if not torch.equal(kernels.encode(active, index, 0, steps, key).cpu(), inputs):
        return "the spikes differ from the CPU's"
    exact, lif = weight.double().requires_grad_(), neuron.LIFNode(surrogate_function=surrogate.ATan(), step_mode="m")
    fired = lif(inputs.double() @ exact.T)
    (expected,) = torch.autograd.grad((fired.mean(0) * upstream).sum(), exact)
    on_device, rate = weight.to(device), torch.empty(upstream.shape, device=device)
    eligibility, gradient = torch.empty(samples, *weight.shape, device=device), torch.empty_like(on_device)
    kernels.learn(on_device, active, index, steps, key, lif.spec(), torch.float32, rate, eligibility)
    kernels.weight_gradient(active, index, upstream.to(device), eligibility, lif.spec(), steps, gradient)
    counts, input_counts = kernels.firing_counts(on_device, active, index, [16, steps], key, lif.spec())
    totals = torch.stack([fired[:16].sum(0), fired.sum(0)], 1)
    if not torch.equal(input_counts.cpu(), inputs.sum((0, 2)).long()) or not torch.equal(counts.cpu().double(), totals):
        return "the spike counts differ from the CPU's"
    rates_agree = torch.allclose(rate.cpu().double(), fired.mean(0), rtol=0, atol=1e-6)
    worst = (gradient.cpu() - expected).abs().max() / expected.abs().max()
    if not rates_agree or not worst < 1e-5:
        return f"rates or gradients differ from the CPU's (gradient by {worst:.1e})"
    return None


def _wrong_graphs(device: torch.device) -> str | None:
    """Compare two epochs of training steps replayed from CUDA graphs with the same steps launched one by one."""
    steps, batch = 6, 4
    images, start = (tensor.to(device) for tensor in _images_and_weight(steps * batch))
    active, labels = kernels.active_pixels(images), torch.eye(10, device=device)[torch.arange(len(images)) % 10]
    spec, learned = neuron.LIFNode(surrogate_function=surrogate.ATan()).spec(), []
    for capture in (False, device.type == "cuda"):
        weight = torch.nn.Parameter(start.clone())
        adam = torch.optim.Adam([weight], fused=True, capturable=True)
        scaler = torch.amp.GradScaler(device.type, enabled=False)
        rates, skipped = torch.zeros(len(images), 10, device=device), torch.zeros((), dtype=torch.int64, device=device)
        training = Training(steps, batch, 40, adam, scaler, False, None, rates, skipped)
        run = FusedSteps(weight, active, labels, spec, training, chunk=2, capture=capture)
        for epoch in range(2):  # the first chunk of the first epoch is never replayed
            run.begin(SpikeKey(1, 0, epoch), torch.arange(len(images)).roll(epoch), [0.01] * steps)
            run.run(0, steps)
        learned.append(weight.detach())
    if not torch.equal(*learned) or torch.equal(learned[0], start):
        return "training steps replayed from CUDA graphs differ from those launched one by one"
    return None
