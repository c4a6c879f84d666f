"""Compares settings of the 784-10 layer honestly: judged on 5,000 held-out training images, never on the test images.

    python scripts/recipe.py search OUT_DIR                 every row of the table, one seed each
    python scripts/recipe.py confirm OUT_DIR -config FILE   5 seeds x 10 encodings of the test images

A row is a run of `python -m snn_mnist train`; its held-out accuracy decides, its test accuracy is shown beside it.
Rows whose run is finished are not run again, so `search` can be stopped and started anew.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BASE = "-val 5000 -epochs 20 -opt adam -schedule cosine -lr 5e-3 -tau 2.0 -T 100 -b 64 -eval-every 5"
ROWS = [
    "",
    "-tau 1.1",
    "-tau 1.3",
    "-tau 4",
    "-neuron if",
    "-tau 1.1 -lr 2e-3",
    "-tau 1.1 -lr 1e-2",
    "-tau 1.1 -lr 2e-2",
    "-tau 1.1 -b 256 -lr 1e-2",
    "-tau 1.1 -b 256 -lr 2e-2",
    "-tau 1.1 -schedule constant -ema 0.999",
    "-tau 1.1 -ema 0.999",
    "-tau 1.1 -alpha 1",
    "-tau 1.1 -alpha 4",
    "-tau 1.1 -alpha 0.5",
    "-tau 1.1 -v-threshold 0.5",
    "-tau 1.1 -v-threshold 2",
    "-tau 1.1 -v-reset none",
    "-tau 2 -v-reset none",
    "-neuron if -v-reset none",
    "-tau 1.1 -T 200",
    "-tau 1.1 -T 50",
    "-tau 1.1 -surrogate sigmoid",
    "-tau 1.1 -surrogate rect",
    "-tau 1.1 -surrogate piecewise_quadratic",
    "-tau 1.1 -opt sgd -lr 5",
    # a second round around the best of the first
    "-tau 1.1 -lr 1e-3",
    "-tau 1.1 -lr 2e-3 -alpha 1",
    "-tau 1.1 -lr 1e-3 -alpha 1",
    "-tau 1.1 -lr 2e-3 -v-threshold 2",
    "-tau 1.1 -lr 2e-3 -v-threshold 2 -alpha 1",
    "-tau 1.1 -lr 2e-3 -v-threshold 4 -alpha 0.5",
    "-tau 1.1 -lr 2e-3 -T 200",
    "-tau 1.1 -lr 1e-3 -T 200",
    "-tau 1.02 -lr 2e-3",
    "-tau 1.3 -lr 2e-3",
    "-tau 2 -lr 2e-3",
    "-tau 2 -lr 1e-3",
    "-tau 1.1 -lr 1e-3 -b 32",
    "-tau 1.1 -lr 2e-3 -b 128",
    "-tau 1.1 -lr 5e-4 -b 16",
    "-tau 1.1 -lr 2e-3 -v-reset none",
    # the best of these for the 30 epochs of configs/best.yaml
    "-tau 1.1 -lr 2e-3 -T 200 -epochs 30",
    "-tau 1.3 -lr 2e-3 -T 200 -epochs 30",
    "-tau 1.1 -lr 3e-3 -T 200 -epochs 30",
    "-tau 1.02 -lr 2e-3 -T 200 -epochs 30",
]


def train(flags: str, out: Path, threads: int) -> dict[str, float]:
    """Runs training with these flags, or takes the finished run; returns the last row of its metrics.csv."""
    name = flags.replace("-", "").replace(" ", "_") or "base"
    folder = out / name
    command = f"{BASE} {flags} -j {threads} -no-figures -out-dir {shlex.quote(str(folder))}"
    done = train_or_resume(folder, shlex.split(command))
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stderr}")
    metrics = min(folder.glob("*/metrics.csv"))
    with metrics.open() as file:
        last = list(csv.DictReader(file))[-1]
    return {key: float(value) for key, value in last.items() if value}


def train_or_resume(folder: Path, flags: list[str]) -> subprocess.CompletedProcess[str]:
    """Starts the run of this folder, or goes on with it; a finished one has nothing to do."""
    started = sorted(folder.glob("*/checkpoint_latest.pth"))
    what = ["-resume", str(started[0].parent)] if started else flags
    return subprocess.run([sys.executable, "-m", "snn_mnist", "train", *what], capture_output=True, text=True)


def search(out: Path, jobs: int, rows: list[str]) -> None:
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda flags: train(flags, out, 1), rows))
    print(f"every row: python -m snn_mnist train {BASE} FLAGS\n")
    print("| FLAGS | held-out accuracy | test accuracy, last epoch |\n|---|---|---|")
    for flags, row in sorted(zip(rows, results, strict=True), key=lambda pair: -pair[1]["val_acc"]):
        print(f"| `{flags or '(none)'}` | {row['val_acc']:.2%} | {row['test_acc']:.2%} |")


def confirm(out: Path, config: str, seeds: int, encodings: int, threads: int) -> None:
    means: list[float] = []
    spreads: list[float] = []
    for seed in range(seeds):
        folder = out / f"seed{seed}"
        flags = ["-config", config, "-seed", str(seed), "-eval-every", "30", "-no-figures"]
        done = train_or_resume(folder, [*flags, "-j", str(threads), "-out-dir", str(folder)])
        if done.returncode:
            raise SystemExit(done.stderr)
        run = next(folder.glob("*/checkpoint_latest.pth")).parent
        tested = subprocess.run(
            [sys.executable, "-m", "snn_mnist", "eval", "-resume", str(run), "-repeats", str(encodings), "-json", "-"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        accuracy = json.loads(tested.stdout)["accuracy"]
        means.append(100 * accuracy["mean"])
        spreads.append(100 * accuracy["std"])
        print(f"seed {seed}: {means[-1]:.2f} ± {spreads[-1]:.2f} % over {encodings} encodings", flush=True)
    print(
        f"{config}: {statistics.mean(means):.2f} ± {statistics.stdev(means):.2f} % (last epoch, mean ± std over "
        f"{seeds} seeds, each the mean of {encodings} encodings; std over encodings {statistics.mean(spreads):.2f} %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("search", "confirm"))
    parser.add_argument("out", type=Path)
    parser.add_argument("-config", default="configs/best.yaml")
    parser.add_argument("-jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("-seeds", type=int, default=5)
    parser.add_argument("-encodings", type=int, default=10)
    parser.add_argument("-rows", nargs="*", help="flags of rows to run instead of the table, each quoted")
    args = parser.parse_args()
    if args.task == "search":
        search(args.out, args.jobs, ROWS if args.rows is None else args.rows)
    else:
        confirm(args.out, args.config, args.seeds, args.encodings, args.jobs)


if __name__ == "__main__":
    main()
