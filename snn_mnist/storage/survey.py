"""The runs in directories: their settings, results and state, read from their files without PyTorch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError
from snn_mnist.settings.config import Config
from snn_mnist.storage.atomic_files import is_locked, reason
from snn_mnist.storage.directory import LATEST, run_directories
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.storage.position import Position, read_plain
from snn_mnist.storage.seeds import chosen


@dataclass(frozen=True)
class Run:
    """A run directory. Accuracies are shares of 1; None where there is no test yet."""

    folder: Path
    config: Config
    rows: list[dict[str, Any]]
    trained: float  # when its last checkpoint was written, seconds since 1970
    state: str  # 'running', 'finished' or 'interrupted'
    step: int  # of the epoch in which it was interrupted; 0: between two epochs
    converted: bool = False  # of the verb convert: the accuracies are those of the ANN

    @property
    def epochs_done(self) -> int:
        return self.rows[-1]["epochs"] if self.rows else 0

    @cached_property
    def last(self) -> float | None:
        return next((row["test_acc"] for row in reversed(self.rows) if "test_acc" in row), None)

    @cached_property
    def best(self) -> float | None:
        """The test accuracy of checkpoint_max.pth."""
        row = chosen(self.config, self.rows)
        return row["test_acc"] if row else None

    @cached_property
    def held_out(self) -> list[float]:
        """The accuracies on the held-out images."""
        return [row["val_acc"] for row in self.rows if "val_acc" in row]

    @property
    def last_val(self) -> float | None:
        return self.held_out[-1] if self.held_out else None

    @property
    def untested(self) -> bool:
        """Whether the held-out accuracy is the only one, as of the trials of a sweep."""
        return self.last is None and self.last_val is not None

    @property
    def last_known(self) -> float | None:
        """The test accuracy, of a run without a test the held-out one; so is `best_known`."""
        return self.last_val if self.untested else self.last

    @property
    def best_known(self) -> float | None:
        return max(self.held_out) if self.untested else self.best

    @cached_property
    def images_per_s(self) -> float | None:
        """The median over the epochs."""
        speeds = [row["train_images_per_s"] for row in self.rows if "train_images_per_s" in row]
        return statistics.median(speeds) if speeds else None

    @property
    def state_text(self) -> str:
        return f"{self.state} at step {self.step}" if self.step else self.state


def survey(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The runs in these directories, each once, and a line for each directory of a run that can't be read."""
    found: dict[Path, Run] = {}
    problems: dict[str, None] = {}

    def note(path: Path, error: OSError) -> None:
        problems[f"{path} can't be read ({reason(error)})"] = None

    for folder in folders:
        for each in _directories(folder, note):
            try:
                found.setdefault(each.resolve(), read_run(each))
            except SNNError as error:
                problems[str(error)] = None
            except OSError as error:
                note(each, error)
    return list(found.values()), list(problems)


def _directories(folder: Path, note: Callable[[Path, OSError], None]) -> list[Path]:
    try:
        return run_directories(folder, note)
    except OSError as error:
        note(folder, error)
        return []


def read_run(folder: Path) -> Run:
    """SNNError, OSError where its files are missing or damaged."""
    for name in ("config.yaml", "metrics.csv"):
        if not (folder / name).is_file():
            raise SNNError(f"{folder} has no {name}")
    config, rows = Config.from_yaml(folder / "config.yaml"), read_metrics(folder / "metrics.csv")
    file = folder / LATEST
    if not file.is_file():  # for a moment while a run begins
        return Run(folder, config, rows, (folder / "metrics.csv").stat().st_mtime, _state(folder, finished=False), 0)
    saved = read_plain(file)
    position = Position.of(saved)
    state = _state(folder, finished=position.epochs >= config.epochs)
    rows = [row for row in rows if row["epochs"] <= position.epochs]  # a resumed run writes later ones again
    step = position.step if state == "interrupted" else 0
    return Run(folder, config, rows, file.stat().st_mtime, state, step, "ann" in saved)


def is_converted(folder: Path) -> bool:
    """Whether the run is one of `convert`, whose metrics are those of the ANN."""
    try:
        return "ann" in read_plain(folder / LATEST)
    except (SNNError, OSError):
        return False


def _state(folder: Path, finished: bool) -> str:
    return "running" if is_locked(folder) else "finished" if finished else "interrupted"
