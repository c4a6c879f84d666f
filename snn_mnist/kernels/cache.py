"""Where compiled kernels are kept from run to run: a folder named by a hash of all kernel sources."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from pathlib import Path


@functools.cache
def source_hash() -> str:
    """Hash of all kernel sources of this folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def cache_directory() -> Path | None:
    """A writable folder for compiled kernels, or None. `SNN_MNIST_CACHE` names another place."""
    base = os.environ.get("SNN_MNIST_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "snn_mnist"
    )
    folder = Path(base) / f"kernels-{source_hash()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None
