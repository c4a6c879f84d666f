"""Small real training runs, and exact comparison of what they leave."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from snn_mnist.settings.config import Config
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.training.interruption import Interruption
from snn_mnist.training.loop import train

DIGITS = {"dataset": "digits", "T": 20, "b": 100, "lr": 5e-3, "figures": False}  # a second or two per run
TIMES = {"train_images_per_s", "test_images_per_s", "seconds"}  # differ between any two runs


def config(**settings: Any) -> Config:
    """Quick settings on the digits, and what differs from them; all count as given by the user."""
    return Config(**(DIGITS | settings), given=frozenset(DIGITS | settings))


def train_run(out: Path, interruption: Interruption | None = None, **settings: Any) -> Path:
    """Trains in `out`; the new run directory."""
    return train(config(out_dir=str(out), **settings), interruption or Interruption())


def newest(out: Path) -> Path:
    return max(out.iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.csv without the columns of time."""
    rows = read_metrics(folder / "metrics.csv")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def assert_same(a: Any, b: Any) -> None:
    """Bitwise equal, through all levels of a checkpoint; seconds aside."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def wait_until(condition: Callable[[], Any], timeout: float = 200) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
