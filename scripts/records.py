"""Seconds of training to 92.5, 97 and 98 % mean test accuracy on this machine's cores: the tables of docs/records.md.

    SNN_MNIST_DATA=DIR python scripts/records.py OUT_DIR [MARK ...]

A record is a recipe of fixed length that is trained with SEEDS seeds and tested after its last epoch only; the mean of
these accuracies is at or above the mark. Its time is that of the training steps: batch order, encoding, forward and
backward pass, optimiser. Start, compilation, reading the data, the test and the files are not part of it; the whole
command is timed beside it.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from snn_mnist.settings.config import Config
from snn_mnist.storage.environment import machine, versions
from snn_mnist.storage.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 5
RECORDS = {
    "92.5": "-config votes -votes 6 -T 4 -b 64 -lr 1e-2 -dropout 0 -epochs 1",
    "97": "-config votes -votes 20 -T 4 -lr 8e-3 -dropout 0.1 -epochs 6",
    "98": "-config votes",
}


def train(out: Path, *flags: str) -> float:
    """Run `train` without figures; return the seconds of the whole command."""
    command = [sys.executable, "-m", "snn_mnist", "train", *flags, "-no-figures", "-out-dir", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SNN_MNIST_CACHE": str(out / "cache")}
    began = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def training_seconds(run: Path) -> float:
    """Return the time of a run's training steps, without tests and files, from the speed of each epoch."""
    batch = Config.from_yaml(run / "config.yaml").b
    images = 60_000 // batch * batch
    return sum(images / row["train_images_per_s"] for row in read_metrics(run / "metrics.csv"))


def measure(out: Path, mark: str, flags: list[str]) -> tuple[str, str]:
    """Return the record's row of the table, and its line of the log."""
    whole = train(out, *flags, "-eval-every", "1000", "-name", mark, "-seeds", str(SEEDS))
    runs = sorted(out.joinpath(mark).glob("*/metrics.csv"))
    accuracies = [100 * read_metrics(file)[-1]["test_acc"] for file in runs]
    seconds = [training_seconds(file.parent) for file in runs]
    mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
    row = (
        f"| {mark} % | **{statistics.median(seconds):.2f}** [{min(seconds):.2f}, {max(seconds):.2f}] "
        f"| {mean:.2f} ± {deviation:.2f} %{'' if mean >= float(mark) else ', not reached'} | {SEEDS} "
        f"| {whole / SEEDS:.1f} | `train {' '.join(flags)}` |"
    )
    log = ", ".join(f"{spent:.2f} s {right:.2f} %" for spent, right in zip(seconds, accuracies, strict=True))
    return row, f"- {mark} %: {log}"


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out, marks = Path(sys.argv[1]).resolve(), sys.argv[2:] or RECORDS
    first, second = (train(out, "-config", "votes", "-limit-batches", "1", "-epochs", "1") for _ in range(2))
    results = [measure(out, mark, RECORDS[mark].split()) for mark in marks]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    packages = ", ".join(f"{name} {versions()[name]}" for name in ("torch", "numba"))
    print(f"{machine()}; {packages}; commit {commit.strip()}; compilation {first - second:.0f} s")
    head = "training, s | test accuracy | runs | whole command, s per run | command"
    print(f"| mark | {head} |\n|{'---|' * 6}")
    print("\n".join(row for row, _ in results) + "\n")
    print("\n".join(log for _, log in results))


if __name__ == "__main__":
    main()
