"""From a network and images to firing counts and training steps, on the device and backend of a run."""

from __future__ import annotations

import importlib
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snn_mnist import terminal
from snn_mnist.core import functional
from snn_mnist.errors import UsageError
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.network.network import CLASSES, PIXELS, SNN, vote
from snn_mnist.network.own import OwnNetwork
from snn_mnist.network.poisson import SpikeKey, dropout_mask, encode
from snn_mnist.network.training_steps import AutogradSteps, Training, TrainingSteps, seed_torch
from snn_mnist.settings.config import Config
from snn_mnist.storage import environment

FUSED = {"cpu": "numba", "cuda": "cupy"}  # type of a device -> its fused backend
CHUNK_BYTES = 64 << 20  # of spikes as floats that the torch engine holds at a time when nothing is differentiated


class TorchEngine:
    """The reference: the modules of `core`, on any device, in either step mode."""

    def __init__(self, net: Any, images: Tensor) -> None:
        """net: SNN or OwnNetwork; images [N, 784] uint8, on its device"""
        self.net, self.images = net, images
        self.takes_all_steps = isinstance(net, OwnNetwork)  # at once, because it may do with T what it wants

    def _spans(self, index: Tensor, steps: int, key: SpikeKey, span: int, dropout: float = 0.0):  # type: ignore[no-untyped-def]
        """Yield (first step, input, output spikes [T', N, 10 votes]) for T' = span steps at a time.

        The neurons keep v in between. Input [T', N, 784], or [1, N, 784] if it is the same at each step.
        """
        index = index.to(self.images.device)
        images = self.images[index]
        mask = dropout_mask(images, index, key, dropout) if dropout else None
        for start in range(0, steps, span):
            stop = min(start + span, steps)
            inputs = encode(self.net.encoding, images, index, start, stop, steps, key)
            inputs = inputs if mask is None else inputs.mul_(mask)
            yield start, inputs, self.net.respond(inputs, stop - start)

    def firing_rate(self, index: Tensor, steps: int, key: SpikeKey, dropout: float = 0.0) -> Tensor:
        """Return the scores [N, 10] of the images `index` [N] int64, differentiable: spikes per step and neuron."""
        self.net.train()
        span = steps if self.takes_all_steps or self.net.spiking.step_mode == "m" else 16
        total = sum(fired.sum(0) for _, _, fired in self._spans(index, steps, key, span, dropout))
        functional.reset_net(self.net)
        return vote(total / steps)

    @torch.no_grad()
    def firing_counts(self, index: Tensor, readout_steps: list[int], key: SpikeKey) -> tuple[Tensor, Tensor]:
        """Return the output spikes in the first readout_steps[m] steps [N, M, 10 votes] (readout_steps ascend, the last
        one is T) and the number of input spikes in T steps [N], of a constant current that of the active pixels."""
        self.net.eval()
        seed_torch(key, 0)
        steps = readout_steps[-1]
        span = steps if self.takes_all_steps else max(16, CHUNK_BYTES // (4 * PIXELS * len(index)) // 16 * 16)
        counts = torch.zeros(len(index), len(readout_steps), CLASSES * self.net.votes, device=self.images.device)
        inputs = torch.zeros(len(index), dtype=torch.int64, device=self.images.device)
        for start, given, fired in self._spans(index, steps, key, span):
            constant = self.net.encoding == "constant"
            inputs = given.count_nonzero((0, 2)) if constant else inputs + given.sum((0, 2)).long()
            for m, stop in enumerate(readout_steps):
                if stop > start:
                    counts[:, m] += fired[: stop - start].sum(0)
        functional.reset_net(self.net)
        return counts, inputs

    def training_steps(self, labels: Tensor, training: Training) -> TrainingSteps:
        """Return the training steps of an epoch, with one-hot labels [N, 10] float32."""
        return AutogradSteps(self, labels, training)


class FusedEngine:
    """Fused kernels: one pass from pixels to rates and the weight gradient."""

    def __init__(self, backend: str, net: SNN, images: Tensor) -> None:
        """images [N, 784] uint8, on the network's device"""
        if len(net.layer) != (3 if net.votes == 1 else 4):
            raise ValueError(
                f"a fused backend computes Flatten, Linear and the neurons, not {len(net.layer)} modules; use torch"
            )
        if backend == "cupy" and (net.votes > 1 or net.encoding != "poisson"):
            raise ValueError("the fused CUDA backend computes one neuron per class with Poisson spikes; use torch")
        self.backend, self.kernels = backend, fused_pass(backend)
        self.weight, self.spec = net.weight, net.spiking.spec()
        self.encoding = {"encoding": net.encoding} if backend == "numba" else {}  # a parameter of these kernels only
        self.active = self.kernels.active_pixels(images)

    @torch.no_grad()
    def firing_counts(self, index: Tensor, readout_steps: list[int], key: SpikeKey) -> tuple[Tensor, Tensor]:
        """Return what TorchEngine's does. Autocast rounds the weights, as it does in a linear layer."""
        device = self.weight.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        given = self.weight, self.active, index, readout_steps, key, self.spec, precision
        return self.kernels.firing_counts(*given, **self.encoding)

    def training_steps(self, labels: Tensor, training: Training) -> TrainingSteps:
        """Return the training steps of an epoch, with one-hot labels [N, 10] float32."""
        if self.backend == "numba":  # each imports its kernels
            from snn_mnist.network.compiled_steps import CompiledSteps

            return CompiledSteps(self.weight, self.active, labels, self.spec, training, **self.encoding)
        from snn_mnist.network.fused_steps import FusedSteps

        return FusedSteps(self.weight, self.active, labels, self.spec, training)


def fused_pass(backend: str) -> Any:
    """Return the module with the fused pass of a backend: cpu/fused.py or cuda/fused.py of kernels."""
    return importlib.import_module(f"snn_mnist.kernels.{'cpu' if backend == 'numba' else 'cuda'}.fused")


Engine = TorchEngine | FusedEngine


@dataclass(frozen=True)
class Runtime:
    """The device, backend and thread count of a run: resolved once from the flags, and printed."""

    device: torch.device
    backend: str
    reason: str  # why this backend
    threads: int
    neuron_backend: str = ""  # of the neurons in a network of the user's own, whose backend is torch

    @property
    def test_batch(self) -> int:
        """Images of a forward pass without gradient; the torch backend keeps their spikes as floats."""
        return 10_000 if self.backend != "torch" else 100 if self.neuron_backend else 500

    def engine(self, net: Any, images: Tensor) -> Engine:
        """Return the network with the images [N, 784] uint8 of a split on this backend; images are moved once."""
        if isinstance(net, OwnNetwork):
            net.use_kernels(self.neuron_backend)
        images = images.to(self.device)
        return TorchEngine(net, images) if self.backend == "torch" else FusedEngine(self.backend, net, images)

    def autocast(self, amp: bool) -> AbstractContextManager[Any]:
        """Return half precision with amp: float16 on CUDA, bfloat16 on the CPU."""
        return torch.autocast(self.device.type, enabled=amp)

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "the CPU"
        threads = "" if self.device.type == "cuda" else f", {environment.threads(self.threads)}"
        return f"backend {self.backend} on {name}{threads} ({self.reason})"


def choose_runtime(device_name: str, backend: str, threads: int, config: Config | None = None) -> Runtime:
    """Resolve `auto`; an explicit device or backend that can't be used is an error with the remedy.

    config: the settings of the network and its training, None for those that every backend computes.
    """
    device, config, neuron_backend = choose_device(device_name), config or Config(), ""
    if backend == "auto" and config.step_mode == "s":
        backend, reason = "torch", "the only one with step mode s"
    else:
        backend, reason = choose_backend(backend, device, config)
    if config.net is not None:
        backend, neuron_backend = "torch", backend
        reason = f"for -net; IF and LIF neurons on {neuron_backend}"
    if device.type == "cpu":  # the torch backend encodes by numba too
        from snn_mnist.kernels.cpu import jit

        terminal.show_log()
        threads = jit.set_threads(threads)
        if device_name == "auto" and environment.has_nvidia_driver() and (error := cuda.device_error()):
            reason = f"{reason}; no GPU is used: {error}"
    # Beside the fused CPU kernels torch computes small tensors only, and two thread pools would compete for the cores.
    torch.set_num_threads(1 if backend == "numba" else threads)
    return Runtime(device, backend, reason, threads, neuron_backend)


def choose_device(name: str) -> torch.device:
    """Return the device; 'auto' is the first GPU if torch can use one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"-device {name}: {cuda.device_error()}; use -device cpu")
        if device.index is not None:
            if device.index >= (count := torch.cuda.device_count()):
                raise UsageError(f"-device {name}: there are {count} CUDA devices; give cuda:0 to cuda:{count - 1}")
            torch.cuda.set_device(device)  # its streams and graphs are then those of torch's calls without a device
    return device


def choose_backend(name: str, device: torch.device, config: Config) -> tuple[str, str]:
    """Return (backend, why it was taken) for a name or 'auto': the device's fused backend, or torch if that can't be
    used. A UsageError for a name that can't be used; a SNNError if the device can't be used at all."""
    chosen, auto = FUSED[device.type] if name == "auto" else name, name == "auto"
    beyond, remedy = config.not_computed_by(chosen), "" if auto else "; use -backend torch"
    reason = f"its kernels do not compute {beyond}{remedy}" if beyond else why_refused(chosen, device)
    if reason and not auto:
        raise UsageError(f"backend {name!r} can't be used: {reason}")
    if reason:
        return "torch", f"{chosen} can't be used: {reason}"
    return chosen, f"the fused {'CPU' if device.type == 'cpu' else 'CUDA'} backend" if auto else "as requested"


def why_refused(name: str, device: str | torch.device) -> str | None:
    """Return None if this backend can run on this device, else the reason and the remedy; the CUDA kernels must pass
    their start-up check."""
    device = torch.device(device)
    if name == "torch":
        return None
    if reason := fused_pass(name).why_unavailable(device):
        return reason if FUSED[device.type] == name else f"{reason}; use -backend auto"
    if name == "numba":
        return None
    from snn_mnist.network import fused_steps

    terminal.say("checking the CUDA kernels, which are compiled once")
    return fused_steps.start_up_error(device)


def without_tiles() -> None:
    """Compute bfloat16 products by torch's own code.

    oneDNN uses AMX tiles, which some virtual machines advertise and can't run ("illegal instruction"), and a layer of
    784 x 10 gains nothing by them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about TF32 on Intel GPUs
        torch.backends.mkldnn.set_flags(False)
