"""Runs on disk: how one is named, what differs among several, and their results and state, read without PyTorch."""

import os
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError, reason
from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.settings.options import options_of, show
from snn_mnist.storage.atomic_files import is_locked
from snn_mnist.storage.checkpoint import Position, load_plain
from snn_mnist.storage.directory import LATEST, run_directories
from snn_mnist.storage.metrics import read_metrics

OPTIONS = {each.name: each for each in options_of(Config)}
ABBREVIATED = {"v_threshold": "vth", "v_reset": "vreset", "limit_batches": "limit"}
SELF_EXPLAINING = ("dataset", "neuron", "opt", "surrogate", "schedule")  # the value says which setting it is


def run_name(config: Config) -> str:
    """Return 'T100_b64_adam_lr0.001' as in the tutorial, and behind it the settings that are not the defaults.

    The number of epochs is left out, because a run may be extended, and so are the settings of the machine.
    """
    parts = [f"T{config.T}", f"b{config.b}", config.opt, f"lr{config.lr}"]
    for name in ("amp", *(each for each in DECIDING if each not in ("T", "b", "opt", "lr", "epochs", "amp"))):
        if (value := getattr(config, name)) != OPTIONS[name].default:
            prefix = "" if name in SELF_EXPLAINING else ABBREVIATED.get(name, name)
            parts.append(prefix + ("" if value is True else show(value).removesuffix(".0")))
    return "_".join(parts)[:200]


def differences(configs: Sequence[Config]) -> list[str]:
    """Return for each run 'tau 1.1, sigmoid, seed 3': what differs among these runs.

    A setting that has the same value in more than half of them is named in the others only.
    """
    found: list[list[str]] = [[] for _ in configs]
    for name in DECIDING:
        values = [getattr(config, name) for config in configs]
        usual, often = Counter(values).most_common(1)[0]
        for texts, config, value in zip(found, configs, values, strict=True):
            if often < len(values) and (value != usual or 2 * often <= len(values)) and name not in config.unused:
                text = OPTIONS[name].shown if value is None and OPTIONS[name].shown else show(value).removesuffix(".0")
                texts.append(text if name in SELF_EXPLAINING else f"{OPTIONS[name].flag[1:]} {text}")
    return list(map(", ".join, found))


def labels(runs: Mapping[Path, Config]) -> list[str]:
    """Return 'tau 1.1, seed 3' for each run, see `differences`; its shortest path where that is not enough."""
    resolved = [folder.resolve() for folder in runs]
    common = os.path.commonpath([folder.parent for folder in resolved])
    names = [os.path.relpath(path, common) for path in resolved]
    texts = differences(list(runs.values()))
    often = Counter(texts)
    return [
        name if not text else f"{text} ({name})" if often[text] > 1 else text
        for name, text in zip(names, texts, strict=True)
    ]


def best_tested(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the row of the epoch that checkpoint_max.pth holds: the first with the highest accuracy on the held-out
    images, without -val on the test images."""
    tested = [row for row in rows if "test_acc" in row]
    return max(tested, key=lambda row: row.get("val_acc", row["test_acc"]), default=None)


@dataclass(frozen=True)
class Run:
    """A run directory. Accuracies are shares of 1; None where there is none yet."""

    folder: Path
    config: Config
    state: str  # 'running', 'finished' or 'interrupted'
    step: int  # of the epoch in which it was interrupted; 0: between two epochs
    epochs_done: int
    last_test_acc: float | None  # after the last epoch
    best_test_acc: float | None  # of checkpoint_max.pth
    last_val_acc: float | None  # on the held-out images
    best_val_acc: float | None
    train_images_per_s: float | None  # the median over the epochs
    date: str  # when its last checkpoint was written, as in 2026-03-04T12:00:00+0100
    converted: bool  # of the verb convert: the accuracies are those of the ANN


def read_run(folder: Path) -> Run:
    """Read a run; SNNError, OSError where its files are missing or damaged."""
    config, rows = Config.from_yaml(folder / "config.yaml"), read_metrics(folder / "metrics.csv")
    file, state, position = folder / "metrics.csv", {}, Position()
    if (folder / LATEST).is_file():  # else it has just begun
        file = folder / LATEST
        state = load_plain(file)
        position = Position.of(state)
        rows = [row for row in rows if row["epochs"] <= position.epochs]  # a resumed run writes later ones again
    running, finished = is_locked(folder), position.epochs >= config.epochs
    tests, held_out, speeds = (
        [row[name] for row in rows if name in row] for name in ("test_acc", "val_acc", "train_images_per_s")
    )
    best = best_tested(rows)
    return Run(
        folder,
        config,
        state="running" if running else "finished" if finished else "interrupted",
        step=0 if running or finished else position.step,
        epochs_done=rows[-1]["epochs"] if rows else 0,
        last_test_acc=tests[-1] if tests else None,
        best_test_acc=best["test_acc"] if best else None,
        last_val_acc=held_out[-1] if held_out else None,
        best_val_acc=max(held_out, default=None),
        train_images_per_s=statistics.median(speeds) if speeds else None,
        date=time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(file.stat().st_mtime)),
        converted="ann" in state,
    )


def survey(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Return the runs in these directories, each once, and a line for each directory that can't be read."""
    found: dict[Path, Run] = {}
    problems: list[str] = []

    def note(path: Path, error: Exception) -> None:
        problems.append(str(error) if isinstance(error, SNNError) else f"{path} can't be read ({reason(error)})")

    for folder in folders:
        try:
            for each in run_directories(folder, note):
                try:
                    found.setdefault(each.resolve(), read_run(each))
                except (SNNError, OSError) as error:
                    note(each, error)
        except OSError as error:
            note(folder, error)
    return list(found.values()), problems
