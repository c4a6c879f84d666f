"""The metrics of a run, one row per epoch: metrics.csv and TensorBoard; mean ± std of repeated measurements.

The column `epochs` counts the finished epochs, from 1, as the console, the figures and TensorBoard do.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import socket
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError, reason
from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.settings.options import show
from snn_mnist.storage.atomic_files import write_file, writing

COURSE = ("lr", "train_images_per_s", "test_images_per_s", "seconds")  # how the training went
METRICS = ("epochs", "train_loss", "train_acc", "test_loss", "test_acc", "max_test_acc", *COURSE)
VALIDATION = ("val_loss", "val_acc")
PREFIX = "events.out.tfevents."


class MetricsFile:
    """The open metrics.csv of a run. A row is synced to disk before the checkpoint of its epoch is written.

    A resumed run first drops the rows of more than its finished `epochs`, which it writes again. A damaged file is an
    error before anything is written.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], epochs: int) -> None:
        self.path, self.columns = path, columns
        self.rows = [row for row in read_metrics(path) if row["epochs"] <= epochs] if path.exists() else []
        write_file(path, csv_text(self.rows, columns))

    def append(self, row: Mapping[str, Any]) -> None:
        with writing(self.path), open(self.path, "r+b") as file:  # "a" would make a removed file anew, without header
            file.seek(0, os.SEEK_END)
            file.write(csv_text([row], self.columns, header=False).encode())
            file.flush()
            os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.csv as numbers, without a last line that has no line end."""
    rows: list[dict[str, Any]] = []
    try:
        for row in csv.DictReader(path.read_text(encoding="utf-8").split("\n")[:-1], restval="missing", strict=True):
            epochs = int(row["epochs"])
            rows.append({name: float(text) for name, text in row.items() if text} | {"epochs": epochs})
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise SNNError(f"{path} can't be read after row {len(rows)} ({reason(error)}); mend or remove it") from error
    return rows


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), header: bool = True) -> str:
    """Return a table of the rows; its columns are these, by default all names that occur in the rows."""
    text = io.StringIO()
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def mean_std(values: Collection[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation (n - 1); None as that of a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def percent(shares: Collection[float]) -> str:
    """Return '92.84 ± 0.05 %', mean and standard deviation; of one share '92.84 %'."""
    mean, std = mean_std(shares)
    return f"{100 * mean:.2f} %" if std is None else f"{100 * mean:.2f} ± {100 * std:.2f} %"


class TensorBoard:
    """A new file of TensorBoard events: scalars, pictures and settings; a step is a number of finished epochs.

    An event is written by the call that adds it: torch's SummaryWriter writes in a thread, of whose errors on a full
    disk the caller learns later or never. Where there are event files already, it tells readers to drop what they hold
    of later epochs than `epochs`.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder, self.epochs = folder, epochs
        # Readers take the files in the order of their names: a later file needs a later second, also after the clock
        # was set back.
        earlier = [int(path.name.removeprefix(PREFIX)[:10]) for path in folder.glob(f"{PREFIX}{'[0-9]' * 10}.*")]
        second = max([int(time.time()), *(found + 1 for found in earlier)])
        with writing(folder):
            file = open(folder / f"{PREFIX}{second:010d}.{socket.gethostname()}.{os.getpid()}", "xb")  # noqa: SIM115
        self._records = RecordWriter(file)
        self.add(file_version="brain.Event:2")
        if earlier:
            self.add(step=epochs + 1, session_log={"status": "START"})

    def add(self, **event: Any) -> None:
        """Write an event with these fields, such as step and summary; SNNError where the disk is full."""
        from tensorboard.compat.proto.event_pb2 import Event

        with writing(self.folder):
            self._records.write(Event(wall_time=time.time(), **event).SerializeToString())
            self._records.flush()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add an epoch's scalars; HParams ticks the first five by name: accuracy and loss, not `training/…`."""
        tags = {name: f"training/{name}" if name in COURSE else name for name in (*METRICS[1:], *VALIDATION)}
        values = [{"tag": tag, "simple_value": row[name]} for name, tag in tags.items() if name in row]
        self.add(step=row["epochs"], summary={"value": values})

    def begin(self, config: Config) -> None:
        """Add the run to HParams, without columns: TensorBoard then computes them, and ticks settings that differ."""
        from torch.utils.tensorboard.summary import hparams

        self.add(step=self.epochs, summary=hparams(hyperparameters(config), {})[1])

    def close(self) -> None:
        with contextlib.suppress(OSError):  # every addition was flushed and has raised its own errors
            self._records.close()


def hyperparameters(config: Config) -> dict[str, float | str]:
    """Return the settings that decide the result and are in use: numbers, and the others as text."""
    off = {name for name in ("alpha", "amp", "ema", "limit_batches") if not getattr(config, name)}
    values = {name: getattr(config, name) for name in DECIDING if name not in off | config.unused.keys()}
    return {name: value if type(value) in (int, float) else show(value) for name, value in values.items()}
