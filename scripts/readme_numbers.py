"""The measured numbers of README.md, README.zh-CN.md and docs/speed.md, from docs/measured.json.

python scripts/readme_numbers.py                            # writes them into the pages
python scripts/readme_numbers.py speed accuracy commands    # measures these first (on a quiet machine: 4, 8 and 8
                                                            # minutes); speed needs SNN_MNIST_SPIKINGJELLY_PYTHON
"""

from __future__ import annotations

import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "docs" / "measured.json"
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "docs" / "speed.md"]
REPEATS = 3
ROWS = {"`numba`": "numba", "`torch`": "torch"} | {name: name.lower() for name in ("SpikingJelly", "snnTorch", "Norse")}
Numbers = dict[str, Any]


def call(*command: str) -> None:
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=sys.stderr)


def snn_mnist(*flags: str) -> None:
    call(sys.executable, "-m", "snn_mnist", *flags)


def seconds(*command: str) -> float:
    began = time.perf_counter()
    call(*command)
    return time.perf_counter() - began


def measure_speed(folder: Path) -> Numbers:
    loops, runs = folder / "loops.json", folder / "runs.json"
    script = [sys.executable, "scripts/compare_libraries.py", "-repeats", str(REPEATS)]
    call(*script, "-json", str(loops))
    call(*script, "-default", "-json", str(runs))
    return {"loops": json.loads(loops.read_text()), "default_runs": json.loads(runs.read_text())}


def measure_accuracy(folder: Path) -> Numbers:
    """Train best.yaml and votes.yaml with five seeds, tutorial.yaml with one, and test each on ten encodings."""
    found: Numbers = {}
    for recipe, flags in (("best", ["-seeds", "5"]), ("votes", ["-seeds", "5"]), ("tutorial", [])):
        out = folder / recipe
        snn_mnist("train", "-config", f"configs/{recipe}.yaml", "-out-dir", str(out), *flags)
        for checkpoint in sorted(out.rglob("checkpoint_latest.pth")):
            snn_mnist("eval", "-resume", str(checkpoint), "-repeats", "10", "-json", str(folder / "eval.json"))
            result = json.loads((folder / "eval.json").read_text())
            found.setdefault(recipe, []).append(result["accuracy"]["values"])
        tests = [csv.DictReader(file.read_text().splitlines()) for file in out.rglob("metrics.csv")]
        found[f"{recipe}_highest"] = max(float(row["test_acc"]) for rows in tests for row in rows)
    return found


def measure_commands(folder: Path) -> Numbers:
    """Time README's two commands; their first set-up is measured by hand, for it needs the network."""
    train = ["bash", "scripts/train.sh", "-out-dir", str(folder)]
    return {
        "train_s": [seconds(*train) for _ in range(REPEATS)],
        "test_s": seconds("bash", "scripts/test.sh"),
        "quick_test_s": seconds("bash", "scripts/test.sh", "-quick"),
    }


def middle(values: list[float], brackets: bool) -> str:
    """Return '181,448' or '181,448 [166,410, 182,920]'."""
    spread = f" [{min(values):,.0f}, {max(values):,.0f}]" if brackets else ""
    return f"{statistics.median(values):,.0f}{spread}"


def spread(values: list[float]) -> str:
    return f"{100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values):.2f} %"


def fill(page: str, measured: Numbers, details: bool) -> str:
    """Return the page with the measured numbers in the places of the old ones.

    `details`: with lowest and highest, and the backends as `bench` measures them; else the default run as a user
    starts it, beside SpikingJelly's script.
    """
    loops, runs = measured["loops"], measured["default_runs"]
    speeds = {name: [[each[what] for each in samples] for what in ("train", "test")] for name, samples in loops.items()}
    if not details:
        for name, whose in (("numba", "ours"), ("spikingjelly", "theirs")):
            speeds[name] = [list(each) for each in zip(*(run[whose] for run in runs), strict=True)]
    ratio = statistics.median(run["ours"][0] / run["theirs"][0] for run in runs)
    base = statistics.median(speeds["spikingjelly"][0])
    for first, name in ROWS.items():
        times = ratio if name == "numba" and not details else statistics.median(speeds[name][0]) / base
        relative = "1" if name == "spikingjelly" else f"{times:.{0 if times > 10 else 1}f} ×"
        cells = " | ".join([*(middle(column, details) for column in speeds[name]), relative])
        row = rf"(?m)^(\| {re.escape(first)}[^|]*\|) .* \|$"
        page = re.sub(row, lambda found, cells=cells: f"{found[1]} {cells} |", page)
    sittings = ", ".join(f"{ours:,.0f} / {theirs:,.0f}" for (ours, _), (theirs, _) in (run.values() for run in runs))
    places = {
        r"(\d+)(?: times the training speed| 倍；)": f"{ratio:.0f}",
        r"script: (.*?) images/s": sittings,
        r"(?:then|以后只需) (\d+) (?:seconds|秒)": f"{statistics.median(measured['train_s']):.0f}",
        r"(?:takes|第二条需) (\d+) (?:minutes, or|分钟，加)": f"{measured['test_s'] / 60:.0f}",
        r"(?:minutes, or|`-quick` 则为) (\d+) ": f"{measured['quick_test_s'] / 60:.0f}",
        r"best\.yaml`.*?\*\*(.*?%)\*\*": spread([statistics.mean(each) for each in measured["best"]]),
        r"votes\.yaml`.*?\*\*(.*?%)\*\*": spread([statistics.mean(each) for each in measured["votes"]]),
        r"(?:all tests|所有测试中最高为) (\d.*? %)": f"{100 * measured['votes_highest']:.2f} %",
        r"tutorial\.yaml`[^|]*\| (.*? %)": spread(measured["tutorial"][0]),
        r"(?:100 tests|次测试中最高为) (\d.*? %)": f"{100 * measured['tutorial_highest']:.2f} %",
    }
    for pattern, text in places.items():
        page = re.sub(pattern, lambda found, text=text: found[0].replace(found[1], text, 1), page)
    return page


def main() -> None:
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    parts = {"speed": measure_speed, "accuracy": measure_accuracy, "commands": measure_commands}
    for part in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            measured |= parts[part](Path(folder))
        lines = (f"{json.dumps(name)}: {json.dumps(values)}" for name, values in measured.items())
        MEASURED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8"), measured, page.name == "speed.md"), encoding="utf-8")


if __name__ == "__main__":
    main()
