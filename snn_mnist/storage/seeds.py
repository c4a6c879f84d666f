"""The directory of the runs of `-seeds`: seed0, seed1, … and seeds.json, which sums them up."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import MAX_SEED, MAX_SEEDS, Config
from snn_mnist.storage.atomic_files import write_file
from snn_mnist.storage.metrics import read_metrics

SEEDS, RUNS = "seeds.json", "seed[0-9]*"  # the file, and the pattern of the runs' names


def is_group(path: str | None) -> bool:
    """Whether this is a directory of -seeds."""
    return path is not None and os.path.isfile(os.path.join(path, SEEDS))


def chosen(config: Config, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of the epoch that checkpoint_max.pth holds: the first with the highest accuracy on the held-out images,
    without -val on the test images."""
    tested = [row for row in rows if "test_acc" in row]
    return max(tested, key=lambda row: row.get("val_acc", row["test_acc"]), default=None)


@dataclass(frozen=True)
class Wanted:
    """What seeds.json says of the runs: seeds from `first` up, and the epochs that each is trained for."""

    first: int
    seeds: int
    epochs: int


def read_wanted(group: Path) -> Wanted | None:
    """None where seeds.json is missing or damaged."""
    try:
        found = json.loads((group / SEEDS).read_text(encoding="utf-8"))
        read = Wanted(int(found["first_seed"]), int(found["seeds"]), int(found["epochs"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return read if 0 <= read.first <= MAX_SEED and 1 <= read.seeds <= MAX_SEEDS and read.epochs >= 1 else None


def summary(group: Path) -> dict[str, Any]:
    """Mean ± std (n - 1) over the finished runs of a directory of -seeds: of the test accuracy after the last epoch,
    and with -val of the checkpoint that the held-out images chose. Accuracies are shares of 1.

    All runs are as long as the longest has been trained, or as seeds.json says; those that are shorter do not count.
    """
    runs: dict[int, tuple[Config, list[dict[str, Any]]]] = {}
    for file in sorted(group.glob(f"{RUNS}/metrics.csv")):
        try:
            config, rows = Config.from_yaml(file.parent / "config.yaml"), read_metrics(file)
        except (SNNError, UsageError):
            continue
        if config.seed not in runs or _epochs(rows) > _epochs(runs[config.seed][1]):
            runs[config.seed] = config, rows
    least = Wanted(
        min(runs, default=0), max(len(runs), 1), max((config.epochs for config, _ in runs.values()), default=1)
    )
    want = read_wanted(group) or least
    epochs = max([want.epochs, *(_epochs(rows) for _, rows in runs.values())])
    finished = {seed: run for seed, run in runs.items() if _epochs(run[1]) == epochs}
    best = {seed: chosen(*run) for seed, run in finished.items() if run[0].val}
    return {
        "first_seed": want.first,
        "seeds": max(want.seeds, len(runs)),
        "epochs": epochs,
        "finished": len(finished),
        "last_epoch": _spread(
            {seed: rows[-1]["test_acc"] for seed, (_, rows) in finished.items() if "test_acc" in rows[-1]}
        ),
        "chosen_by_val": _spread({seed: row["test_acc"] for seed, row in best.items() if row}),
    }


def _epochs(rows: Sequence[Mapping[str, Any]]) -> int:
    return rows[-1]["epochs"] if rows else 0


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


def write_summary(group: Path, want: Wanted | None = None) -> None:
    """Writes seeds.json; want: what it shall say of the runs, if not the same as before."""
    found = summary(group)
    if want:
        found |= {"first_seed": want.first, "seeds": want.seeds, "epochs": want.epochs}
    write_file(group / SEEDS, json.dumps(found, indent=2) + "\n")


def spread_text(spread: Mapping[str, Any] | None) -> str:
    """'91.40 ± 0.10 %'"""
    if spread is None:
        return "none"
    std = "" if spread["std"] is None else f" ± {100 * spread['std']:.2f}"
    return f"{100 * spread['mean']:.2f}{std} %"
