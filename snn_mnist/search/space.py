"""The settings of a sweep: one value is fixed, a list `a,b,c` is a choice, `low:high` or `low:high:log` is a range."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from snn_mnist.settings.config import Config
from snn_mnist.settings.options import Option, options_of

if TYPE_CHECKING:
    from optuna import Trial

SWEPT = tuple(
    each.name
    for each in options_of(Config)
    if (each.group in ("Network", "Training") or each.name == "limit_batches") and each.name not in ("seed", "seeds")
)
"""The settings of `train` that may vary within a study: those that decide the result on the same held-out images."""


@dataclass(frozen=True)
class Range:
    """A number from low to high, both included; with log the logarithm is drawn uniformly."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low}:{self.high}{':log' if self.log else ''}"


Space = Mapping[str, tuple[Any, ...] | Range]
"""What each setting may be: one of several values, or a number of a range."""


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """Return the values that a trial draws."""
    drawn: dict[str, Any] = {}
    for name, each in space.items():
        if isinstance(each, tuple):
            drawn[name] = trial.suggest_categorical(name, each)
        else:
            draw: Any = trial.suggest_int if isinstance(each.low, int) else trial.suggest_float
            drawn[name] = draw(name, each.low, each.high, log=each.log)
    return drawn


def varying(option: Option) -> dict[str, Any]:
    """Return what changes of a setting of `train` that may also have a list or a range of values."""
    wanted = f"{option.allowed}; several as a,b,c"
    if option.type in (int, float):
        wanted += "; a range as low:high or low:high:log with low < high, above 0 for log"
    metavar = "on,off" if option.is_switch else option.value_name  # a switch has a value here
    return {"read": partial(parse, option), "wanted": wanted, "metavar": metavar}


def parse(option: Option, text: Any) -> Any:
    """Return the value, the tuple of values or the Range that text stands for; ValueError or such for another text."""
    if isinstance(text, str) and "," in text:
        values = tuple(option.convert(word.strip()) for word in text.split(","))
        if len(set(values)) < len(values):
            raise ValueError
        return values
    if isinstance(text, str) and ":" in text and option.type in (int, float):
        low, high, *scale = text.split(":")
        limits = option.convert(low), option.convert(high)
        if scale not in ([], ["log"]) or not limits[0] < limits[1] or (scale and limits[0] <= 0):
            raise ValueError
        return Range(*limits, log=bool(scale))
    return option.convert(text)


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """Return all combinations of the choices and of the ends of the ranges, the last setting varying fastest."""
    ends = [each if isinstance(each, tuple) else (each.low, each.high) for each in space.values()]
    return (dict(zip(space, point, strict=True)) for point in itertools.product(*ends))
