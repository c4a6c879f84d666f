"""Where the work is done: device, threads and backend, chosen once and said aloud."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.kernels import backends
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.model.engine import ENGINES, Engine
from snn_mnist.model.network import SNN
from snn_mnist.runs import environment


@dataclass(frozen=True)
class Runtime:
    device: torch.device
    backend: str
    reason: str  # why this backend
    threads: int

    @property
    def test_batch(self) -> int:
        """Images of a forward pass without gradient: the torch backend keeps its spikes as floats."""
        return 500 if self.backend == "torch" else 10_000

    def engine(self, net: SNN, images: Tensor) -> Engine:
        """The network and the images [N, 784] of a split on this backend; images are moved once."""
        return ENGINES[self.backend](net, images.to(self.device))

    def autocast(self, amp: bool) -> AbstractContextManager[Any]:
        """Half precision with amp: float16 on CUDA, bfloat16 on the CPU."""
        return torch.autocast(self.device.type) if amp else nullcontext()

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "the CPU"
        threads = "" if self.device.type == "cuda" else f", {environment.threads(self.threads)}"
        return f"backend {self.backend} on {name}{threads} ({self.reason})"


def choose_runtime(device_name: str, backend: str, threads: int, step_mode: str = "m") -> Runtime:
    """Resolves `auto`; an explicit device or backend that can't be used is an error with the remedy."""
    device = choose_device(device_name)
    if backend == "auto" and step_mode == "s":
        backend, reason = "torch", "the one that goes step by step"
    else:
        try:
            backend, reason = backends.choose(backend, device)
        except ValueError as error:
            raise UsageError(str(error)) from error
        except RuntimeError as error:  # the device is lost
            raise SNNError(str(error)) from error
    if device.type == "cpu":  # the torch backend encodes by numba too
        from snn_mnist.kernels.cpu import jit

        jit.announce_to_stderr()
        threads = jit.set_threads(threads)
        if device_name == "auto" and environment.has_nvidia_driver() and (why := cuda.device_error()):
            reason = f"{reason}; no GPU is used, for {why}"
    # Beside the fused kernel torch has only small tensors left to do, and two pools would fight for the cores.
    torch.set_num_threads(1 if backend == "numba" else threads)
    return Runtime(device, backend, reason, threads)


def without_tiles() -> None:
    """bfloat16 products by torch's own code: oneDNN takes AMX tiles, which some virtual machines advertise and can't
    run ("illegal instruction"), and a layer of 784 x 10 gains nothing by them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TF32 on Intel GPUs
        torch.backends.mkldnn.set_flags(False)


def choose_device(name: str) -> torch.device:
    """'auto' takes the first GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"-device {name}: {cuda.device_error()}; use -device cpu")
        count = torch.cuda.device_count()
        if device.index is not None and device.index >= count:
            raise UsageError(f"-device {name}: there are {count} CUDA devices; give cuda:0 to cuda:{count - 1}")
        if device.index is not None:
            torch.cuda.set_device(device)  # its streams and graphs are then those of torch's calls without a device
    return device
