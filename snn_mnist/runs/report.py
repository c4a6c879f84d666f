"""What a run leaves behind and shows: its directory, metrics.csv, TensorBoard events, the progress bar."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from snn_mnist import __version__
from snn_mnist.errors import SNNError
from snn_mnist.runs import machine
from snn_mnist.runs.atomic_files import cant_write, reason, write_whole

METRICS = (
    "epoch", "train_loss", "train_acc", "test_loss", "test_acc", "max_test_acc", "lr",
    "train_images_per_s", "test_images_per_s", "seconds",
)  # fmt: skip
VALIDATION = ("val_loss", "val_acc")
SCALARS = tuple(name for name in METRICS if name != "epoch") + VALIDATION


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing."""
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise cant_write(path, error) from error


def note_environment(path: Path, place: str) -> None:
    """environment.json: what began the run, and under 'resumed' what went on with it."""
    start = environment(place)
    try:
        first = json.loads(path.read_text(encoding="utf-8"))
        first["resumed"] = [*first.get("resumed", []), start]
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or none to be read
        first = start
    write_text(path, json.dumps(first, indent=2))


def environment(place: str) -> dict[str, Any]:
    """Command, machine and versions of this process."""
    import numba
    import numpy
    import torch

    return {
        "command": shlex.join([Path(sys.executable).name, "-m", "snn_mnist", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "place": place,
        "machine": f"{machine.processor()}, {os.cpu_count()} cores, {platform.platform()}",
        **({"gpu": machine.gpu(torch.cuda.current_device())} if torch.cuda.is_initialized() else {}),
        "versions": {
            "snn_mnist": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numba": numba.__version__,
            "numpy": numpy.__version__,
        },
    }


class MetricsFile:
    """metrics.csv: a row an epoch, synced before the checkpoint of that epoch is written.

    A resumed run first drops the rows that its checkpoint does not know of, so none is doubled or missing. A damaged
    file is an error before anything is written; `missing` says which rows of finished epochs it lacks.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], first_epoch: int) -> None:
        self.path, self.columns = path, columns
        rows = read_metrics(path) if path.exists() else []
        self.rows = [row for row in rows if row["epoch"] < first_epoch]
        self.missing = _missing(self.rows, first_epoch)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(path, text.getvalue())

    def append(self, row: dict[str, Any]) -> None:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", lineterminator="\n").writerow(row)
        try:
            with open(self.path, "r+b") as file:  # not "a": that would begin a vanished file anew, without its header
                file.seek(0, os.SEEK_END)
                file.write(text.getvalue().encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cant_write(self.path, error) from error


def _missing(rows: list[dict[str, Any]], first_epoch: int) -> str:
    """'epochs 2, 3' (counted from 1): the finished ones without a row; '' where each has one."""
    present = {row["epoch"] for row in rows}
    start = min(present, default=0)  # a run that began with the checkpoint of another begins with a later epoch
    gaps = [str(epoch + 1) for epoch in range(start, first_epoch) if epoch not in present]
    if len(gaps) > 8:
        gaps[4:-1] = ["…"]
    return f"epoch{'s' if gaps[1:] else ''} {', '.join(gaps)}" if gaps else ""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a metrics.csv, numbers as numbers; a last line without its end is left out."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise SNNError(f"{path} can't be read ({reason(error)}); check the file") from error
    rows: list[dict[str, Any]] = []
    reader = csv.DictReader(lines, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError("more or fewer values than names in the first line")
            values = {name: float(text) for name, text in row.items() if text}
            epoch = int(row["epoch"])
            if rows and epoch <= rows[-1]["epoch"]:
                raise ValueError(f"epoch {epoch} after {rows[-1]['epoch']}")
            rows.append(values | {"epoch": epoch})
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        what = "no column epoch" if isinstance(error, KeyError) else reason(error)
        raise SNNError(f"{path} has a damaged line {reader.line_num} ({what}); mend or remove the file") from error
    return rows


class TensorBoard:
    """Scalars of metrics.csv's names, and figures. Flushed before each checkpoint.

    A resumed run begins a new event file that tells readers to forget what earlier ones hold from its epoch on; where
    those have vanished, their scalars come from the rows of metrics.csv.
    """

    def __init__(self, folder: Path, first_epoch: int, rows: Sequence[dict[str, Any]] = ()) -> None:
        from snn_mnist.runs.events import PREFIX, Writer

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


class Progress:
    """A tqdm bar on a terminal; elsewhere one line an epoch. Speed and remaining time come from the bar."""

    def __init__(self, epochs: int, interactive: bool | None = None) -> None:
        from tqdm import tqdm

        self.epochs, self.tqdm = epochs, tqdm
        self.bar: Any = None
        self.interactive = sys.stderr.isatty() if interactive is None else interactive

    def start(self, epoch: int, images: int, done: int) -> None:
        size = shutil.get_terminal_size((100, 24))  # also for terminals that say 0 x 0
        self.bar = self.tqdm(
            total=images, initial=done, unit=" images", unit_scale=True, leave=False, disable=not self.interactive,
            desc=f"epoch {epoch + 1}/{self.epochs}", ncols=min(size.columns, 120), nrows=size.lines,
            ascii=not _unicode(),
        )  # fmt: skip
        self._shown = time.perf_counter()

    def due(self) -> bool:
        """Whether the figures behind the bar are old enough to compute them anew."""
        return self.interactive and time.perf_counter() - self._shown > 0.25

    def figures(self, loss: float, accuracy: float) -> None:
        self._shown = time.perf_counter()
        self.bar.set_postfix_str(f"loss {loss:.4f} acc {accuracy:.2%}", refresh=False)

    def step(self, images: int) -> None:
        self.bar.update(images)

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def line(self, text: str) -> None:
        print(text, flush=True)


def _unicode() -> bool:
    return (getattr(sys.stderr, "encoding", "") or "").lower().replace("-", "").startswith("utf")
