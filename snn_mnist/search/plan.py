"""What a sweep is to do: its settings, as all of its workers get them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_mnist.errors import UsageError
from snn_mnist.search.space import Space, corners
from snn_mnist.settings.config import Config
from snn_mnist.settings.words import show


@dataclass(frozen=True)
class Plan:
    """A sweep. It is sent to the worker processes as it is."""

    study: str  # its name in the storage and that of its directory
    folder: Path  # OUT_DIR/STUDY
    storage: str  # a URL of SQLAlchemy, else the path of a journal file
    space: Space  # settings that vary
    fixed: Mapping[str, Any]  # the other settings of `train`
    trials: int
    sampler: str
    seeds: int  # runs of a trial
    prune: bool
    heartbeat: int  # seconds

    def config(self, values: Mapping[str, Any], run: int = 0, **changes: Any) -> Config:
        """The settings of one run of a trial; UsageError where they do not go together."""
        settings = {**self.fixed, **values}
        return Config(**settings | {"seed": settings["seed"] + run, "out_dir": str(self.folder), **changes})

    def run_names(self, number: int) -> list[str]:
        """The run directories of a trial: trial-0007, or trial-0007-seed0, trial-0007-seed1, …"""
        name, first = f"trial-{number:04}", self.fixed["seed"]
        return [name] if self.seeds == 1 else [f"{name}-seed{first + run}" for run in range(self.seeds)]

    def identity(self) -> dict[str, str]:
        """The settings, as text, that must be those of the study when it goes on."""
        decisive = {name: value for name, value in self.fixed.items() if name not in FREE}
        settings = decisive | dict(self.space) | {"seeds": self.seeds, "sampler": self.sampler}
        return {name: str(value) if name in self.space else show(value) for name, value in settings.items()}

    def check(self) -> Config:
        """The first combination of the settings that can be trained, with their smallest b; UsageError for none."""
        batches = {"b": self.space["b"]} if "b" in self.space else {}
        smallest = min((point["b"] for point in corners(batches) if point), default=self.fixed.get("b"))
        error: UsageError | None = None
        for values in itertools.islice(corners(self.space), 4096):
            try:
                return self.config(values | {"b": smallest})
            except UsageError as found:
                error = error or found
        assert error
        raise error


FREE = ("device", "backend", "step_mode", "j", "data_dir", "figures", "test")  # may change when a study goes on
