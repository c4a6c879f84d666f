"""The verbs without the names that Python lacks on Windows, hidden in a process of this system."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.support.export_net import saved

WITHOUT = """
import os, signal, sys, types
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
import numba, torch, torchvision, tqdm  # what others import is not ours to hide
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("fork", "register_at_fork", "set_blocking", "sched_getaffinity", "getuid", "geteuid", "killpg", "setsid",
             "getloadavg", "sysconf", "uname", "sync", "fchmod", "mkfifo", "O_DIRECTORY", "O_CLOEXEC"):
    vars(os).pop(name, None)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "setitimer", "pthread_sigmask"):
    vars(signal).pop(name, None)
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=lambda handle, mode, size: None)
from snn_mnist.__main__ import main
for line in sys.stdin.read().splitlines():
    code = main(line.split("\\t"))
    print("code", code, line, flush=True)
    if code:
        sys.exit(code)
"""


@pytest.mark.skipif(os.name != "posix", reason="hides what Windows lacks anyway")
def test_every_verb_works_without_what_windows_lacks(tmp_path: Path):
    made = saved(tmp_path, T=5).path
    digit = Image.new("L", (28, 28))
    digit.paste(255, (12, 4, 16, 24))
    digit.save(tmp_path / "digit.png")
    commands = [
        "train -dataset digits -T 5 -epochs 1 -limit-batches 3 -name run",
        "train -resume logs/run -epochs 2 -backend torch",
        "eval -resume last -repeats 1",
        "trace -resume last",
        "plot logs/run",
        f"predict digit.png -resume {made}",
        "convert -dataset digits -epochs 1 -limit-batches 3 -T 5 -repeats 1",
        f"export -resume {made} -out net.nir",
        "import net.nir",
        "bench -dataset digits -T 5 -repeats 1 -backend numba",
        "runs",
        "info",
    ]
    lines = "\n".join("\t".join(command.split()) for command in commands)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], input=lines, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.count("code 0") == len(commands)
