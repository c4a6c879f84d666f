"""metrics.csv: one row per epoch.

Its column `epochs` counts the finished epochs, from 1, as the console, the figures and TensorBoard do.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError
from snn_mnist.storage.atomic_files import reason, write_error, write_file

METRICS = (
    "epochs", "train_loss", "train_acc", "test_loss", "test_acc", "max_test_acc", "lr",
    "train_images_per_s", "test_images_per_s", "seconds",
)  # fmt: skip
VALIDATION = ("val_loss", "val_acc")


class MetricsFile:
    """The open metrics.csv of a run. A row is synced to disk before the checkpoint of its epoch is written.

    A resumed run first drops the rows of more than its finished `epochs`, which it writes again. A damaged file is an
    error before anything is written. `missing` names the finished epochs without a row.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], epochs: int) -> None:
        self.path, self.columns = path, columns
        rows = read_metrics(path) if path.exists() else []
        self.rows = [row for row in rows if row["epochs"] <= epochs]
        self.missing = _missing(self.rows, epochs)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_file(path, text.getvalue())

    def append(self, row: dict[str, Any]) -> None:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", lineterminator="\n").writerow(row)
        try:
            with open(self.path, "r+b") as file:  # "a" would create a removed file again, without its header
                file.seek(0, os.SEEK_END)
                file.write(text.getvalue().encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from error


def _missing(rows: list[dict[str, Any]], epochs: int) -> str:
    """'epochs 2, 3': the finished ones without a row; '' where each has one."""
    present = {row["epochs"] for row in rows}
    start = min(present, default=1)  # not 1 in the new directory of a run that continues another
    gaps = [str(epoch) for epoch in range(start, epochs + 1) if epoch not in present]
    if len(gaps) > 8:
        gaps[4:-1] = ["…"]
    return f"epoch{'s' if gaps[1:] else ''} {', '.join(gaps)}" if gaps else ""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.csv as numbers, without a last line that has no line end."""
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
            epochs, last = int(row.pop("epochs")), rows[-1]["epochs"] if rows else 0
            if epochs <= last:
                raise ValueError(f"epochs {epochs} after {last or 'nothing'}")
            rows.append({name: float(text) for name, text in row.items() if text} | {"epochs": epochs})
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        what = "no column epochs" if isinstance(error, KeyError) else reason(error)
        raise SNNError(f"{path} has a damaged line {reader.line_num} ({what}); repair or remove the file") from error
    return rows
