"""The disk cache of numba's kernels: never stale, and no error of the cache ends a run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from snn_mnist.kernels.cache import source_hash
from tests.conftest import ROOT

HELPER = """import numba

@numba.njit
def helper(x):
    return {factor} * x
"""
PROBE = """import numpy as np
from snn_mnist.kernels.cpu.helper import helper
from snn_mnist.kernels.cpu.jit import gradient_function, kernel
from snn_mnist.kernels.cache import compile_seconds

@kernel()
def probe(x):
    return helper(x)

def slope(alpha):
    gradient, x, g = gradient_function("sigmoid", (("alpha", alpha),)).ctypes, np.zeros(1, "f"), np.ones(1, "f")
    gradient(*(a.ctypes.data_as(t) for a, t in zip((x, g), gradient.argtypes)), 1)
    return float(g[0])

def main():
    print(probe(1.0), slope(4.0), slope(8.0), sorted(name.partition("_")[0] for name in compile_seconds))
"""
ALL = "['gradient', 'gradient', 'probe']"


@pytest.fixture
def ask(tmp_path: Path):
    """ask(): a new process runs two kernels from a copy of the package, the probe with a helper in another file."""
    folder = tmp_path / "snn_mnist" / "kernels"
    shutil.copytree(ROOT / "snn_mnist" / "kernels", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "snn_mnist" / "__init__.py").touch()
    (folder / "cpu" / "probe.py").write_text(PROBE)

    def run(factor: float, cache: Path | str = tmp_path / "cache") -> str:
        (folder / "cpu" / "helper.py").write_text(HELPER.format(factor=factor))
        env = os.environ | {"PYTHONPATH": str(tmp_path), "SNN_MNIST_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
        code = "from snn_mnist.kernels.cpu.probe import main; main()"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_a_changed_helper_leaves_no_old_kernel(ask):
    """Surrogates with other parameters are kernels of their own: sigma'(0) = alpha / 4."""
    assert ask(2.0) == f"2.0 1.0 2.0 {ALL}"
    assert ask(2.0) == "2.0 1.0 2.0 []"  # from the cache
    assert ask(3.0) == f"3.0 1.0 2.0 {ALL}"
    assert ask(2.0) == "2.0 1.0 2.0 []"


def test_a_damaged_file_counts_as_missing(ask, tmp_path: Path):
    assert ask(2.0) == f"2.0 1.0 2.0 {ALL}"
    for suffix, damage in ((".nbi", b"\x80\x04 not a pickle"), (".nbc", b"")):
        files = list((tmp_path / "cache").rglob(f"*{suffix}"))
        assert len(files) == 3
        for path in files:
            path.write_bytes(damage)
        assert ask(2.0) == f"2.0 1.0 2.0 {ALL}"
    assert ask(2.0) == "2.0 1.0 2.0 []"


def test_a_cache_that_can_not_be_written_costs_time_only(ask, tmp_path: Path):
    (tmp_path / "a file").touch()
    assert ask(2.0, tmp_path / "a file") == f"2.0 1.0 2.0 {ALL}"
    assert not list(tmp_path.rglob("*.nb?"))


def test_each_version_of_numba_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch):
    names = set()
    for version in ("0.61.2", "0.62.0"):
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version)
        names.add(source_hash.__wrapped__())
    assert len(names) == 2


def test_the_announcement_counts_and_estimates(program, tmp_path: Path):
    """Of the two long kernels of a run one is announced after the other, and none that is in the cache."""
    train = ("train", "-dataset", "digits", "-epochs", "1", "-limit-batches", "1", "-b", "8", "-T", "2", "-no-figures")
    cache = {"SNN_MNIST_CACHE": str(tmp_path / "cache"), "COLUMNS": "1000"}
    first = program(*train, env=cache)
    announced = re.findall(r"compiling kernel (\d) of (\d), .*?: about \d+ s", first.stderr)
    assert announced == [("1", "2"), ("2", "2")], first.stderr
    assert "compiling" not in program(*train, env=cache).stderr
