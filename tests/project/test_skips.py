"""Skips are counted by reason, and one that is not accepted fails the run, with and without workers."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support.skips import ACCEPTED, accepted, summary

FILE = """
import pytest
from tests.conftest import *  # the plugin

@pytest.mark.parametrize("n", range(3))
def test_a(n):
    if n:
        pytest.skip({reason!r})
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
@pytest.mark.parametrize(
    ("reason", "strict", "code", "said"),
    [
        ("no CUDA device here", "1", 0, "accepted"),
        ("no g++ to compile", "1", 1, "NOT ACCEPTED"),
        ("no g++ to compile", "", 0, "not accepted in a strict run"),
    ],
)
def test_a_run_with_skips(tmp_path, workers, reason, strict, code, said):
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_it.py").write_text(FILE.format(reason=reason))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, "--rootdir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SNN_MNIST_STRICT": strict}
    done = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert f"   2 {said}: {reason}" in done.stdout.splitlines()


def test_the_list_says_why(monkeypatch):
    monkeypatch.setenv("SNN_MNIST_STRICT", "1")
    assert all(ACCEPTED.values()) and not accepted("node is not installed") and not accepted("no C compiler here")
    assert summary(["one core", "one core", "no gcc on this machine"]) == [
        "   1 NOT ACCEPTED: no gcc on this machine",
        "   2 accepted: one core",
    ]
