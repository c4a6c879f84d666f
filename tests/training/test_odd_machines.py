"""No terminal or a real one, other locales, strange paths, homes and caches that can't be written: all work."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nursery import Nursery
from torture import QUICK, metrics

from snn_mnist.__main__ import main
from snn_mnist.storage import checkpoint
from tests.conftest import ROOT, Program
from tests.support.runs import wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="terminals and locales of POSIX")

UNSET = ("LANG", "PYTHONIOENCODING", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "TERM")
POOR: dict[str, str | None] = dict.fromkeys(UNSET)  # ASCII only, no home, and no kernel is compiled
POOR |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
POOR |= {"HOME": "/proc/nowhere", "SNN_MNIST_CACHE": "/proc/nowhere/cache", "NUMBA_DISABLE_JIT": "1"}
NAME = "it's a 数据 directory é"


def test_a_poor_machine(program: Program, tmp_path: Path, capsys: pytest.CaptureFixture):
    """In a directory whose name ASCII can't say."""
    arguments = ["train", *QUICK, "-epochs", "1", "-j", "999", "-backend", "auto", "-figures", "-out-dir", NAME]
    done = program(*arguments, env=POOR, encoding="ascii", stdin=subprocess.DEVNULL, timeout=280)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert "numba can't be used: numba compiles nothing while NUMBA_DISABLE_JIT" in " ".join(done.stdout.split())
    assert all(line.startswith(("snn_mnist: ", "mkdir -p failed", "Matplotlib created")) for line in lines), lines
    (folder,) = (tmp_path / NAME).iterdir()
    assert {"curves.png", "weights.png", "config.yaml"} <= {path.name for path in folder.iterdir()}
    assert len(metrics(folder)) == 1 and checkpoint.load(folder)["epoch"] == 0
    # what it has written can be used where names are UTF-8
    assert main(["train", "-resume", str(folder), "-epochs", "1"]) == 0
    assert "nothing to do: " in capsys.readouterr().out


def test_a_threading_layer_of_numba_that_is_not_installed(tmp_path: Path):
    """Named by a variable of Numba: PyTorch computes instead."""
    command = [sys.executable, "-m", "snn_mnist", "train", *QUICK, "-epochs", "2", "-out-dir", str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_THREADING_LAYER": "tbb"}
    assert subprocess.run(command, env=env, timeout=280).returncode == 0
    (folder,) = tmp_path.iterdir()
    assert [row["epochs"] for row in metrics(folder)] == [1, 2] and checkpoint.load(folder)["epoch"] == 1


def test_closed_streams(tmp_path: Path):
    """`>&- 2>&- <&-`: the first files that the run opens must not take their numbers, and get what is printed."""
    command = [sys.executable, "-m", "snn_mnist", "train", *QUICK, "-epochs", "1", "-out-dir", str(tmp_path)]
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(shell, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=280).returncode == 0
    (folder,) = tmp_path.iterdir()
    assert checkpoint.load(folder)["epoch"] == 0
    assert not any(b"run directory" in path.read_bytes() for path in folder.iterdir())


def test_ctrl_c_on_a_terminal(tmp_path: Path):
    """The key itself: the terminal makes the signal, beside the progress bar."""
    pid, terminal = pty.fork()
    if pid == 0:  # the child: pytest's own handlers and streams are not its concern
        os.environ |= {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
        flags = ["-epochs", "100000", "-limit-batches", "80", "-T", "40", "-out-dir", str(tmp_path)]
        os.execv(sys.executable, [sys.executable, "-m", "snn_mnist", "train", *QUICK, *flags])
    seen, pressed, deadline = b"", False, time.monotonic() + 280
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            seen += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not pressed and b" images/s, " in seen and b" left" in seen and b"epoch 2/100000" in seen:
            os.write(terminal, b"\x03")
            pressed = True
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    text = seen.decode()
    assert os.waitstatus_to_exitcode(status) == 130, text[-2000:]
    assert text.startswith("loading PyTorch ...")  # at once; the import takes seconds
    assert "resume with: python -m snn_mnist train -resume" in text and "Traceback" not in text
    (folder,) = tmp_path.iterdir()
    assert checkpoint.load(folder)["step"]


def test_a_reader_of_the_output_that_leaves(nursery: Nursery, tmp_path: Path):
    """As in `python -m snn_mnist train | head -1`: what is learned by then is kept."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    child = nursery.start("train", *QUICK, "-epochs", "1000", "-out-dir", str(tmp_path / "out"), out=str(pipe))
    wait_until(lambda: (tmp_path / "out").exists() and any((tmp_path / "out").glob("*/checkpoint_max.pth")))
    os.close(reader)
    assert child.wait() == 1 and child.err == ""
    (folder,) = (tmp_path / "out").iterdir()
    assert checkpoint.load(folder)["epoch"] >= 0


def test_a_signal_ignored_by_the_parent(nursery: Nursery, tmp_path: Path):
    """A script's `python -m snn_mnist train &` starts with SIGINT ignored; sent on purpose, it is obeyed."""
    child = nursery.start("train", *QUICK, "-epochs", "100000", "-out-dir", str(tmp_path), ignore=[signal.SIGINT])
    wait_until(lambda: any(tmp_path.glob("*/checkpoint_max.pth")))
    child.send(signal.SIGINT)
    assert child.wait() == 130
