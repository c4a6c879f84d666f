"""Starts `python -m snn_mnist …` as real processes without paying their seconds of imports each time.

One process imports everything and then forks a child for each command line. torture.py and the tests use it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SLOW_IMPORTS = (  # what takes long of all that the children import
    "optuna.importance",
    "matplotlib.figure",
    "tensorboard.backend.event_processing.event_accumulator",
    "torch._dynamo",
    "torch.utils.tensorboard",
)


class Nursery:
    """The process that forks, as long as this context lasts."""

    def __enter__(self) -> Nursery:
        self.scratch = tempfile.TemporaryDirectory(prefix="nursery-")
        Path(self.scratch.name).chmod(0o777)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True)
        assert self._read() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        self.scratch.cleanup()

    def start(self, *arguments: str, **settings: Any) -> Child:
        """`settings`: cwd, env (additions; None removes), file_size (limit in bytes), powerless (permissions bind
        root too), ignore (signals), out (a file), before (Python code that runs first)."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch.name))
        folder.chmod(0o777)
        request = {"out": str(folder / "out"), "err": str(folder / "err"), "argv": arguments} | settings
        return Child(self, self.ask(request), request["out"], request["err"])

    def run(self, *arguments: str, timeout: float = 280, **settings: Any) -> Child:
        child = self.start(*arguments, **settings)
        child.wait(timeout)
        return child

    def ask(self, request: Any) -> Any:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())


class Child:
    def __init__(self, nursery: Nursery, pid: int, out: str, err: str) -> None:
        self.nursery, self.pid, self.code, self._out, self._err = nursery, pid, None, out, err

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        if self.code is None:
            self.code = self.nursery.ask({"poll": self.pid})
        return self.code

    def wait(self, timeout: float = 280) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"still running after {timeout} s: {self.out}{self.err}")
            time.sleep(0.01)
        return self.code

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """It does nothing until it goes on."""
        if self.code is None:
            self.code = self.nursery.ask({"stop": self.pid})

    def go_on(self) -> None:
        if self.code is None:
            self.send(signal.SIGCONT)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        while self.poll() is None:
            time.sleep(0.001)

    @property
    def out(self) -> str:
        return Path(self._out).read_text(encoding="utf-8", errors="replace") if os.path.isfile(self._out) else ""

    @property
    def err(self) -> str:
        return Path(self._err).read_text(encoding="utf-8", errors="replace") if os.path.isfile(self._err) else ""


def _serve() -> None:
    """The nursery's own process: requests on stdin, answers on stdout, one line of JSON each."""
    for module in SLOW_IMPORTS:
        with contextlib.suppress(ModuleNotFoundError):  # optional packages
            importlib.import_module(module)
    from numba.core.registry import cpu_target

    from snn_mnist import __main__ as cli

    cpu_target.typing_context.refresh()  # what numba sets up before it loads its first compiled kernel
    cpu_target.target_context.refresh()

    channel = os.fdopen(os.dup(1), "w")

    def answer(value: Any) -> None:
        channel.write(json.dumps(value) + "\n")
        channel.flush()

    gc.freeze()  # children neither copy these pages nor collect what is in them
    alive: set[int] = set()
    answer("ready")
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "poll" in request or "stop" in request:
            if "stop" in request:
                os.kill(request["stop"], signal.SIGSTOP)
            which, how = ("stop", os.WUNTRACED) if "stop" in request else ("poll", os.WNOHANG)
            pid, status = os.waitpid(request[which], how)
            ended = pid and not os.WIFSTOPPED(status)
            alive -= {pid} if ended else set()
            answer(os.waitstatus_to_exitcode(status) if ended else None)
        elif pid := os.fork():
            alive.add(pid)
            answer(pid)
        else:
            _become(request)
            exec(request.get("before", ""))
            code = cli.main(request["argv"])
            atexit._run_exitfuncs()
            sys.stdout.flush()
            os._exit(code)  # without tearing down the nursery's heap, which takes a second
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _become(request: dict[str, Any]) -> None:
    """Turns the forked child into what the request asks for."""
    for name, value in request.get("env", {}).items():
        os.environ.pop(name, None)
        os.environ |= {} if value is None else {name: value}
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, path in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        handle = os.open(path, flags if number else os.O_RDONLY, 0o666)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = open(0)  # noqa: SIM115 forgets what the nursery has read ahead
    if "file_size" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], resource.RLIM_INFINITY))
    if request.get("powerless"):  # root whom permissions bind as they bind everybody
        header, nothing = struct.pack("<Ii", 0x20080522, 0), bytes(24)
        if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
            raise OSError(ctypes.get_errno(), "capset")
    if "cwd" in request:
        os.chdir(request["cwd"])
    for number in (signal.SIGINT, signal.SIGTERM):  # ignored where this program was started with `&`
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for number in request.get("ignore", []):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    _serve()
