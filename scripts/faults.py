"""Single faults put into the code, one at a time: do the tests notice?

    python scripts/faults.py                     all faults of faults.toml, as a Markdown table, and the share noticed
    python scripts/faults.py -k scoring          those with this word in their file, texts or tests
    python scripts/faults.py -list               what there is, without running anything

A fault is an edit that a careless hand makes: `old`, which stands once in snn_mnist/`file`, becomes `new`, and at least
one of `tests` must fail. They run in a copy of the project; faults of kernels compile in a cache of their own.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Fault:
    file: str  # below snn_mnist/
    old: str
    new: str
    tests: str  # below tests/, with spaces between
    why: str = ""  # why one that survives is accepted

    def row(self, cell: str) -> str:
        old, new = (f"`{' '.join(text.split())}`".replace("|", "\\|") if text else "" for text in (self.old, self.new))
        return f"| {self.file} | {old} → {new} | {cell} |"


def read(table: Path) -> list[Fault]:
    return [Fault(**entry) for entry in tomllib.loads(table.read_text(encoding="utf-8"))["fault"]]


def outdated(faults: list[Fault], root: Path = ROOT) -> list[str]:
    """What no longer fits the code: texts that do not stand there once, tests that are not there."""
    found = []
    for fault in faults:
        count = (root / "snn_mnist" / fault.file).read_text(encoding="utf-8").count(fault.old)
        if count != 1:
            found.append(f"{fault.old!r} stands {count} times in {fault.file}")
        for name in fault.tests.split():
            path, *inner = name.partition("[")[0].split("::")
            text = (root / "tests" / path).read_text(encoding="utf-8")
            found += [f"{path} has no {one}" for one in inner if not re.search(rf"^ *(def|class) {one}\b", text, re.M)]
    return found


def noticed_by(fault: Fault, copy: Path) -> str:
    """The first test that fails, '' when all pass. A test file that can't be imported is an error, no notice."""
    file, output = copy / "snn_mnist" / fault.file, copy / "output"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(fault.old, fault.new), encoding="utf-8")
    child = os.fork()  # torch and pytest are imported already, which saves seconds per fault
    if not child:
        run_tests(fault, copy, output)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    file.write_text(whole, encoding="utf-8")
    shutil.rmtree(copy / "cache", ignore_errors=True)
    text = output.read_text(encoding="utf-8", errors="replace")
    failed = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+::\S+)", text, re.MULTILINE)
    if code and not failed:
        raise SystemExit(f"faults: error: pytest ended with {code}:\n{text[-3000:]}")
    return failed[1] if failed else ""


def run_tests(fault: Fault, copy: Path, output: Path) -> None:
    """In a process of its own, which it ends."""
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    if fault.file.startswith("kernels/"):
        os.environ["SNN_MNIST_CACHE"] = str(copy / "cache")
    sys.path[:] = [str(copy), *(place for place in sys.path if Path(place) not in (ROOT, ROOT / "scripts"))]
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in fault.tests.split())])
    sys.stdout.flush()
    os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", metavar="WORD", default="", help="only faults with this word")
    parser.add_argument("-table", metavar="FILE", type=Path, default=TABLE, help="another table of faults")
    parser.add_argument("-list", action="store_true", help="run nothing")
    options = parser.parse_args()
    every = read(options.table)
    if wrong := outdated(every):
        raise SystemExit("\n".join(f"faults: error: {one}; correct {options.table}" for one in wrong))
    faults = [fault for fault in every if options.k in f"{fault.file} {fault.old} {fault.new} {fault.tests}"]
    print("| file | fault | noticed by |\n|---|---|---|", flush=True)
    if options.list:
        print("\n".join(fault.row(fault.tests) for fault in faults))
        return
    import matplotlib.figure  # noqa: F401
    import numba  # noqa: F401
    import tensorboard  # noqa: F401
    import torch  # noqa: F401

    noticed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__", "logs", ".*_cache"))
        for fault in faults:
            test = noticed_by(fault, copy)
            noticed += bool(test)
            print(fault.row(test or f"**not noticed** {fault.why}".strip()), flush=True)
    print(f"\n{noticed} of {len(faults)} noticed ({noticed / max(len(faults), 1):.0%})")


if __name__ == "__main__":
    main()
