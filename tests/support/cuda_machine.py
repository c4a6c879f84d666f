"""Machines with a GPU and some CuPy or none, made up for tests."""

import functools
import sys
from types import SimpleNamespace

import torch

from snn_mnist.kernels.cuda import launch as cuda


class CUDARuntimeError(RuntimeError):
    pass


def raising(error):
    def call(*_, **__):
        raise error

    return call


def cupy_with(built=13020, device_error=None, nvrtc_error=None):
    """A CuPy of this CUDA version, on this driver, with these errors."""
    count, version = (raising(error) if error else lambda: 1 for error in (device_error, nvrtc_error))
    runtime = SimpleNamespace(runtimeGetVersion=lambda: built, getDeviceCount=count)
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime, nvrtc=SimpleNamespace(getVersion=version)))


def pretend_machine(monkeypatch, cupy, torch_cuda="13.2", torch_error=None):
    """A GPU that torch can use, unless there is an error, and this CuPy (None: not installed)."""
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(torch.cuda, "init", raising(torch_error) if torch_error else lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setitem(sys.modules, "cupy", cupy)  # None makes the import fail
    monkeypatch.setattr(cuda, "what_is_missing", functools.cache(cuda.what_is_missing.__wrapped__))
