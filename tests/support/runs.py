"""Small real training runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture import metrics as metrics

from snn_mnist.settings.config import Config
from snn_mnist.training.console import Interruption
from snn_mnist.training.loop import train

DIGITS = {"dataset": "digits", "T": 20, "b": 100, "lr": 5e-3, "figures": False}  # a second or two per run


def config(**settings: Any) -> Config:
    """Quick settings on the digits, and what differs from them; all count as given by the user."""
    return Config(**(DIGITS | settings), given=frozenset(DIGITS | settings))


def train_run(out: Path, interruption: Interruption | None = None, **settings: Any) -> Path:
    """Trains in `out`; the new run directory."""
    return train(config(out_dir=str(out), **settings), interruption or Interruption())


def newest(out: Path) -> Path:
    return max(out.iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def wait_until(condition: Callable[[], Any], timeout: float = 200) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
