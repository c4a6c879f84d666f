"""What a run leaves behind and shows: its directory, metrics.csv, TensorBoard events, the progress bar."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snn_mnist import __version__
from snn_mnist.checkpoint import sync_directory
from snn_mnist.errors import SNNError

METRICS = (
    "epoch", "train_loss", "train_acc", "test_loss", "test_acc", "max_test_acc", "lr",
    "train_images_per_s", "test_images_per_s", "seconds",
)  # fmt: skip
VALIDATION = ("val_loss", "val_acc")
SCALARS = tuple(name for name in METRICS if name != "epoch") + VALIDATION


def cant_write(path: Path, fault: OSError) -> SNNError:
    return SNNError(f"{path} can't be written ({fault.strerror or fault}); free space or choose another -out-dir")


def new_run_directory(out_dir: str, name: str) -> Path:
    """Makes OUT_DIR/name, or name-2, name-3, … where it is taken; mkdir decides between runs that start at once."""
    base = Path(out_dir)
    try:
        base.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = base / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except OSError as fault:
        raise SNNError(f"no run directory can be made in {base} ({fault.strerror}); choose another -out-dir") from fault


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as fault:
        temporary.unlink(missing_ok=True)
        raise cant_write(path, fault) from fault


def environment(place: str) -> str:
    """The text of environment.json: what produced the run."""
    import numba
    import numpy
    import torch

    return json.dumps(
        {
            "command": shlex.join([Path(sys.executable).name, "-m", "snn_mnist", *sys.argv[1:]]),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "place": place,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
            "versions": {
                "snn_mnist": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numba": numba.__version__,
                "numpy": numpy.__version__,
            },
        },
        indent=2,
    )


class MetricsFile:
    """metrics.csv: a row an epoch, synced before the checkpoint of that epoch is written.

    A resumed run first drops the rows that its checkpoint does not know of, so none is doubled or missing.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], first_epoch: int) -> None:
        self.path, self.columns = path, columns
        kept = [row for row in read_metrics(path) if row["epoch"] < first_epoch] if path.exists() else []
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        write_text(path, text.getvalue())

    def append(self, row: dict[str, Any]) -> None:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", lineterminator="\n").writerow(row)
        try:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write(text.getvalue())
                file.flush()
                os.fsync(file.fileno())
        except OSError as fault:
            raise cant_write(self.path, fault) from fault


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a metrics.csv, numbers as numbers; a last line without its end is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as fault:
        raise SNNError(f"{path} can't be read ({fault}); check the file") from fault
    rows = []
    for row in csv.DictReader(line for line in lines if line.endswith("\n")):
        try:
            values = {name: float(text) for name, text in row.items() if name and text}
            rows.append(values | {"epoch": int(row["epoch"])})
        except (KeyError, TypeError, ValueError) as fault:
            raise SNNError(f"{path} has a damaged line ({fault}); mend or remove the file") from fault
    return rows


class TensorBoard:
    """Scalars of metrics.csv's names. Flushed before each checkpoint; a resumed run purges what came after its own."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        try:
            self.writer = SummaryWriter(str(folder), purge_step=first_epoch or None)
        except OSError as fault:
            raise cant_write(folder, fault) from fault

    def write(self, row: dict[str, Any]) -> None:
        self._guarded(lambda: [self.writer.add_scalar(n, row[n], row["epoch"]) for n in SCALARS if n in row])

    def add(self, add: Callable[[Any], Any]) -> None:
        """Calls add(writer) for figures, histograms, settings."""
        self._guarded(lambda: add(self.writer))

    def close(self) -> None:
        self._guarded(self.writer.close)

    def _guarded(self, action: Callable[[], Any]) -> None:
        try:
            action()
            self.writer.flush()
        except OSError as fault:
            raise cant_write(self.folder, fault) from fault


class Progress:
    """A tqdm bar on a terminal; elsewhere one line an epoch. Speed and remaining time come from the bar."""

    def __init__(self, epochs: int) -> None:
        from tqdm import tqdm

        self.epochs, self.tqdm = epochs, tqdm
        self.bar: Any = None
        self.live = sys.stderr.isatty()

    def start(self, epoch: int, images: int, done: int) -> None:
        width = shutil.get_terminal_size((100, 24)).columns
        self.bar = self.tqdm(
            total=images, initial=done, unit=" images", unit_scale=True, leave=False, disable=not self.live,
            desc=f"epoch {epoch + 1}/{self.epochs}", ncols=min(width, 120), dynamic_ncols=False, ascii=not _unicode(),
        )  # fmt: skip
        self._shown = time.perf_counter()

    def due(self) -> bool:
        """Whether the figures behind the bar are old enough to compute them anew."""
        return self.live and time.perf_counter() - self._shown > 0.25

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
