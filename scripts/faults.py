"""Single faults put into the code, one at a time: do the tests notice?

    python scripts/faults.py                     all faults of faults.toml, as a Markdown table, and the share noticed
    python scripts/faults.py -k scoring          those with this word in their file, texts or tests
    python scripts/faults.py -list               what there is, without running anything

A fault is an edit that a careless hand makes: `old`, which stands once in snn_mnist/`file`, becomes `new`. The tests
run in a copy of the project. With -s the faults come from another file; faults of kernels compile in a cache of their
own, half a minute each.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 600  # seconds for the tests of one fault; a fault that makes them hang is noticed


@dataclass(frozen=True)
class Fault:
    file: str  # below snn_mnist/
    old: str
    new: str
    tests: str  # below tests/, with spaces between
    why: str = ""  # why one that survives is accepted

    def path(self, root: Path) -> Path:
        return root / "snn_mnist" / self.file

    def put_in(self, root: Path) -> str:
        """Edits the copy; returns the text before."""
        before = self.path(root).read_text(encoding="utf-8")
        self.path(root).write_text(before.replace(self.old, self.new), encoding="utf-8")
        return before

    def row(self, *cells: str) -> str:
        old, new = (f"`{' '.join(text.split())}`".replace("|", "\\|") if text else "" for text in (self.old, self.new))
        return " | ".join(("", self.file, f"{old} → {new}", *cells, "")).strip()


def read(file: Path) -> list[Fault]:
    faults = [Fault(**table) for table in tomllib.loads(file.read_text(encoding="utf-8"))["fault"]]
    for fault in faults:
        found = fault.path(ROOT).read_text(encoding="utf-8").count(fault.old)
        if found != 1:
            raise SystemExit(f"faults: error: {fault.old!r} stands {found} times in {fault.file}; make it unique")
    return faults


def noticed_by(fault: Fault, copy: Path) -> str:
    """The first test that fails, '' when all pass."""
    output = copy / "output"
    before = fault.put_in(copy)
    tests = [f"tests/{name}" for name in fault.tests.split()]
    child = os.fork()  # torch and pytest are imported already: seconds less per fault
    if not child:
        run_tests(tests, output, copy, own_cache=fault.file.startswith("kernels/"))
    code = wait(child)
    fault.path(copy).write_text(before, encoding="utf-8")
    shutil.rmtree(copy / "cache", ignore_errors=True)
    if code is None:
        return "no end"
    text = output.read_text(encoding="utf-8", errors="replace")
    failed = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", text, re.MULTILINE)
    if code and not failed:
        raise SystemExit(f"faults: error: pytest ended with {code}:\n{text[-3000:]}")
    return failed[1] if failed else ""


def run_tests(tests: list[str], output: Path, copy: Path, own_cache: bool) -> None:
    """In a process of its own, which it ends."""
    os.setsid()  # so that what the tests start ends with them
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    if own_cache:
        os.environ["SNN_MNIST_CACHE"] = str(copy / "cache")
    sys.path[:] = [str(copy), *(place for place in sys.path if Path(place) not in (ROOT, ROOT / "scripts"))]
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
    sys.stdout.flush()
    os._exit(code)


def wait(child: int) -> int | None:
    """The child's exit code, None when it is stopped after TIMEOUT."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("-k", metavar="WORD", default="", help="only faults with this word")
    parser.add_argument("-s", metavar="FILE", type=Path, default=Path(__file__).with_suffix(".toml"))
    parser.add_argument("-list", action="store_true", help="run nothing")
    options = parser.parse_args()
    faults = [fault for fault in read(options.s) if options.k in f"{fault.file} {fault.old} {fault.new} {fault.tests}"]
    print("| file | fault | noticed by |\n|---|---|---|", flush=True)
    if options.list:
        print("\n".join(fault.row(fault.tests) for fault in faults))
        return
    import matplotlib.figure  # noqa: F401
    import numba  # noqa: F401
    import tensorboard  # noqa: F401
    import torch  # noqa: F401

    killed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "logs", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=ignored)
        for fault in faults:
            test = noticed_by(fault, copy)
            killed += bool(test)
            print(fault.row(test or f"**not noticed** {fault.why}".strip()), flush=True)
    print(f"\n{killed} of {len(faults)} noticed ({killed / max(len(faults), 1):.0%})")


if __name__ == "__main__":
    main()
