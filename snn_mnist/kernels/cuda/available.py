"""Whether CUDA kernels can run here, and if not, why: the original error and the line that installs what is missing."""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from snn_mnist.kernels.cache import writable


def why_unavailable(device: str | torch.device | None = None) -> str | None:
    """Return None, or why no kernel can run on this device (None: on any), with the original error and the remedy."""
    if device is not None and torch.device(device).type != "cuda":
        return f"cupy's kernels run on a CUDA device, not on {device}"
    return what_is_missing()


@functools.cache
def what_is_missing() -> str | None:
    """Return what of driver, device, CuPy and its compiler fails; CuPy is imported only if torch can use a device."""
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
    """Return None when torch can use a CUDA device, else why not, in its own words."""
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
    """Import CuPy, its kernels kept beside numba's: it can't be imported where its cache can't be written, and the
    default is in the home directory. A CUPY_CACHE_DIR that is set stays."""
    if "CUPY_CACHE_DIR" not in os.environ:
        if (folder := writable("cupy")) is None:
            folder = Path(tempfile.mkdtemp(prefix="snn_mnist-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["CUPY_CACHE_DIR"] = str(folder)
    return importlib.import_module("cupy")


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """Return the message of an error in one line."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= limit else text[:limit] + " …"
