"""The runs in directories: their settings, results and state, read from their files without PyTorch."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from snn_mnist.errors import SNNError
from snn_mnist.settings.config import Config
from snn_mnist.storage.atomic_files import is_locked, reason
from snn_mnist.storage.directory import LATEST, run_directories
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.storage.position import Position, read_plain
from snn_mnist.storage.seeds import chosen


@dataclass(frozen=True)
class Run:
    """A run directory. Accuracies are shares of 1; None where there is none yet."""

    folder: Path
    config: Config
    trained: float  # when its last checkpoint was written, seconds since 1970
    state: str  # 'running', 'finished' or 'interrupted'
    step: int  # of the epoch in which it was interrupted; 0: between two epochs
    epochs: int  # finished ones
    last: float | None  # on the test images after the last epoch
    best: float | None  # on the test images, of checkpoint_max.pth
    last_val: float | None  # on the held-out images
    best_val: float | None
    images_per_s: float | None  # of training, the median over the epochs
    converted: bool  # of the verb convert: the accuracies are those of the ANN


def read_run(folder: Path) -> Run:
    """Read a run; SNNError, OSError where its files are missing or damaged."""
    for name in ("config.yaml", "metrics.csv"):
        if not (folder / name).is_file():
            raise SNNError(f"{folder} has no {name}")
    config, rows = Config.from_yaml(folder / "config.yaml"), read_metrics(folder / "metrics.csv")
    file, position, converted = folder / "metrics.csv", Position(), False
    if (folder / LATEST).is_file():  # else it has just begun
        file = folder / LATEST
        saved = read_plain(file)
        position, converted = Position.of(saved), "ann" in saved
        rows = [row for row in rows if row["epochs"] <= position.epochs]  # a resumed run writes later ones again
    running, finished = is_locked(folder), position.epochs >= config.epochs
    tests, held_out, speeds = (
        [row[name] for row in rows if name in row] for name in ("test_acc", "val_acc", "train_images_per_s")
    )
    best = chosen(rows)
    return Run(
        folder,
        config,
        trained=file.stat().st_mtime,
        state="running" if running else "finished" if finished else "interrupted",
        step=0 if running or finished else position.step,
        epochs=rows[-1]["epochs"] if rows else 0,
        last=tests[-1] if tests else None,
        best=best["test_acc"] if best else None,
        last_val=held_out[-1] if held_out else None,
        best_val=max(held_out, default=None),
        images_per_s=statistics.median(speeds) if speeds else None,
        converted=converted,
    )


def survey(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Return the runs in these directories, each once, and a line for each directory that can't be read."""
    found: dict[Path, Run] = {}
    problems: dict[str, None] = {}

    def note(path: Path, error: Exception) -> None:
        problems[str(error) if isinstance(error, SNNError) else f"{path} can't be read ({reason(error)})"] = None

    for folder in folders:
        try:
            for each in run_directories(folder, note):
                try:
                    found.setdefault(each.resolve(), read_run(each))
                except (SNNError, OSError) as error:
                    note(each, error)
        except OSError as error:
            note(folder, error)
    return list(found.values()), list(problems)


def is_converted(folder: Path) -> bool:
    """Whether the run is one of `convert`, whose metrics are those of the ANN."""
    try:
        return "ann" in read_plain(folder / LATEST)
    except (SNNError, OSError):
        return False
