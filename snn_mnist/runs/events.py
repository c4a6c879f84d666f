"""A SummaryWriter whose faults come out where they happen.

TensorBoard's own writer works in a thread: on a full disk that thread prints a traceback and ends, the caller learns
of it later or never, and a log directory that has vanished is made anew with the middle of a file. Here an event is
written where it is added, to one open file.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.writer import FileWriter

PREFIX = "events.out.tfevents."


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
