"""The settings of a sweep: one value is fixed, a list `a,b,c` is a choice, `low:high` or `low:high:log` is a range."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from snn_mnist.settings.config import Config
from snn_mnist.settings.options import Option, options_of, show

if TYPE_CHECKING:
    from optuna import Trial

SWEPT = tuple(
    each.name
    for each in options_of(Config)
    if (each.group in ("Network", "Training") or each.name == "limit_batches") and each.name not in ("seed", "seeds")
)
"""The settings of `train` that may vary within a study: those that decide the result on the same held-out images."""


@dataclass(frozen=True)
class Choices:
    """One of these values."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return show(self.values)

    def suggest(self, trial: Trial, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class Range:
    """A number from low to high, both included; with log the logarithm is drawn uniformly."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low}:{self.high}{':log' if self.log else ''}"

    def suggest(self, trial: Trial, name: str) -> Any:
        if isinstance(self.low, int):
            return trial.suggest_int(name, self.low, int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


Space = Mapping[str, Choices | Range]


def varying(option: Option) -> dict[str, Any]:
    """Return what changes of a setting of `train` that may also have a list or a range of values."""
    wanted = f"{option.allowed}; several as a,b,c"
    if option.choices:
        wanted = "several as a,b,c or one of"
    elif option.type in (int, float):
        wanted += "; a range as low:high or low:high:log with low < high, above 0 for log"
    metavar = "on,off" if option.is_switch else option.value_name  # a switch has a value here
    return {"read": partial(parse, option), "wanted": wanted, "metavar": metavar}


def parse(option: Option, text: Any) -> Any:
    """Return the value that text stands for, or Choices or a Range; ValueError or such where it is not allowed."""
    if isinstance(text, str) and "," in text:
        values = tuple(option.convert(word.strip()) for word in text.split(","))
        if len(set(values)) < len(values):
            raise ValueError
        return Choices(values)
    if isinstance(text, str) and ":" in text and option.type in (int, float):
        low, high, *scale = text.split(":")
        limits = option.convert(low), option.convert(high)
        if scale not in ([], ["log"]) or not limits[0] < limits[1] or (scale and limits[0] <= 0):
            raise ValueError
        return Range(*limits, log=bool(scale))
    return option.convert(text)


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """Return all combinations of the choices and of the ends of the ranges, the last setting varying fastest."""
    ends = [each.values if isinstance(each, Choices) else (each.low, each.high) for each in space.values()]
    return (dict(zip(space, point, strict=True)) for point in itertools.product(*ends))
