"""TensorBoard events of a run: the scalars of metrics.csv, figures and settings.

TensorBoard's own writer writes in a thread: on a full disk that thread prints a traceback and ends, and the caller
learns of it later or never. Here an event is written by the call that adds it, to one open file.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import FileWriter

from snn_mnist.settings.config import Config
from snn_mnist.settings.resume_rules import DECIDING
from snn_mnist.settings.words import show
from snn_mnist.storage.atomic_files import write_error
from snn_mnist.storage.metrics import METRICS, VALIDATION

PREFIX = "events.out.tfevents."
FROM_1 = ".from1"  # ends the name of a file whose steps count epochs from 1; earlier versions counted from 0
TAGS = {name: name for name in (*METRICS, *VALIDATION) if name != "epochs"} | {
    name: f"training/{name}" for name in ("lr", "seconds", "train_images_per_s", "test_images_per_s")
}
"""metrics.csv's name of a scalar → TensorBoard's. HParams sorts its metrics by name and ticks the first five: accuracy
and loss come before those that say how the training went."""


class TensorBoard:
    """The scalars of metrics.csv, and figures; flushed after each addition. A step is an epoch, from 1.

    A resumed run begins a new event file that tells readers to drop what earlier files hold of later epochs than the
    first_epoch finished ones. If there are no earlier files, or they count from 0, it tells them to drop all, and their
    scalars come from the rows of metrics.csv.
    """

    def __init__(self, folder: Path, first_epoch: int, rows: Sequence[dict[str, Any]] = ()) -> None:
        self.folder, self.first_epoch = folder, first_epoch
        earlier = any(folder.glob(f"{PREFIX}*"))
        counted = any(folder.glob(f"{PREFIX}*{FROM_1}"))
        try:
            self.writer = Writer(str(folder), purge_step=first_epoch + 1 if counted else 0 if earlier else None)
        except OSError as error:
            raise write_error(folder, error) from error
        for row in () if counted else rows:
            self.write(row)

    def write(self, row: dict[str, Any]) -> None:
        def scalars(writer: SummaryWriter) -> None:
            for name, tag in TAGS.items():
                if name in row:
                    writer.add_scalar(tag, row[name], row["epochs"])

        self.add(scalars)

    def begin(self, config: Config) -> None:
        """The run as a row of TensorBoard's HParams, with the last values of its scalars, from its first epoch on.

        Only the start of the session is written, and its end by `end`. `SummaryWriter.add_hparams` would also write
        the columns, as they are for this run: TensorBoard takes those of any one run for all. Without them it
        computes them from all runs, and ticks first the settings that differ between these.
        """
        start = hparams(hyperparameters(config), {})[1]
        self.add(lambda writer: writer.file_writer.add_summary(start, self.first_epoch))

    def end(self, epochs: int) -> None:
        end = hparams({}, {})[2]
        self.add(lambda writer: writer.file_writer.add_summary(end, epochs))

    def add(self, add: Callable[[Any], Any]) -> None:
        """Calls add(writer) for figures, histograms, settings."""
        try:
            add(self.writer)
            self.writer.flush()
        except OSError as error:
            raise write_error(self.folder, error) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # every addition was flushed and has raised its own errors
            self.writer.close()


def hyperparameters(config: Config) -> dict[str, float | str]:
    """The settings that decide the result, less those that are off or not used: numbers, and the others as text."""
    off = {name for name in ("alpha", "amp", "ema", "limit_batches") if not getattr(config, name)}
    values = {name: getattr(config, name) for name in DECIDING if name not in off | config.unused}
    return {name: value if type(value) in (int, float) else show(value) for name, value in values.items()}


class Writer(SummaryWriter):
    """torch's SummaryWriter on a new event file; with purge_step, readers drop earlier events from that step on."""

    def _get_file_writer(self) -> Any:  # called by SummaryWriter before each addition
        if self.file_writer is None:
            self.file_writer: Any = _FileWriter(self.log_dir)
            self.all_writers: Any = {self.log_dir: self.file_writer}
            if self.purge_step is not None:
                self.file_writer.add_event(Event(session_log=SessionLog(status=SessionLog.START)), self.purge_step)
        return self.file_writer


class _FileWriter(FileWriter):
    def __init__(self, folder: str) -> None:
        self.event_writer = _EventFile(Path(folder))


class _EventFile:
    """A new event file, with the methods of tensorboard's EventFileWriter that torch's FileWriter calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Readers take the files in the order of their names: a later file needs a later second, also after the clock
        # was set back.
        times = [path.name.removeprefix(PREFIX)[:10] for path in folder.glob(f"{PREFIX}*")]
        second = max([int(time.time()), *(int(digits) + 1 for digits in times if digits.isdecimal())])
        path = folder / f"{PREFIX}{second:010d}.{socket.gethostname()}.{os.getpid()}{FROM_1}"
        self.records = RecordWriter(open(path, "xb"))  # noqa: SIM115
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.flush()

    def get_logdir(self) -> str:
        return str(self.folder)

    def add_event(self, event: Event) -> None:
        self.records.write(event.SerializeToString())

    def flush(self) -> None:
        self.records.flush()

    def close(self) -> None:
        self.records.close()
