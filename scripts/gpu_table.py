"""The table at the end of scripts/test_gpu.sh: `python gpu_table.py tests.xml sanitizer.txt`."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path


def main(results: str, sanitizer: str) -> int:
    try:
        cases = list(ElementTree.parse(results).iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        print(f"no test results ({error}): pytest did not get that far")
        return 1
    outcomes: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    figures = []
    for case in cases:
        name = re.sub(r"\[.*", "", case.get("name", "?"))
        outcome = "passed"
        for child in case:
            if child.tag in ("failure", "error"):
                outcome = "failed"
            elif child.tag == "skipped":
                outcome = "skipped"
                reasons[child.get("message", "")] += 1
            elif child.tag == "properties":
                figures += [str(p.get("value")) for p in child if p.get("name") == "figure"]
        outcomes.setdefault(name, Counter())[outcome] += 1
        seconds[name] += float(case.get("time", 0))
    width = max([len(name) for name in outcomes], default=4)
    print(f"\n{machine()}\n\n{'test':{width}}  passed  failed  skipped  seconds")
    for name, counts in outcomes.items():
        row = "".join(f"{counts[outcome]:{len(outcome) + 2}d}" for outcome in ("passed", "failed", "skipped"))
        print(f"{name:{width}}{row}{seconds[name]:9.1f}")
    total = sum(outcomes.values(), Counter())
    print("\n".join(["", *figures, *(f"skipped {n}: {reason}" for reason, n in reasons.items())]))
    checks = Path(sanitizer).read_text(encoding="utf-8")
    print(checks.replace("\t", ": "), end="")
    bad = total["failed"] or "FAILED" in checks
    ran = "nothing was tested" if not total["passed"] else f"{total['passed']} passed, {total['failed']} failed"
    print(f"GPU tests: {ran}")
    return int(bool(bad) or not total["passed"])


def machine() -> str:
    """What ran the tests: device, driver, versions."""
    try:
        import torch

        from snn_mnist.storage.environment import describe

        return describe(torch.device("cuda")) if torch.cuda.is_available() else "no CUDA device"
    except Exception as error:  # a broken installation: the table is still wanted
        return f"the device can't be described ({type(error).__name__}: {error})"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
