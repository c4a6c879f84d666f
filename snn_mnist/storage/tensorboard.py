"""TensorBoard events of a run: the scalars of metrics.csv, pictures and settings.

An event is written by the call that adds it. torch's SummaryWriter writes in a thread, which on a full disk prints a
traceback and ends, and the caller learns of it later or never.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams

from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.settings.options import show
from snn_mnist.storage.atomic_files import writing
from snn_mnist.storage.metrics import COURSE, METRICS, VALIDATION

PREFIX = "events.out.tfevents."


class TensorBoard:
    """A new event file; a step is a number of finished epochs.

    Where there are event files already, it tells readers to drop what they hold of later epochs than `epochs`;
    else it begins with the scalars of `rows`.
    """

    def __init__(self, folder: Path, epochs: int, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.folder, self.epochs = folder, epochs
        # Readers take the files in the order of their names: a later file needs a later second, also after the clock
        # was set back.
        earlier = [int(path.name.removeprefix(PREFIX)[:10]) for path in folder.glob(f"{PREFIX}{'[0-9]' * 10}.*")]
        second = max([int(time.time()), *(found + 1 for found in earlier)])
        with writing(folder):
            file = open(folder / f"{PREFIX}{second:010d}.{socket.gethostname()}.{os.getpid()}", "xb")  # noqa: SIM115
        self._records = RecordWriter(file)
        self._write(Event(file_version="brain.Event:2"))
        if earlier:
            self._write(Event(step=epochs + 1, session_log=SessionLog(status=SessionLog.START)))
        else:
            for row in rows:
                self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add the scalars of an epoch's row of metrics.

        HParams sorts its metrics by name and ticks the first five: accuracy and loss come before `training/…`.
        """
        tags = {name: f"training/{name}" if name in COURSE else name for name in (*METRICS[1:], *VALIDATION)}
        values = [Summary.Value(tag=tag, simple_value=row[name]) for name, tag in tags.items() if name in row]
        self.add(row["epochs"], Summary(value=values))

    def begin(self, config: Config) -> None:
        """Add the run as a row of TensorBoard's HParams, which shows the last values of its scalars.

        Only the start of the session is written, and its end by `end`, but not the columns: TensorBoard would take
        those of any one run for all. Without them it computes them from all runs, and ticks first the settings that
        differ between these.
        """
        self.add(self.epochs, hparams(hyperparameters(config), {})[1])

    def end(self, epochs: int) -> None:
        self.add(epochs, hparams({}, {})[2])

    def add(self, step: int, *summaries: Summary) -> None:
        for summary in summaries:
            self._write(Event(step=step, summary=summary))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with writing(self.folder):
            self._records.write(event.SerializeToString())
            self._records.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # every addition was flushed and has raised its own errors
            self._records.close()


def hyperparameters(config: Config) -> dict[str, float | str]:
    """Return the settings that decide the result and are in use: numbers, and the others as text."""
    off = {name for name in ("alpha", "amp", "ema", "limit_batches") if not getattr(config, name)}
    values = {name: getattr(config, name) for name in DECIDING if name not in off | config.unused.keys()}
    return {name: value if type(value) in (int, float) else show(value) for name, value in values.items()}
