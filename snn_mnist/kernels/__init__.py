"""Numerics of the backends, which import nothing else of the package, and the disk cache of compiled kernels: Numba's
in a folder named by a hash of the sources, CuPy's in one beside it."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

BACKENDS = "torch", "numba", "cupy"  # the modules of core, the CPU kernels, the CUDA kernels
compile_seconds: dict[str, float] = {}  # kernel -> seconds spent in this process on compiling it, or loading it by CuPy


@functools.cache
def cache_directory() -> Path | None:
    """Return the folder of Numba's kernels, or None where none can be written.

    Its name has a hash of Numba's version and of all Python sources of this folder and its subfolders.
    """
    import hashlib
    import importlib.metadata

    digest = hashlib.sha256(importlib.metadata.version("numba").encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.relative_to(Path(__file__).parent).as_posix().encode() + b"\0" + path.read_bytes())
    return writable(f"kernels-{digest.hexdigest()[:16]}")


@functools.cache
def writable(name: str) -> Path | None:
    """Return the folder of this name in the cache (`SNN_MNIST_CACHE`), created if needed; None if not writable."""
    base = os.environ.get("SNN_MNIST_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "snn_mnist"
    )
    folder = Path(base) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None
