"""metrics.csv, one row per epoch; mean and standard deviation of repeated measurements.

Its column `epochs` counts the finished epochs, from 1, as the console, the figures and TensorBoard do.
"""

from __future__ import annotations

import csv
import io
import os
import statistics
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError
from snn_mnist.storage.atomic_files import reason, write_file, writing

COURSE = ("lr", "train_images_per_s", "test_images_per_s", "seconds")  # how the training went
METRICS = ("epochs", "train_loss", "train_acc", "test_loss", "test_acc", "max_test_acc", *COURSE)
VALIDATION = ("val_loss", "val_acc")


class MetricsFile:
    """The open metrics.csv of a run. A row is synced to disk before the checkpoint of its epoch is written.

    A resumed run first drops the rows of more than its finished `epochs`, which it writes again. A damaged file is an
    error before anything is written.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], epochs: int) -> None:
        self.path, self.columns = path, columns
        self.rows = [row for row in read_metrics(path) if row["epochs"] <= epochs] if path.exists() else []
        write_file(path, ",".join(columns) + "\n" + self._lines(self.rows))

    def append(self, row: Mapping[str, Any]) -> None:
        with writing(self.path), open(self.path, "r+b") as file:  # "a" would make a removed file anew, without header
            file.seek(0, os.SEEK_END)
            file.write(self._lines([row]).encode())
            file.flush()
            os.fsync(file.fileno())

    def _lines(self, rows: Iterable[Mapping[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, extrasaction="ignore", lineterminator="\n").writerows(rows)
        return text.getvalue()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.csv as numbers, without a last line that has no line end."""
    rows: list[dict[str, Any]] = []
    try:
        for row in csv.DictReader(path.read_text(encoding="utf-8").split("\n")[:-1], strict=True):
            if {"epochs", None} & row.keys() != {"epochs"} or None in row.values():
                raise ValueError("epochs is missing, or a value too many or too few")
            epochs = int(row.pop("epochs"))
            if epochs <= (rows[-1]["epochs"] if rows else 0):
                raise ValueError(f"epochs {epochs} is out of order")
            rows.append({name: float(text) for name, text in row.items() if text} | {"epochs": epochs})
    except (OSError, ValueError, csv.Error) as error:
        raise SNNError(f"{path} can't be read after row {len(rows)} ({reason(error)}); mend or remove it") from error
    return rows


def mean_std(values: Collection[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation (n - 1); None as that of a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def percent(shares: Collection[float]) -> str:
    """Return '92.84 ± 0.05 %', mean and standard deviation; of one share '92.84 %'."""
    mean, std = mean_std(shares)
    return f"{100 * mean:.2f} %" if std is None else f"{100 * mean:.2f} ± {100 * std:.2f} %"
