"""The CUDA kernels on the host: their source compiled by g++, run block after block in place of a GPU.

`HostKernels.load` replaces `cuda.launch.load`, so that the Python side (argument order, sizes, autograd) runs as it
does on a GPU, on CPU tensors. Working memory is poisoned and has a guard behind it; the types of the arguments are
checked against the kernel's signature; threads run upwards or backwards, which must not change a bit.
"""

import ctypes
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snn_mnist.kernels.cuda import launch as cuda

GUARD = bytes(range(64))
TYPES: dict[str, tuple[type, Any]] = {
    "int": (np.int32, ctypes.c_int32),
    "u32": (np.uint32, ctypes.c_uint32),
    "i64": (np.int64, ctypes.c_int64),
    "float": (np.float32, ctypes.c_float),
    "double": (np.float64, ctypes.c_double),
}
OPTIONS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-Wno-unknown-pragmas", "-x", "c++")


def compiler() -> str | None:
    return shutil.which("g++")


def build(text: str, folder: Path) -> ctypes.CDLL:
    """The source as a shared library, compiled once a text."""
    base = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    library = base.with_suffix(".so")
    if not library.exists():
        base.with_suffix(".cc").write_text(text, encoding="utf-8")
        command = [str(compiler()), *OPTIONS, "-shared", "-fPIC", "-o", str(library), str(base.with_suffix(".cc"))]
        done = subprocess.run(command, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def parameters(text: str, name: str) -> list[str]:
    """The types of a kernel's parameters, 'pointer' for any pointer."""
    found = re.search(rf"KERNEL\([^)]*\) {name}\((.*?)\) {{", text, re.DOTALL)
    assert found, f"no kernel {name}"
    real = re.search(r"#define REAL (\w+)", text)
    declared = [parameter.strip() for parameter in found[1].split(",")]
    types = ["pointer" if "*" in parameter else parameter.split()[0] for parameter in declared]
    return [real[1] if real and kind == "REAL" else kind for kind in types]


class HostKernels:
    def __init__(self, folder: Path, backwards: bool = False) -> None:
        self.folder, self.backwards = folder, backwards
        self.launches: list[tuple[str, tuple[int, ...], int, int]] = []  # kernel, grid, threads, shared bytes

    def load(self, text: str, name: str, device: torch.device) -> Callable[..., None]:
        library, kinds = build(text, self.folder), parameters(text, name)

        def launch(
            grid: Sequence[int], threads: int, arguments: Sequence[cuda.Argument], shared_bytes: int = 0
        ) -> None:
            assert len(arguments) == len(kinds), f"{name} takes {len(kinds)} arguments, not {len(arguments)}"
            passed = []
            for kind, given, value in zip(kinds, arguments, cuda.as_passed(arguments), strict=True):
                if kind == "pointer":
                    assert given is None or (isinstance(given, torch.Tensor) and given.is_contiguous())
                    passed.append(ctypes.c_void_p(int(value)))
                else:
                    scalar, c_type = TYPES[kind]
                    assert type(value) is scalar, f"{name} takes {kind}, not {type(value)}"
                    passed.append(c_type(value.item()))
            self.launches.append((name, tuple(grid), threads, shared_bytes))
            memory = (ctypes.c_char * (shared_bytes + len(GUARD) + 16))()
            start = -(-ctypes.addressof(memory) // 16) * 16
            rows = grid[1] if len(grid) > 1 else 1
            for row in range(rows):
                for block in range(grid[0]):
                    ctypes.memset(start, 0xFF, shared_bytes)  # NaN as a float, all fired as spikes
                    ctypes.memmove(start + shared_bytes, GUARD, len(GUARD))
                    library.host_select_block(
                        ctypes.c_int64(block), row, ctypes.c_int64(grid[0]), ctypes.c_void_p(start), int(self.backwards)
                    )
                    getattr(library, name)(*passed)
                    behind = ctypes.string_at(start + shared_bytes, len(GUARD))
                    assert behind == GUARD, f"{name} wrote beyond its memory"

        return launch
