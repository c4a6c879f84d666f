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


@pytest.mark.parametrize(
    ("workers", "reason", "code", "said"),
    [([], "no g++ to compile", 1, "NOT ACCEPTED"), (["-n", "2"], "no g++ to compile", 1, "NOT ACCEPTED"),
     ([], "no CUDA device here", 0, "accepted")],
    ids=["alone", "workers", "accepted"],
)  # fmt: skip
def test_a_strict_run_with_skips(tmp_path, workers, reason, code, said):
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_it.py").write_text(FILE.format(reason=reason))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, "--rootdir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SNN_MNIST_STRICT": "1"}
    done = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert f"   2 {said}: {reason}" in done.stdout.splitlines()


@pytest.mark.parametrize(("strict", "refused"), [("1", "NOT ACCEPTED"), ("", "not accepted in a strict run")])
def test_reasons_are_counted_and_the_list_says_why(monkeypatch, strict, refused):
    monkeypatch.setenv("SNN_MNIST_STRICT", strict)
    assert all(ACCEPTED.values()) and not accepted("node is not installed")
    said = ["   1 " + refused + ": no gcc on this machine", "   2 accepted: one core"]
    assert summary(["one core", "one core", "no gcc on this machine"]) == said
