"""Run directories written by hand, for the tests of figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from snn_mnist.settings.config import Config, yaml_text
from snn_mnist.storage import checkpoint
from snn_mnist.storage.metrics import MetricsFile


def rows_of(epochs: int, gain: float = 0.0, every: int = 1) -> Iterator[dict[str, Any]]:
    """Rows of metrics.csv, tested after every `every` epochs."""
    for epoch in range(epochs):
        row: dict[str, Any] = {
            "epochs": epoch + 1,
            "train_loss": 0.05 / (1 + epoch),
            "train_acc": 0.8 + 0.01 * epoch,
            "lr": 1e-3,
        }
        if (epoch + 1) % every == 0:
            row |= {"test_loss": 0.06 / (1 + epoch), "test_acc": 0.79 + 0.01 * epoch + gain}
        yield row


def make_run(folder: Path, rows: Sequence[dict[str, Any]], weight: Tensor | None = None, **settings: Any) -> Path:
    """A run directory on the digits with settings and metrics, and with a checkpoint if there is a weight."""
    folder.mkdir(parents=True)
    config = Config(**({"dataset": "digits", "T": 20} | settings))
    (folder / "config.yaml").write_text(yaml_text(config.to_mapping()))
    columns = tuple(dict.fromkeys(["epochs", *(name for row in rows for name in row)]))
    metrics = MetricsFile(folder / "metrics.csv", columns, 0)
    for row in rows:
        metrics.append(row)
    if weight is not None:
        state = {"net": {checkpoint.WEIGHT: weight}, "epoch": len(rows) - 1, "config": config.to_mapping()}
        checkpoint.save(folder / checkpoint.LATEST, state)
    return folder
