"""Whether CUDA kernels can run here, and if not, why: torch's device, CuPy, the driver, NVRTC."""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from snn_mnist.kernels.cache import writable
from snn_mnist.kernels.cuda.packages import install_cupy, install_pair, mismatch


def why_unavailable(device: str | torch.device | None = None) -> str | None:
    """None, or why no kernel can run on this device (None: on any), with the original error and the remedy."""
    if device is not None and torch.device(device).type != "cuda":
        missing = what_is_missing()
        here = f" (and there is none here: {missing})" if missing else ""
        return f"cupy's kernels run on a CUDA device, not on {device}{here}"
    return what_is_missing()


@functools.cache
def what_is_missing() -> str | None:
    """What of driver, device, CuPy and NVRTC is missing on this machine; CuPy only once torch can use a device."""
    return device_error() or _cupy_error()


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


def _cupy_error() -> str | None:
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


def import_cupy() -> Any:
    """CuPy, or the error of its import.

    CuPy can't be imported where its cache of kernels can't be written, and the default is in the home directory. So the
    cache lies beside numba's, or in a temporary folder if nothing can be kept; a CUPY_CACHE_DIR that is set stays.
    """
    if "cupy" not in sys.modules and "CUPY_CACHE_DIR" not in os.environ:
        kept = writable("cupy")
        if kept is None:
            kept = Path(tempfile.mkdtemp(prefix="snn_mnist-"))
            atexit.register(shutil.rmtree, kept, ignore_errors=True)
        os.environ["CUPY_CACHE_DIR"] = str(kept)
    return importlib.import_module("cupy")


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """The message of an error in one line."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= limit else text[:limit] + " …"
