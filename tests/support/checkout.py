"""A copy of the shell scripts with stand-ins for uv, pip and the environment's Python: quick, and without a network.

The stand-ins write down how they were called; a file `mixed` in the environment's folder makes torch and
torchvision not fit together until both are installed anew.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, Done, no_network

PYTHON = f"""
echo "python $*" >>"$CALLS"
here=$(dirname "$0")
case "$*" in
    *"import torch, torchvision"*)
        [ ! -e "$here/../mixed" ] && exit
        echo "RuntimeError: operator torchvision::nms does not exist" >&2
        exit 1 ;;
    *"import sys, urllib.request"*) [ -n "$TORCH_INDEX" ] ;;
    "-m pip install"*" uv") [ -n "$PIP_HAS_UV" ] && cp "$STUBS/uv-stub" "$here/uv" ;;
    "-m pip install"*) install "$here/.." "$@" ;;
    "-m venv "*) for last; do :; done; make-venv "$last" && [ -z "$NO_ENSUREPIP" ] ;;
    "-m ruff"*) exit ${{RUFF:-0}} ;;
    "-m mypy"*) exit ${{MYPY:-0}} ;;
    "-m pytest"*) echo "data $SNN_MNIST_DATA, strict $SNN_MNIST_STRICT"; exit ${{PYTEST:-0}} ;;
    *"scripts/train.py"*) for argument; do echo "<$argument>"; done ;;
    *) exec {sys.executable} "$@" ;;
esac
"""
UV = """
echo "uv $*" >>"$CALLS"
case "$*" in
    "venv "*) for last; do :; done; make-venv "$last" ;;
    "pip install"*)
        echo "no cache $UV_NO_CACHE" >>"$CALLS"
        [ -z "$UV_FAILS" ] && install "$(dirname "$(dirname "$5")")" "$@" ;;
esac
"""
INSTALL = """
[ -z "$MIXED" ] || : >"$1/mixed"
case "$*" in *--force-reinstall*)
    [ -n "$HOPELESS" ] || rm -f "$1/mixed"
    echo "find-links $PIP_FIND_LINKS" >>"$CALLS" ;;
esac
if [ -n "$SLOW" ]; then : >"$SLOW"; while [ -e "$SLOW" ]; do sleep 0.05; done; fi
exit ${INSTALL_FAILS:-0}
"""
MAKE_VENV = """
mkdir -p "$1/bin" "$1/lib/python3.11/site-packages" && : >"$1/pyvenv.cfg" && cp "$STUBS/python3.11" "$1/bin/python"
"""
STAND_INS = {"python3.11": PYTHON, "uv": UV, "uv-stub": UV, "install": INSTALL, "make-venv": MAKE_VENV}
TOOLS = ["bash", "sh", "env", "cat", "cksum", "cp", "dirname", "flock", "grep", "mkdir", "mktemp", "rm", "rmdir", "sed"]
TOOLS += ["sleep", "sort", "tr", "uname"]


class Checkout:
    """The scripts in a path with spaces; the stand-ins and TOOLS are all there is on PATH."""

    def __init__(self, folder: Path) -> None:
        self.root, self.stubs, self.home = folder / "项目 with spaces", folder / "stubs", folder / "home"
        self.calls_file = folder / "calls"
        for part in ("scripts", ".ci"):
            shutil.copytree(ROOT / part, self.root / part)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        self.stubs.mkdir()
        self.home.mkdir()
        for tool in filter(shutil.which, TOOLS):
            (self.stubs / tool).symlink_to(str(shutil.which(tool)))
        for name, text in STAND_INS.items():
            self.stub(name, text)

    def stub(self, name: str, text: str) -> None:
        """Put a shell script in the place of a program."""
        (self.stubs / name).unlink(missing_ok=True)
        (self.stubs / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.stubs / name).chmod(0o755)

    def run(self, script: str, *arguments: str, **variables: str) -> Done:
        """Run a script in a process group of its own."""
        self.calls_file.write_text("")
        environment = {"PATH": str(self.stubs), "STUBS": str(self.stubs), "CALLS": str(self.calls_file)}
        environment |= {"HOME": str(self.home)} | no_network() | variables
        return subprocess.run(
            [str(self.stubs / "bash"), str(self.root / script), *arguments],
            env=environment, cwd=self.home, capture_output=True, encoding="utf-8", timeout=60, start_new_session=True,
        )  # fmt: skip

    def set_up(self, *extras: str, **variables: str) -> Done:
        return self.run("scripts/setup.sh", *extras, **variables)

    def ready(self, *extras: str) -> Checkout:
        assert self.set_up(*extras).returncode == 0
        return self

    def calls(self, word: str) -> list[str]:
        """The calls of stand-ins in the last run that contain this word."""
        return [line for line in self.calls_file.read_text(encoding="utf-8").splitlines() if word in line]

    def installed(self) -> str:
        """What the last run had uv or pip install, and how."""
        return ["", *self.calls("--editable")][-1].partition("install ")[2]

    @property
    def python(self) -> str:
        return str(self.root / ".venv" / "bin" / "python")
