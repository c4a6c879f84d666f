"""A description of this machine and this process: processor, GPU with driver, versions; environment.json of a run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_mnist import __version__
from snn_mnist.settings.config import cores
from snn_mnist.storage.atomic_files import write_file

if TYPE_CHECKING:
    import torch


def note_environment(path: Path, runtime: str) -> None:
    """environment.json: the process that began the run, and under 'resumed' those that continued it."""
    start = environment(runtime)
    try:
        first = json.loads(path.read_text(encoding="utf-8"))
        first["resumed"] = [*first.get("resumed", []), start]
    except (OSError, ValueError, TypeError, AttributeError):  # not there yet, or damaged
        first = start
    write_file(path, json.dumps(first, indent=2))


def environment(runtime: str) -> dict[str, Any]:
    """Command, machine and versions of this process; runtime: its backend and device, as printed."""
    import numba
    import numpy
    import torch

    return {
        "command": shlex.join([Path(sys.executable).name, "-m", "snn_mnist", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "place": runtime,
        "machine": machine(),
        **({"gpu": gpu(torch.cuda.current_device())} if torch.cuda.is_initialized() else {}),
        "versions": {
            "snn_mnist": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numba": numba.__version__,
            "numpy": numpy.__version__,
        },
    }


def machine() -> str:
    """'AMD EPYC 9B14, 2 cores, Linux-6.1.0-x86_64-with-glibc2.36': processor, cores for this process, system."""
    return f"{processor()}, {cores()} cores, {platform.platform()}"


def describe(device: torch.device) -> str:
    """The name of a torch device, with the versions of this program and torch."""
    import torch

    name = gpu(device.index or 0) if device.type == "cuda" else processor()
    return f"{name}, snn_mnist {__version__}, torch {torch.__version__}"


def processor() -> str:
    """The processor's model; platform.processor() is empty on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "processor unknown"


def threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def gpu(index: int = 0) -> str:
    """'NVIDIA H200 (sm_90, 140 GiB), driver 580.95.05 for CUDA 13.0, torch's CUDA 13.2, CuPy 14.2.0'."""
    import torch

    about = torch.cuda.get_device_properties(index)
    parts = [
        f"{about.name} (sm_{about.major}{about.minor}, {about.total_memory / 2**30:.0f} GiB)",
        driver(),
        f"torch's CUDA {torch.version.cuda}",
    ]
    if version := cupy_version():
        parts.append(f"CuPy {version}")
    return ", ".join(parts)


def has_nvidia_driver() -> bool:
    """Whether NVIDIA's driver is installed, even where torch can't use it: then there is most likely a GPU too."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def driver() -> str:
    """'driver 580.95.05 for CUDA 13.0': its version (on Linux) and the newest CUDA that it supports."""
    import torch

    module = ""
    with contextlib.suppress(OSError):
        found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", Path("/proc/driver/nvidia/version").read_text(encoding="utf-8"))
        module = f" {found[0]}" if found else ""
    with contextlib.suppress(Exception):  # torch built without CUDA, or without this function
        newest = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
        module += f" for CUDA {newest // 1000}.{newest % 1000 // 10}"
    return f"driver{module or ' unknown'}"


def cupy_version() -> str | None:
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None
