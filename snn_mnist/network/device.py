"""Choosing the device, backend and threads of a run."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snn_mnist import terminal
from snn_mnist.errors import UsageError
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.network.engine import Engine, fused_pass, make_engine
from snn_mnist.network.own import OwnNetwork
from snn_mnist.settings.config import Config
from snn_mnist.storage import environment

FUSED = {"cpu": "numba", "cuda": "cupy"}  # type of a device -> its fused backend


@dataclass(frozen=True)
class Runtime:
    """The device, backend and thread count of a run: resolved once from the flags, and printed."""

    device: torch.device
    backend: str
    reason: str  # why this backend
    threads: int
    neurons: str = ""  # backend of the neurons in a network of the user's own, whose backend is torch

    @property
    def test_batch(self) -> int:
        """Images of a forward pass without gradient; the torch backend keeps their spikes as floats."""
        return 10_000 if self.backend != "torch" else 100 if self.neurons else 500

    def engine(self, net: Any, images: Tensor) -> Engine:
        """Return the network with the images [N, 784] of a split on this backend; images are moved once."""
        if isinstance(net, OwnNetwork):
            net.use_kernels(self.neurons)
        return make_engine(self.backend, net, images.to(self.device))

    def autocast(self, amp: bool) -> AbstractContextManager[Any]:
        """Return half precision with amp: float16 on CUDA, bfloat16 on the CPU."""
        return torch.autocast(self.device.type) if amp else nullcontext()

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "the CPU"
        threads = "" if self.device.type == "cuda" else f", {environment.threads(self.threads)}"
        return f"backend {self.backend} on {name}{threads} ({self.reason})"


def choose_runtime(device_name: str, backend: str, threads: int, config: Config | None = None) -> Runtime:
    """Resolve `auto`; an explicit device or backend that can't be used is an error with the remedy.

    config: the settings of the network and its training, None for those that every backend computes.
    """
    device, config, neurons = choose_device(device_name), config or Config(), ""
    if backend == "auto" and config.step_mode == "s":
        backend, reason = "torch", "the only one with step mode s"
    else:
        backend, reason = choose_backend(backend, device, config)
    if config.net is not None:
        backend, neurons = "torch", backend
        reason = f"for -net; IF and LIF neurons on {neurons}"
    if device.type == "cpu":  # the torch backend encodes by numba too
        from snn_mnist.kernels.cpu import jit

        terminal.show_log()
        threads = jit.set_threads(threads)
        if device_name == "auto" and environment.has_nvidia_driver() and (error := cuda.device_error()):
            reason = f"{reason}; no GPU is used: {error}"
    # Beside the fused CPU kernels torch computes small tensors only, and two thread pools would compete for the cores.
    torch.set_num_threads(1 if backend == "numba" else threads)
    return Runtime(device, backend, reason, threads, neurons)


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
    if beyond := config.beyond(chosen):
        reason: str | None = f"its kernels do not compute {beyond}" + ("" if auto else "; use -backend torch")
    else:
        reason = why_refused(chosen, device)
    if not auto:
        if reason:
            raise UsageError(f"backend {name!r} can't be used: {reason}")
        return name, "as requested"
    if reason:
        return "torch", f"{chosen} can't be used: {reason}"
    return chosen, f"the fused {'CPU' if device.type == 'cpu' else 'CUDA'} backend"


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
