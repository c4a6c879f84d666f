"""Verb `info`: what this machine offers, and why something is missing.

    python -m snn_mnist info [-json FILE]

An error in one part is reported, not raised: people run this verb when nothing else works.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snn_mnist import __version__
from snn_mnist.cli.shared import json_option, publish
from snn_mnist.errors import SNNError
from snn_mnist.kernels import BACKENDS
from snn_mnist.settings.config import cores, train_option
from snn_mnist.settings.options import Options
from snn_mnist.storage import environment
from snn_mnist.terminal import wrapped


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    """Settings of `info`."""

    data_dir: str = train_option("data_dir", help="where to look for the data, as MNIST/raw/… and FashionMNIST/raw/…")
    json: str | None = json_option()


def run(options: InfoOptions) -> None:
    missing = {name: f"missing; pip install {name}" for name in environment.PACKAGES}
    missing |= {name: f"optional; pip install {name}" for name in environment.OPTIONAL}
    found = {
        "version": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "machine": environment.machine(),
        "packages": missing | environment.versions(),
        "devices": guarded(devices),
        "backends": {name: guarded(backend, name) for name in BACKENDS},
        "data directory": os.path.abspath(options.data_dir),
        "data": {name: guarded(data_set, name, options.data_dir) for name in ("mnist", "fashion")},
    }
    lines = []
    for name, value in found.items():
        rows = value if isinstance(value, dict) else {}
        lines.append(f"{name}:" if rows else wrapped(f"{name}: {value}"))
        lines += [wrapped(f"  {key:12}  {item}", indent=" " * 16) for key, item in rows.items()]
    publish(options.json, found, "\n".join(lines))


def devices() -> dict[str, str]:
    import torch

    from snn_mnist.kernels.cuda.launch import device_error

    gpus = {f"cuda:{i}": environment.gpu(i) for i in range(torch.cuda.device_count())}
    error = device_error()
    return {"cpu": f"{cores()} cores"} | ({"cuda": error} if error else gpus)


def backend(name: str) -> str:
    """Return 'available' or the reason why not, on its kind of device."""
    from snn_mnist.network.engine import why_refused

    kind = "cuda" if name == "cupy" else "cpu"
    return why_refused(name, kind) or f"available on {kind}"


def data_set(name: str, data_dir: str) -> str:
    """Return that the files of a data set are whole, or what is missing or damaged."""
    from snn_mnist.data.datasets import load_dataset

    load_dataset(name, data_dir, download=False)
    return "complete, md5 as published"


def guarded(part: Callable[..., Any], *arguments: Any) -> Any:
    """Call a part; return the error in one line instead, such as that of a torch that can't be imported."""
    try:
        return part(*arguments)
    except Exception as error:
        kind = "" if isinstance(error, SNNError) else f"broken: {type(error).__name__}: "
        return f"{kind}{' '.join(str(error).split())}"
