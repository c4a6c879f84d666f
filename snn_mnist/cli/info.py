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
from snn_mnist.cli.results import write_json
from snn_mnist.cli.shared_options import json_option
from snn_mnist.errors import SNNError
from snn_mnist.settings.config import cores, train_option
from snn_mnist.settings.options import Options
from snn_mnist.storage import environment
from snn_mnist.terminal import fit


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    """Settings of `info`."""

    data_dir: str = train_option("data_dir", help="where to look for the data, as MNIST/raw/… and FashionMNIST/raw/…")
    json: str | None = json_option()


def run(options: InfoOptions) -> None:
    from snn_mnist.data import datasets

    def data_files(name: str) -> dict[str, str]:
        return {file: file_state(name, file) for file in datasets.MD5[name]}

    def file_state(name: str, file: str) -> str:
        raw = datasets.raw_directory(name, options.data_dir)
        path = datasets.find_file(file, raw)
        if path is None:
            return f"missing in {raw}"
        try:
            datasets.read(path, datasets.MD5[name][file])
            return "ok, md5 as published"
        except SNNError as error:
            return str(error)

    found = {
        "version": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "machine": environment.machine(),
        "packages": packages(),
        "devices": guarded(devices),
        "backends": guarded(backends),
        "data directory": os.path.abspath(options.data_dir),
        **{name: data_files(name) for name in datasets.MD5},
        "kernel cache": guarded(kernel_cache),
    }
    if options.json != "-":
        print(as_text(found))
    if options.json:
        write_json(options.json, found)


def packages() -> dict[str, str]:
    """Return the version of each package, or the line that installs it."""
    installed = environment.versions()
    required = {name: installed.get(name, f"missing; pip install {name}") for name in environment.PACKAGES}
    return required | {name: installed.get(name, f"optional; pip install {name}") for name in environment.OPTIONAL}


def devices() -> dict[str, str]:
    import torch

    from snn_mnist.kernels.cuda.available import device_error

    listed = {"cpu": f"{cores()} cores"}
    if error := device_error():
        return listed | {"cuda": error}
    return listed | {f"cuda:{i}": environment.gpu(i) for i in range(torch.cuda.device_count())}


def backends() -> dict[str, str]:
    """Return 'available' or the reason why not, for each backend on its kind of device."""
    from snn_mnist.kernels import BACKENDS
    from snn_mnist.network.device import why_refused

    def state(name: str, kind: str) -> str:
        try:
            return why_refused(name, kind) or f"available on {kind}"
        except SNNError as error:  # the device is lost: the other backends are still reported
            return str(error)

    return {name: state(name, "cuda" if name == "cupy" else "cpu") for name in BACKENDS}


def kernel_cache() -> str:
    from snn_mnist.kernels.cache import cache_directory

    folder = cache_directory()
    if folder is None:
        return "not writable: kernels are compiled again in each process (SNN_MNIST_CACHE names another place)"
    size = sum(file.stat().st_size for file in folder.parent.rglob("*") if file.is_file())  # CuPy's lie there too
    return f"{folder.parent} ({size / 1e6:.1f} MB)"


def guarded(part: Callable[[], Any]) -> Any:
    """Call a part; return the error in one line instead, such as that of a torch that can't be imported."""
    try:
        return part()
    except Exception as error:
        return f"broken: {type(error).__name__}: {' '.join(str(error).split())}"


def as_text(found: dict[str, Any]) -> str:
    lines = []
    for name, value in found.items():
        if not isinstance(value, dict):
            lines.append(fit(f"{name}: {value}"))
            continue
        if len(value) == 4 and len(states := set(value.values())) == 1:  # the files of a data set
            lines.append(fit(f"{name}: {states.pop()} (4 files)"))
            continue
        width = max(map(len, value))
        lines += [
            f"{name}:",
            *(fit(f"  {key:{width}}  {item}", indent=" " * (width + 4)) for key, item in value.items()),
        ]
    return "\n".join(lines)
