"""TensorBoard events of a run: scalars under metrics.csv's names, figures and settings.

TensorBoard's own writer works in a thread: on a full disk that thread prints a traceback and ends, and the caller
learns of it later or never. Here an event is written where it is added, to one open file.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.writer import FileWriter

from snn_mnist.runs.atomic_files import cant_write
from snn_mnist.runs.metrics import METRICS, VALIDATION

PREFIX = "events.out.tfevents."
SCALARS = tuple(name for name in METRICS if name != "epoch") + VALIDATION


class TensorBoard:
    """Scalars of metrics.csv's names, and figures. Flushed before each checkpoint.

    A resumed run begins a new event file that tells readers to forget what earlier ones hold from its epoch on; where
    those have vanished, their scalars come from the rows of metrics.csv.
    """

    def __init__(self, folder: Path, first_epoch: int, rows: Sequence[dict[str, Any]] = ()) -> None:
        self.folder = folder
        earlier = any(folder.glob(f"{PREFIX}*"))
        try:
            self.writer = Writer(folder, first_epoch if earlier else None)
        except OSError as error:
            raise cant_write(folder, error) from error
        for row in () if earlier else rows:
            self.write(row)

    def write(self, row: dict[str, Any]) -> None:
        def scalars(writer: Any) -> None:
            for name in SCALARS:
                if name in row:
                    writer.add_scalar(name, row[name], row["epoch"])

        self.add(scalars)

    def add(self, add: Callable[[Any], Any]) -> None:
        """Calls add(writer) for figures, histograms, settings."""
        try:
            add(self.writer)
            self.writer.flush()
        except OSError as error:
            raise cant_write(self.folder, error) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # every addition has been flushed and has raised its own faults
            self.writer.close()


class Writer(SummaryWriter):
    """Writes to a new event file in `folder`; with purge_step, readers forget earlier files from that step on."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        self._events = _FileWriter(folder)
        if purge_step is not None:
            self._events.add_event(Event(session_log={"status": 1}), purge_step)  # SessionLog.START
        super().__init__(str(folder))

    def _get_file_writer(self) -> FileWriter:
        self.all_writers: Any = {self.log_dir: self._events}  # what flush and close of the base class go through
        return self._events


class _FileWriter(FileWriter):
    def __init__(self, folder: Path) -> None:
        self.event_writer = _EventFile(folder)


class _EventFile:
    """Events in TFRecord framing: length [8 bytes], its checksum [4], the event, its checksum [4]."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Readers take the files in the order of their names, so a clock that was set back must not show in them.
        times = [path.name.removeprefix(PREFIX)[:10] for path in folder.glob(f"{PREFIX}*")]
        second = max([int(time.time()), *(int(digits) + 1 for digits in times if digits.isdecimal())])
        self.file = open(folder / f"{PREFIX}{second:010d}.{socket.gethostname()}.{os.getpid()}", "xb")  # noqa: SIM115
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.flush()

    def get_logdir(self) -> str:
        return str(self.folder)

    def add_event(self, event: Event) -> None:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        self.file.write(length + next(checksums) + data + next(checksums))

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()
