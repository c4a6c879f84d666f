"""A skip that is not accepted fails a strict run, with and without workers."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("workers", "reason", "code"), [(["-n", "2"], "no g++ to compile", 1), ([], "no CUDA device here", 0)]
)
def test_a_strict_run_with_skips(tmp_path, workers, reason, code):
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    test = f"import pytest\ndef test_a():\n    pytest.skip({reason!r})\ndef test_b():\n    pass\n"
    (tmp_path / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, "--rootdir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SNN_MNIST_STRICT": "1"}
    done = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("does not accept" in done.stdout) == bool(code)
