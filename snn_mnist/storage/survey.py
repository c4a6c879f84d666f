"""The runs in directories: their settings, results and state, read from their files without PyTorch."""

from __future__ import annotations

import pickle
import statistics
import zipfile
from collections import OrderedDict
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
from snn_mnist.storage.seeds import chosen

MAX_PICKLE = 1 << 20  # bytes; that of a checkpoint has a few thousand


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
        return self.rows[-1]["epoch"] + 1 if self.rows else 0

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
    epochs, step, converted = _look_into(file)
    state = _state(folder, finished=epochs >= config.epochs)
    rows = [row for row in rows if row["epoch"] < epochs]  # a resumed run writes later ones again
    return Run(folder, config, rows, file.stat().st_mtime, state, step if state == "interrupted" else 0, converted)


def is_converted(folder: Path) -> bool:
    """Whether the run is one of `convert`, whose metrics are those of the ANN."""
    try:
        return _look_into(folder / LATEST)[2]
    except (SNNError, OSError):
        return False


def _state(folder: Path, finished: bool) -> str:
    return "running" if is_locked(folder) else "finished" if finished else "interrupted"


# ---------------------------------------------------------------------------- the position in a checkpoint


class PlainValues(pickle.Unpickler):
    """Reads the plain values of a checkpoint. Its tensors become None: nothing that a file names is imported or run."""

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _nothing

    def persistent_load(self, pid: Any) -> None:
        return None


def _nothing(*_: Any) -> None:
    return None


def read_position(file: Path) -> tuple[int, int]:
    """The finished epochs of a checkpoint and the steps done of the next; SNNError where the file is damaged."""
    epochs, step, _ = _look_into(file)
    return epochs, step


def _look_into(file: Path) -> tuple[int, int, bool]:
    """`read_position`, and whether the network was converted from an ANN."""
    try:
        with zipfile.ZipFile(file) as archive:
            (entry,) = (each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
            if entry.file_size > MAX_PICKLE:
                raise ValueError(f"{entry.file_size:,} bytes of plain values")
            with archive.open(entry) as stream:
                state = PlainValues(stream).load()
        return int(state.get("epoch", -1)) + 1, int(state.get("step", 0)), "ann" in state
    except OSError:
        raise
    except Exception as error:  # meaningless bytes can fail anywhere in the unpickler
        raise SNNError(f"{file} is damaged ({reason(error)})") from error
