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
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

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
    environment = os.environ | {"PYTHONPATH": str(copy)}
    if fault.file.startswith("kernels/"):
        environment["SNN_MNIST_CACHE"] = str(copy / "cache")
    tests = [f"tests/{name}" for name in fault.tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]
    before = fault.put_in(copy)
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return "no end"
    finally:
        fault.path(copy).write_text(before, encoding="utf-8")
        shutil.rmtree(copy / "cache", ignore_errors=True)
    failed = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", done.stdout, re.MULTILINE)
    if done.returncode and not failed:
        raise SystemExit(f"faults: error: pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}")
    return failed[1] if failed else ""


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
