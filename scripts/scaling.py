"""Time per image against T, batch size and threads, measured by `python -m snn_mnist bench`; makes a figure of it.

    python scripts/scaling.py OUT_DIR [-repeats 3] [-data-dir DIR]

Writes OUT_DIR/scaling.json and OUT_DIR/scaling.png, and prints the tables of docs/speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from snn_mnist.settings.config import cores
from snn_mnist.visualizing import drawing
from snn_mnist.visualizing import run_figures as figures

STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
BATCHES = [1, 4, 16, 64, 256, 1024, 4096]
BACKENDS = ("numba", "torch")


def bench(flags: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "snn_mnist", "bench", *flags, "-json", "-"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure(common: list[str]) -> dict[str, Any]:
    both = ["-backend", ",".join(BACKENDS)]
    threads = sorted({1, 2, 4, 8, 16, cores()} & set(range(1, cores() + 1)))
    return {
        "T": bench([*common, *both, "-T", ",".join(map(str, STEPS))]),
        "batch size": bench([*common, *both, "-b", ",".join(map(str, BATCHES))]),
        "threads": {str(j): bench([*common, *both, "-j", str(j)]) for j in threads},
    }


@drawing.own_style()
def draw(measured: dict[str, Any], path: Path) -> None:
    """Three panels, microseconds per image on logarithmic axes."""
    figure = drawing.own_figure((12.0, 4.2))
    axes = figure.subplots(1, 3)
    for number, backend in enumerate(BACKENDS):
        colour = drawing.COLOURS[number]
        for axis, key in ((axes[0], "T"), (axes[1], "b")):
            rows = measured["T" if key == "T" else "batch size"]["results"]
            rows = [row for row in rows if row["backend"] == backend]
            x = [row[key] for row in rows]
            for what, style, label in (("train", "-", "training"), ("test", "--", "testing")):
                y = [1e6 / row[what]["median"] for row in rows]
                axis.loglog(x, y, style, color=colour, marker="o", markersize=4, label=f"{backend}, {label}")
        x = [int(j) for j in measured["threads"]]
        rows = [next(r for r in run["results"] if r["backend"] == backend) for run in measured["threads"].values()]
        for what, style in (("train", "-"), ("test", "--")):
            y = [1e6 / row[what]["median"] for row in rows]
            axes[2].loglog(x, y, style, color=colour, marker="o", markersize=4)
        axes[2].set_xticks(x, [str(j) for j in x])
        axes[2].minorticks_off()
    for axis, label in zip(axes, ("time steps T", "batch size", "threads"), strict=True):
        axis.set_xlabel(label)
        axis.grid(True, alpha=0.3)
    axes[0].set_ylabel("time per image (µs)")
    axes[0].legend(fontsize="small")
    figures.write(path, figure)


def table(results: list[dict[str, Any]], key: str) -> str:
    columns = sorted({row[key] for row in results})
    lines = ["| µs per image | " + " | ".join(map(str, columns)) + " |", "|---|" + "---|" * len(columns)]
    for backend in BACKENDS:
        for what in ("train", "test"):
            cells = [
                f"{1e6 / next(r for r in results if r['backend'] == backend and r[key] == c)[what]['median']:.3g}"
                for c in columns
            ]
            lines.append(f"| {backend}, {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("-repeats", default="3")
    parser.add_argument("-data-dir", default=os.environ.get("SNN_MNIST_DATA") or "./data")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    measured = measure(["-repeats", args.repeats, "-data-dir", args.data_dir])
    (args.out / "scaling.json").write_text(json.dumps(measured, indent=1))
    draw(measured, args.out / "scaling.png")
    print("\nT\n" + table(measured["T"]["results"], "T"))
    print("\nbatch size\n" + table(measured["batch size"]["results"], "b"))
    print("\nthreads")
    for j, run in measured["threads"].items():
        print(j, {row["backend"]: round(row["train"]["median"]) for row in run["results"]})


if __name__ == "__main__":
    main()
