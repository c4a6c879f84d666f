"""No terminal or a real one, other locales, strange paths, homes and caches that can't be written: all work."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nursery import Nursery
from torture import QUICK, metrics

from snn_mnist.cli.main import main
from snn_mnist.kernels.cache import cache_directory
from snn_mnist.storage import checkpoint
from tests.conftest import ROOT, Program
from tests.support.runs import wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="terminals and locales of POSIX")

POOR: dict[str, str | None] = {  # ASCII only, no home, nowhere to keep compiled kernels
    "LC_ALL": "C", "LANG": None, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None,
    "HOME": "/proc/nowhere", "XDG_CACHE_HOME": None, "XDG_CONFIG_HOME": None, "MPLCONFIGDIR": None,
    "SNN_MNIST_CACHE": "/proc/nowhere/cache", "TERM": None,
}  # fmt: skip
NAME = "it's a 数据 directory é"


def poor_machine(program: Program, tmp_path: Path, *flags: str) -> Path:
    """Trains and evaluates there, in a directory whose name ASCII can't say; returns the run directory."""
    arguments = ["train", *QUICK, *flags, "-epochs", "1", "-j", "999", "-figures", "-out-dir", NAME]
    done = program(*arguments, env=POOR, encoding="ascii", stdin=subprocess.DEVNULL, timeout=280)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert any("-j 999 is more than the" in line for line in lines)
    assert any("in every run (no cache can be written)" in line for line in lines)
    assert all(line.startswith(("snn_mnist: ", "mkdir -p failed", "Matplotlib created")) for line in lines), lines
    (folder,) = (tmp_path / NAME).iterdir()
    assert {"curves.png", "weights.png", "config.yaml"} <= {path.name for path in folder.iterdir()}
    assert len(metrics(folder)) == 1 and checkpoint.load(folder)["epoch"] == 0
    return folder


def test_a_poor_machine(program: Program, tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = poor_machine(program, tmp_path)
    # what it has written can be used where names are UTF-8
    assert main(["train", "-resume", str(folder), "-epochs", "1"]) == 0
    assert "nothing to do: " in capsys.readouterr().out


@pytest.mark.slow
def test_a_poor_machine_compiles_the_fused_kernel(program: Program, tmp_path: Path):
    poor_machine(program, tmp_path, "-backend", "numba")


def test_closed_streams(tmp_path: Path):
    """`>&- 2>&- <&-`: the first files that the run opens must not take their numbers, and get what is printed."""
    command = [sys.executable, "-m", "snn_mnist", "train", *QUICK, "-epochs", "2", "-out-dir", str(tmp_path)]
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(shell, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=280).returncode == 0
    (folder,) = tmp_path.iterdir()
    assert [row["epochs"] for row in metrics(folder)] == [1, 2] and checkpoint.load(folder)["epoch"] == 1
    for path in folder.iterdir():
        assert b"run directory" not in path.read_bytes()


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


def test_a_damaged_cache_of_kernels_is_made_anew(nursery: Nursery, tmp_path: Path):
    used = cache_directory()
    assert used
    cache = tmp_path / "cache" / used.name
    shutil.copytree(used, cache, ignore=shutil.ignore_patterns("*.tmp.*"))  # what another process writes just now
    command = ["train", *QUICK, "-epochs", "1", "-out-dir", str(tmp_path / "out")]
    for path in cache.rglob("spikes*"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if path.suffix == ".nbc" else b"\x80\x04 not a pickle")
    child = nursery.run(*command, env={"SNN_MNIST_CACHE": str(cache.parent)})
    assert child.code == 0 and "Traceback" not in child.err and "_encode" not in child.err
    assert "compiling kernel 1 of 1, the spikes, once: about" in child.err
    child = nursery.run(*command, env={"SNN_MNIST_CACHE": str(cache.parent)})
    assert child.code == 0 and child.err == ""


CUPY = """import os
os.makedirs(os.environ.get("CUPY_CACHE_DIR", os.path.expanduser("~/.cupy/kernel_cache")), exist_ok=True)  # as CuPy 14
__version__ = "14.2.0"
"""
ASK = """import os, sys
from snn_mnist.kernels.cuda.available import import_cupy

for setting in sys.argv[1:]:
    if os.fork():
        os.wait()
    else:
        os.environ |= [setting.split("=")]
        print(import_cupy().__version__, os.environ["CUPY_CACHE_DIR"], os.path.isdir(os.environ["CUPY_CACHE_DIR"]))
        break
"""


def test_cupys_kernels_are_kept_where_there_is_room(tmp_path: Path):
    """CuPy can't be imported where its cache can't be made, and its default is in the home directory."""
    (tmp_path / "cupy.py").write_text(CUPY)
    env = {name: value for name, value in os.environ.items() if name not in ("CUPY_CACHE_DIR", "SNN_MNIST_CACHE")}
    env |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "HOME": "/proc/nowhere", "TMPDIR": str(tmp_path)}
    env.pop("XDG_CACHE_HOME", None)
    places = [f"SNN_MNIST_CACHE={tmp_path / 'cache'}", f"CUPY_CACHE_DIR={tmp_path / 'own'}", "SNN_MNIST_CACHE=/proc/no"]
    done = subprocess.run([sys.executable, "-c", ASK, *places], env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (version, ours, made), (_, the_users, its), (_, temporary, was) = map(str.split, done.stdout.splitlines())
    assert version == "14.2.0" and made == its == was == "True"
    assert (ours, the_users) == (str(tmp_path / "cache" / "cupy"), str(tmp_path / "own"))
    assert Path(temporary).name.startswith("snn_mnist-") and not Path(temporary).exists()


def test_more_threads_than_cores(nursery: Nursery, tmp_path: Path):
    child = nursery.run("train", *QUICK, "-j", "4096", "-epochs", "1", "-out-dir", str(tmp_path))
    assert child.code == 0
    assert child.err.startswith("snn_mnist: note: -j 4096 is more than the ")


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
