"""The directory of the runs of `-seeds`: seed0, seed1, … and seeds.json, which sums them up."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.runs.atomic_files import write_file
from snn_mnist.runs.config import Config
from snn_mnist.runs.metrics import read_metrics

SEEDS, RUNS = "seeds.json", "seed[0-9]*"  # the file, and the pattern of the runs' names


def is_group(path: str | None) -> bool:
    """Whether this is a directory of -seeds."""
    return path is not None and os.path.isfile(os.path.join(path, SEEDS))


def chosen(config: Config, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of the epoch that checkpoint_max.pth holds: the first with the highest accuracy on the held-out images,
    without -val on the test images."""
    tested = [row for row in rows if "test_acc" in row]
    return max(tested, key=lambda row: row.get("val_acc", row["test_acc"]), default=None)


def summary(group: Path) -> dict[str, Any]:
    """Mean ± std (n - 1) over the finished runs of a directory of -seeds: of the test accuracy after the last epoch,
    and with -val of the checkpoint that the held-out images chose. Accuracies are shares of 1."""
    last: dict[int, float] = {}
    best: dict[int, float] = {}
    runs, finished = set(), set()
    for file in sorted(group.glob(f"{RUNS}/metrics.csv")):
        try:
            config, rows = Config.from_yaml(file.parent / "config.yaml"), read_metrics(file)
        except (SNNError, UsageError):
            continue
        seed = config.seed
        runs.add(seed)
        if seed not in finished and rows and rows[-1]["epoch"] + 1 >= config.epochs:
            finished.add(seed)
            if "test_acc" in rows[-1]:
                last[seed] = rows[-1]["test_acc"]
            if config.val and (row := chosen(config, rows)):
                best[seed] = row["test_acc"]
    first, count = kept(group)
    return {
        "first_seed": min(runs, default=0) if first is None else first,
        "seeds": max(count, len(runs)),
        "finished": len(finished),
        "last_epoch": _spread(last),
        "chosen_by_val": _spread(best),
    }


def _spread(values: dict[int, float]) -> dict[str, Any] | None:
    """None without values; no std of a single one."""
    if not values:
        return None
    numbers = [values[seed] for seed in sorted(values)]
    return {
        "mean": statistics.mean(numbers),
        "std": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "of_seed": {str(seed): values[seed] for seed in sorted(values)},
    }


def write_summary(group: Path, seeds: range | None = None) -> None:
    """Writes seeds.json; seeds: all that are wanted, where it shall not name the same as before."""
    found = summary(group)
    if seeds is not None:
        found |= {"first_seed": seeds.start, "seeds": len(seeds)}
    write_file(group / SEEDS, json.dumps(found, indent=2) + "\n")


def kept(group: Path) -> tuple[int | None, int]:
    """The first seed and the number of seeds that seeds.json names; (None, 0) where it is missing or damaged."""
    try:
        found = json.loads((group / SEEDS).read_text(encoding="utf-8"))
        return int(found["first_seed"]), int(found["seeds"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None, 0


def spread_text(spread: Mapping[str, Any] | None) -> str:
    """'91.40 ± 0.10 %'"""
    if spread is None:
        return "none"
    std = "" if spread["std"] is None else f" ± {100 * spread['std']:.2f}"
    return f"{100 * spread['mean']:.2f}{std} %"
