"""CUDA kernels through CuPy: whether they can run here and if not why, their source, compilation and launch.

A launch goes to torch's current stream. It neither waits nor allocates, so it can be captured in a CUDA graph once
the kernel is loaded.
"""

from __future__ import annotations

import functools
import importlib
import os
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels import compile_seconds, writable
from snn_mnist.kernels.formulas import FORMULAS, expression
from snn_mnist.kernels.neuron import NeuronSpec

# No contraction of a * b + c: the source writes fma where it wants one rounding, as on the CPU. Division, square root
# and functions are the exact ones. CuPy itself adds -ftz=true: floats below 1.2e-38 count as 0.
OPTIONS = ("-std=c++17", "--fmad=false")

Argument = Tensor | np.generic | None
Kernel = Callable[..., None]  # kernel(grid, threads, arguments, shared_bytes=0)


# ---- what is available ---------------------------------------------------------------------------------------------


def why_unavailable(device: str | torch.device | None = None) -> str | None:
    """Return None, or why no kernel can run on this device (None: on any), with the original error and the remedy."""
    if device is not None and torch.device(device).type != "cuda":
        return f"cupy's kernels run on a CUDA device, not on {device}"
    return what_is_missing()


@functools.cache
def what_is_missing() -> str | None:
    """Return which of driver, device, CuPy and its compiler fails; CuPy is imported only if torch can use a device."""
    if missing := device_error():
        return missing
    remedy = f"pip install cupy-cuda{torch_release()}x"
    try:
        runtime = import_cupy().cuda.runtime
        if (release := runtime.runtimeGetVersion() // 1000) != torch_release():
            remedy = f"it is built for CUDA {release}: pip uninstall cupy-cuda{release}x, then {remedy}"
        runtime.getDeviceCount()
        import_cupy().cuda.nvrtc.getVersion()
    except Exception as error:  # a broken installation can raise anything
        return f"CuPy can't be used ({type(error).__name__}: {one_line(error)}); {remedy}"
    return None


def device_error() -> str | None:
    """Return None if torch can use a CUDA device, else torch's own message."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA (a build with it: https://pytorch.org/get-started/locally)"
    try:
        torch.cuda.init()
        return None if torch.cuda.device_count() else f"torch {torch.__version__} sees no CUDA device"
    except (RuntimeError, AssertionError) as error:  # no driver, or one too old for torch
        return f"torch {torch.__version__} can't use a CUDA device: {one_line(error)}"


def torch_release() -> int:
    """Return the CUDA release that torch is built for, 12 or 13."""
    return int((torch.version.cuda or "13").split(".")[0])


def import_cupy() -> Any:
    """Import CuPy with its cache beside numba's, or in a temporary folder: without one the import would fail."""
    if "CUPY_CACHE_DIR" not in os.environ:
        os.environ["CUPY_CACHE_DIR"] = str(writable("cupy") or tempfile.mkdtemp(prefix="snn_mnist-"))
    return importlib.import_module("cupy")


def one_line(error: BaseException | str) -> str:
    """Return an error's message on one line."""
    return textwrap.shorten(str(error).strip().rstrip("."), 300, placeholder=" …")


# ---- source ----------------------------------------------------------------------------------------------------


@functools.cache
def source(file: str, **macros: Any) -> str:
    """Return the text of a .cu file of this folder below `#define` lines, its header in place of the #include."""
    folder = Path(__file__).parent
    header, body = ((folder / name).read_text(encoding="utf-8") for name in ("snn.cuh", file))
    defined = "".join(f"#define {name} {int(v) if isinstance(v, bool) else v}\n" for name, v in macros.items())
    return defined + body.replace('#include "snn.cuh"\n', header.replace("#pragma once\n", ""), 1)


def gradient_macro(spec: NeuronSpec, dtype: str = "float32") -> dict[str, str]:
    """Return the surrogate's gradient as the macro GRADIENT(x), its parameters inlined."""
    return {"GRADIENT(x)": expression(FORMULAS[spec.surrogate].gradient, dict(spec.parameters), "c", dtype)}


# ---- launches ------------------------------------------------------------------------------------------------


@functools.cache
def load(text: str, name: str, device: torch.device) -> Kernel:
    """Return the kernel `name` of this source, compiled for the device (CuPy keeps it on disk); or a RuntimeError."""
    cupy, index, started = import_cupy(), device.index, time.perf_counter()
    with cupy.cuda.Device(index):
        try:
            kernel = cupy.RawKernel(text, name, options=OPTIONS)
            kernel.compile()
        except Exception as error:  # NVRTC's log, or the driver's refusal of what it made
            raise RuntimeError(f"the CUDA kernel {name!r} can't be compiled: {one_line(error)}") from error
    compile_seconds[name] = compile_seconds.get(name, 0.0) + time.perf_counter() - started

    def launch(grid: Sequence[int], threads: int, arguments: Sequence[Argument], shared_bytes: int = 0) -> None:
        with cupy.cuda.Device(index), _stream(torch.cuda.current_stream(index).cuda_stream, index):
            if shared_bytes > kernel.max_dynamic_shared_size_bytes:
                kernel.max_dynamic_shared_size_bytes = shared_bytes
            kernel(tuple(grid), (threads,), as_passed(arguments), shared_mem=shared_bytes)

    return launch


def as_passed(arguments: Sequence[Argument]) -> tuple[np.generic, ...]:
    """Return the scalar that is passed to the kernel for each argument: a tensor's address, 0 for None."""
    return tuple(
        np.uint64(0 if a is None else a.data_ptr()) if a is None or isinstance(a, Tensor) else a for a in arguments
    )


class _TorchStream(NamedTuple):
    """A stream that torch owns, in the form that CuPy 14 accepts."""

    address: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


@functools.lru_cache(maxsize=64)
def _stream(address: int, index: int) -> Any:
    cupy = import_cupy()
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_TorchStream(address))
    return cupy.cuda.ExternalStream(address, index)


@functools.cache
def shared_limit(device: torch.device) -> int:
    """Return the bytes of shared memory that a block may request."""
    return int(import_cupy().cuda.Device(device.index).attributes["MaxSharedMemoryPerBlockOptin"])
