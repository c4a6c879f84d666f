"""A description of this machine and this process: processor, GPU, versions; environment.json of a run."""

from __future__ import annotations

import contextlib
import json
import platform
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from snn_mnist import __version__
from snn_mnist.settings.config import cores
from snn_mnist.storage.atomic_files import write_file

PACKAGES = ("torch", "torchvision", "numba", "numpy", "tensorboard", "tqdm", "pyyaml", "matplotlib", "pillow")
OPTIONAL = ("cupy-cuda13x", "cupy-cuda12x", "nir", "optuna")


def note_environment(path: Path, runtime: str, resumed: str | None) -> None:
    """Write environment.json: the process that began the run, and under 'resumed' those that continued it."""
    import torch

    process: dict[str, Any] = {
        "command": shlex.join([Path(sys.executable).name, "-m", "snn_mnist", *sys.argv[1:]]),
        **({"resumed_from": str(Path(resumed).resolve())} if resumed else {}),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "place": runtime,
        "machine": machine(),
        **({"gpu": gpu(torch.cuda.current_device())} if torch.cuda.is_initialized() else {}),
        "versions": {"snn_mnist": __version__, "python": platform.python_version(), **versions()},
    }
    with contextlib.suppress(OSError, ValueError):  # not there yet, or cut off by a full disk
        first = json.loads(path.read_text(encoding="utf-8"))
        process = {**first, "resumed": [*first.get("resumed", []), process]}
    write_file(path, json.dumps(process, indent=2))


def versions() -> dict[str, str]:
    """Return the installed version of each package, read from its metadata: an import could fail, and takes seconds."""
    import importlib.metadata  # takes as long as all else that --help imports

    found = {}
    for name in (*PACKAGES, *OPTIONAL):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def machine() -> str:
    """Return 'AMD EPYC 9B14, 2 cores, Linux-6.1.0-x86_64-with-glibc2.36': processor, usable cores, system."""
    return f"{processor()}, {cores()} cores, {platform.platform()}"


def processor() -> str:
    """Return the processor's model; platform.processor() is empty on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpu(index: int = 0) -> str:
    """Return 'NVIDIA H200 (sm_90, 140 GiB), driver 580.95.05, torch's CUDA 13.2'."""
    import torch

    about = torch.cuda.get_device_properties(index)
    text = f"{about.name} (sm_{about.major}{about.minor}, {about.total_memory / 2**30:.0f} GiB)"
    with contextlib.suppress(OSError, IndexError):
        text += ", driver " + Path("/sys/module/nvidia/version").read_text(encoding="utf-8").split()[0]
    return f"{text}, torch's CUDA {torch.version.cuda}"


def describe(device: Any) -> str:
    """Return the name of a torch device, with the versions of this program and torch."""
    name = gpu(device.index or 0) if device.type == "cuda" else processor()
    return f"{name}, snn_mnist {__version__}, torch {versions()['torch']}"


def has_nvidia_driver() -> bool:
    """Return whether NVIDIA's driver is installed, even where torch can't use it: then there is most likely a GPU."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
