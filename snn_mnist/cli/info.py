"""Verb `info`: what this machine offers, and why something is missing.

    python -m snn_mnist info [-json FILE]

An error in one part is reported, not raised: people run this verb when nothing else works.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_mnist import __version__
from snn_mnist.cli.results import write_json
from snn_mnist.cli.shared_options import json_option
from snn_mnist.errors import SNNError
from snn_mnist.kernels.cuda.packages import mismatch
from snn_mnist.settings.config import cores, train_option
from snn_mnist.settings.options import Options
from snn_mnist.storage import environment
from snn_mnist.terminal import fit

REQUIRED = (
    "torch",
    "torchvision",
    "numba",
    "numpy",
    "tensorboard",
    "tqdm",
    "pyyaml",
    "matplotlib",
    "pillow",
)
OPTIONAL = ("cupy-cuda13x", "cupy-cuda12x", "nir", "optuna", "scipy")


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    """Settings of `info`."""

    data_dir: str = train_option("data_dir", help="where to look for the data, as MNIST/raw/… and FashionMNIST/raw/…")
    json: str | None = json_option()


def run(options: InfoOptions) -> int:
    found = collect(options.data_dir)
    if options.json != "-":
        print(as_text(found))
    if options.json:
        write_json(options.json, found)
    return 0


def collect(data_dir: str) -> dict[str, Any]:
    """Everything, as plain types."""
    from snn_mnist.data import idx

    return {
        "version": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "machine": environment.machine(),
        "packages": packages(),
        "devices": _guarded(devices),
        "backends": _guarded(backends),
        "data_dir": os.path.abspath(data_dir),
        "data": {name: data_files(name, data_dir) for name in idx.FILE_SETS},
        "kernel_cache": _guarded(kernel_cache),
    }


def packages() -> dict[str, str]:
    """Versions of what is installed; the install line of what is not."""
    found = {name: _version(name) or f"missing; pip install {name}" for name in REQUIRED}
    installed = {name: version for name in OPTIONAL if (version := _version(name))}
    absent = {name: f"not installed (optional: pip install {name})" for name in OPTIONAL}
    cupys = [name for name in installed if name.startswith("cupy-")]
    if len(cupys) > 1:
        remedy = f"pip uninstall {' '.join(cupys)}, then install the one that fits"
        installed |= {name: f"{installed[name]}; two CuPys disturb each other: {remedy}" for name in cupys}
    elif cupys:
        with contextlib.suppress(Exception):  # a torch that does not import is reported with the devices
            installed[cupys[0]] += _beside_torch(cupys[0])
        absent |= {
            name: f"another CuPy than {cupys[0]}, which is installed" for name in OPTIONAL if name.startswith("cupy-")
        }
    return found | {name: installed.get(name, absent[name]) for name in OPTIONAL}


def _beside_torch(cupy: str) -> str:
    import torch

    other = mismatch(torch.version.cuda, int(cupy.removeprefix("cupy-cuda").removesuffix("x")))
    return f"; {other}" if other else ""


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def devices() -> dict[str, str]:
    import torch

    listed = {"cpu": f"{cores()} cores"}
    for i in range(torch.cuda.device_count()):
        listed[f"cuda:{i}"] = environment.gpu(i)
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        listed["cuda"] = f"not available to torch {torch.__version__} ({built})"
    return listed


def backends() -> dict[str, dict[str, str]]:
    """For each backend and each kind of device, 'available' or the reason why not."""
    import torch

    from snn_mnist.kernels.backends import BACKENDS
    from snn_mnist.network.device import why_refused

    def state(name: str, kind: str) -> str:
        try:
            return why_refused(name, kind) or "available"
        except SNNError as error:  # the device is lost: the other backends are still reported
            return str(error)

    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    listed = {name: {kind: state(name, kind) for kind in kinds} for name in BACKENDS}
    if "cuda" not in kinds:
        listed |= {name: {"cuda": state(name, "cuda")} for name, each in BACKENDS.items() if each.device == "cuda"}
    return listed


def data_files(name: str, data_dir: str) -> dict[str, str]:
    """Each file of a data set with its state: 'ok', the damage, or 'missing'."""
    from snn_mnist.data import idx

    raw = idx.raw_directory(name, data_dir)
    states = {}
    for file, md5 in idx.FILE_SETS[name].md5.items():
        path = idx.find(file, raw)
        if path is None:
            states[str(raw / file)] = "missing"
            continue
        try:
            idx.read(path, md5)
            states[str(path)] = "ok, md5 as published"
        except SNNError as error:
            states[str(path)] = str(error).removeprefix(f"{path} ").removeprefix(f"{path}: ")
    return states


def kernel_cache() -> str:
    from snn_mnist.kernels.cache import cache_directory

    folder = cache_directory()
    if folder is None:
        return "not writable: kernels are compiled anew in each process (SNN_MNIST_CACHE names another place)"
    kept = folder.parent  # CuPy's kernels lie there too
    size = sum(file.stat().st_size for file in kept.rglob("*") if file.is_file())
    return f"{kept} ({size / 1e6:.1f} MB)"


def _guarded(part: Callable[[], Any]) -> Any:
    try:
        return part()
    except Exception as error:  # such as a torch that can't be imported, which is to be reported
        lines = str(error).strip().splitlines() or [""]
        return f"broken: {type(error).__name__}: {lines[0]}"


def as_text(found: dict[str, Any]) -> str:
    inner = {"backends": _backend_line, "data": _data_line}
    lines = []
    for name, value in found.items():
        if not isinstance(value, dict):
            lines.append(fit(f"{name.replace('_', ' ')}: {value}"))
            continue
        lines.append(f"{name}:")
        width = max(map(len, value))
        line = inner.get(name, str)
        lines += [fit(f"  {key:{width}}  {line(item)}", indent=" " * (width + 4)) for key, item in value.items()]
    return "\n".join(lines)


def _backend_line(states: dict[str, str]) -> str:
    parts = [f"{state} on {kind}" if state == "available" else state for kind, state in states.items()]
    return "; ".join(parts)


def _data_line(states: dict[str, str]) -> str:
    """One line for the four files when they are in the same state, else the missing and damaged ones."""
    if len(set(states.values())) == 1:
        path, state = next(iter(states.items()))
        folder = Path(path).parent
        if state == "missing":
            return f"missing: {len(states)} files expected in {folder}"
        return f"{state} ({len(states)} files in {folder})"
    return "; ".join(f"{path}: {state}" for path, state in states.items() if not state.startswith("ok"))
