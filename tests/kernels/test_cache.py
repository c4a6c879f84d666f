"""The disk cache of numba's kernels: never stale, and no error of the cache ends a run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from snn_mnist.kernels import cache_directory
from tests.conftest import ROOT

HELPER = """import numba

@numba.njit
def helper(x):
    return {factor} * x
"""
PROBE = """import logging
import numpy as np
from snn_mnist.kernels.cpu.helper import helper
from snn_mnist.kernels.cpu.jit import expect, gradient_function, kernel
from snn_mnist.kernels import compile_seconds

@kernel("a probe", 9)
def probe(x):
    return helper(x)

@kernel("the next", 5)
def following(x):
    return helper(x)

expect(probe, following)

def slope(alpha):
    gradient, x, g = gradient_function("sigmoid", (("alpha", alpha),)).ctypes, np.zeros(1, "f"), np.ones(1, "f")
    gradient(*(a.ctypes.data_as(t) for a, t in zip((x, g), gradient.argtypes)), 1)
    return float(g[0])

def main():
    logging.basicConfig(level=logging.INFO)
    values = [probe(1.0), following(2.0), slope(4.0), slope(8.0)]
    print(values, sorted(name.partition("_")[0] for name in compile_seconds))
"""
ANNOUNCED = re.compile(r"compiling kernel (\d of \d), (.*): about \d+ s")
BOTH = [("1 of 2", "a probe, once"), ("2 of 2", "the next, once")]


@pytest.fixture
def ask(tmp_path: Path):
    """ask(factor): what a new process says it compiles, from a copy of the package with a helper beside its kernels."""
    folder = tmp_path / "snn_mnist" / "kernels"
    shutil.copytree(ROOT / "snn_mnist" / "kernels", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "snn_mnist" / "__init__.py").touch()
    (folder / "cpu" / "probe.py").write_text(PROBE)

    def run(factor: float, cache: Path | str = tmp_path / "cache") -> list[tuple[str, str]]:
        (folder / "cpu" / "helper.py").write_text(HELPER.format(factor=factor))
        env = os.environ | {"PYTHONPATH": str(tmp_path), "SNN_MNIST_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
        code = "from snn_mnist.kernels.cpu.probe import main; main()"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        values = f"[{factor}, {2 * factor}, 1.0, 2.0]"  # sigma'(0) = alpha / 4: two surrogates are two kernels
        announced = ANNOUNCED.findall(done.stderr)
        compiled = ["following", "gradient", "gradient", "probe"] if announced else []
        assert done.stdout == f"{values} {compiled}\n"
        return announced

    return run


def test_kernels_are_compiled_again_when_a_helper_changed_or_a_file_is_damaged(ask, tmp_path: Path):
    """Each time they are announced and counted; else they come from the cache."""
    assert ask(2.0) == BOTH and ask(3.0) == BOTH
    for suffix, damage in ((".nbi", b"\x80\x04 not a pickle"), (".nbc", b"")):
        files = sorted((tmp_path / "cache").rglob(f"*{suffix}"))
        assert len(files) == 2 * 4
        for path in files[suffix == ".nbc" :: 2]:
            path.write_bytes(damage)
    assert ask(2.0) and ask(2.0) == []


def test_a_cache_that_can_not_be_written_costs_time_only(ask, tmp_path: Path):
    (tmp_path / "a file").touch()
    assert [often.partition(", ")[2] for _, often in ask(2.0, tmp_path / "a file")] == 2 * [
        "in every run (no cache can be written)"
    ]
    assert not list(tmp_path.rglob("*.nb?"))


def test_each_version_of_numba_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch):
    names = set()
    for version in ("0.61.2", "0.62.0"):
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version)
        names.add(cache_directory.__wrapped__())
    assert len(names) == 2
