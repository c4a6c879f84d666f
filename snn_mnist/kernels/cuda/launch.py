"""From CUDA source to launches: the text of a kernel, NVRTC through CuPy, torch's memory and stream, and why not.

    kernel = load(source("neuron.cu", REAL="float", …), "forward", device)
    kernel((blocks,), threads, (tensor, None, np.float32(0.5)))

A launch goes to torch's current stream, neither waits nor allocates, and so can be captured in a CUDA graph once the
kernel is loaded.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels.cache import writable
from snn_mnist.kernels.cuda.packages import install_cupy, install_pair, mismatch
from snn_mnist.kernels.formulas import FORMULAS, expression
from snn_mnist.kernels.neuron_spec import NeuronSpec, coefficients

# No contraction of a * b + c: where one rounding is meant the source says so, as on the CPU. Division, square root and
# functions are the exact ones. CuPy adds -ftz=true of its own accord: floats below 1.2e-38 count as 0.
OPTIONS = ("-std=c++17", "--fmad=false")
MAXIMUM_GRID = 2**31 - 1
compile_seconds: dict[str, float] = {}  # kernel name -> seconds spent compiling or loading it in this process

Argument = Tensor | np.generic | None
Kernel = Callable[..., None]  # kernel(grid, threads, arguments, shared_bytes=0)


# ---- text ----------------------------------------------------------------------------------------------------


def source(file: str, **macros: Any) -> str:
    """The text of a .cu file of this folder below `#define` lines, its header in place of the #include."""
    folder = Path(__file__).parent
    header, body = ((folder / name).read_text(encoding="utf-8") for name in ("snn.cuh", file))
    defined = "".join(f"#define {name} {int(v) if isinstance(v, bool) else v}\n" for name, v in macros.items())
    return defined + body.replace('#include "snn.cuh"\n', header.replace("#pragma once\n", ""), 1)


def gradient_macro(spec: NeuronSpec, dtype: str = "float32") -> dict[str, str]:
    """The surrogate's gradient as the macro GRADIENT(x), its parameters inlined."""
    return {"GRADIENT(x)": expression(FORMULAS[spec.surrogate].gradient, dict(spec.parameters), "c", dtype)}


def neuron_arguments(spec: NeuronSpec, real: type[np.floating] = np.float32) -> tuple[np.floating, ...]:
    """(decay, gain, offset, threshold, reset), as the kernels take them; the rest is compiled in."""
    return coefficients(spec, np.dtype(real).name)[:5]


def import_cupy() -> Any:
    """CuPy, or the error of its import.

    It keeps compiled kernels beside numba's, or where nothing can be kept in a folder that is removed at the end: its
    own default is in the home directory, and its import fails where that can't be written. The user's CUPY_CACHE_DIR
    stays.
    """
    if "cupy" not in sys.modules and "CUPY_CACHE_DIR" not in os.environ:
        kept = writable("cupy")
        if kept is None:
            kept = Path(tempfile.mkdtemp(prefix="snn_mnist-"))
            atexit.register(shutil.rmtree, kept, ignore_errors=True)
        os.environ["CUPY_CACHE_DIR"] = str(kept)
    return importlib.import_module("cupy")


# ---- launches ------------------------------------------------------------------------------------------------


def load(text: str, name: str, device: torch.device) -> Kernel:
    """The kernel `name` of this source, compiled for the device (CuPy keeps it on disk); or a RuntimeError."""
    return _load(text, name, device_index(device))


@functools.cache
def _load(text: str, name: str, index: int) -> Kernel:
    cupy = import_cupy()
    started = time.perf_counter()
    with cupy.cuda.Device(index):
        try:
            kernel = cupy.RawKernel(text, name, options=OPTIONS)
            kernel.compile()
        except Exception as error:  # NVRTC's log, or the driver's refusal of what it made
            raise RuntimeError(f"the CUDA kernel {name!r} can't be compiled: {one_line(error)}") from error
    compile_seconds[name] = compile_seconds.get(name, 0.0) + time.perf_counter() - started

    def launch(grid: Sequence[int], threads: int, arguments: Sequence[Argument], shared_bytes: int = 0) -> None:
        with cupy.cuda.Device(index), _stream(torch.cuda.current_stream(index).cuda_stream, index):
            try:
                if shared_bytes > kernel.max_dynamic_shared_size_bytes:
                    kernel.max_dynamic_shared_size_bytes = shared_bytes
                kernel(tuple(grid), (threads,), as_passed(arguments), shared_mem=shared_bytes)
            except (cupy.cuda.driver.CUDADriverError, cupy.cuda.runtime.CUDARuntimeError) as error:
                raise RuntimeError(f"the CUDA kernel {name!r} can't be launched: {one_line(error)}") from error

    return launch


def as_passed(arguments: Sequence[Argument]) -> tuple[np.generic, ...]:
    """Each argument as the scalar that goes by value to the kernel: a tensor as its address, None as 0."""
    return tuple(
        np.uint64(0 if a is None else a.data_ptr()) if a is None or isinstance(a, Tensor) else a for a in arguments
    )


class _TorchStream:
    """A stream that torch owns, in the form CuPy 14 takes."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


@functools.lru_cache(maxsize=64)
def _stream(address: int, index: int) -> Any:
    cupy = import_cupy()
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_TorchStream(address))
    return cupy.cuda.ExternalStream(address, index)


def device_index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


@functools.cache
def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a block may ask for."""
    cupy = import_cupy()
    return int(cupy.cuda.Device(device_index(device)).attributes["MaxSharedMemoryPerBlockOptin"])


# ---- why not -------------------------------------------------------------------------------------------------


def why_unavailable(device: str | torch.device | None = None) -> str | None:
    """None, or why no kernel can run on this device (None: on any), with the original error and the remedy."""
    if device is not None and torch.device(device).type != "cuda":
        missing = _missing()
        here = f" (and there is none here: {missing})" if missing else ""
        return f"cupy's kernels run on a CUDA device, not on {device}{here}"
    return _missing()


@functools.cache
def _missing() -> str | None:
    """What of driver, device, CuPy and NVRTC is missing on this machine; CuPy only once torch can use a device."""
    return device_error() or _cupy_fault()


def device_error() -> str | None:
    """None when torch can use a CUDA device, else why not, in its own words."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA (a build with it: https://pytorch.org/get-started/locally)"
    try:
        torch.cuda.init()
        count = torch.cuda.device_count()
    except (RuntimeError, AssertionError) as error:  # no driver, or one too old for torch
        older = f"; or {install_pair(12)}" if "found version 12" in str(error) else ""
        return f"torch {torch.__version__} can't use a CUDA device: {one_line(error)}{older}"
    return None if count else f"torch {torch.__version__} sees no CUDA device"


def _cupy_fault() -> str | None:
    try:
        cupy = import_cupy()
    except Exception as error:  # a broken installation can raise anything
        missing = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
        what = "is not installed" if missing else "can't be imported"
        return f"CuPy {what} ({type(error).__name__}: {one_line(error)}); {install_cupy(torch.version.cuda)}"
    name = f"CuPy {cupy.__version__}"
    runtime = cupy.cuda.runtime
    try:
        built, driver = runtime.runtimeGetVersion(), runtime.driverGetVersion()
    except Exception as error:
        return f"{name} can't reach the CUDA runtime ({one_line(error)}); {install_cupy(torch.version.cuda)}"
    name += f" for CUDA {built // 1000}"
    mismatched = mismatch(torch.version.cuda, built // 1000)
    remedy = mismatched or install_cupy(torch.version.cuda)
    if not driver:
        return None  # no driver: told by torch
    if driver // 1000 < built // 1000:
        knows = f"the driver knows CUDA up to {driver // 1000}.{driver % 1000 // 10}"
        return f"{name} needs a newer driver: {knows}; update it" + (f", or: {mismatched}" if mismatched else "")
    try:
        runtime.getDeviceCount()
    except Exception as error:
        return f"{name} can't use a device ({one_line(error)}); {remedy}"
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        package = "nvidia-cuda-nvrtc" if built >= 13000 else "nvidia-cuda-nvrtc-cu12"
        return f"{name} finds no NVRTC, its compiler ({one_line(error)}); {mismatched or f'pip install {package}'}"
    return None


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """The message of an error in one line."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= limit else text[:limit] + " …"
