"""The settings of a sweep: one value is fixed, a list `a,b,c` is a choice, `low:high` or `low:high:log` is a range."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from snn_mnist.errors import UsageError
from snn_mnist.settings.config import Config
from snn_mnist.settings.options import Option, options_of
from snn_mnist.settings.words import show

NOT_SWEPT = ("seed", "seeds")  # of the groups below; -seeds repeats each trial
SWEPT = tuple(
    each.name
    for each in options_of(Config)
    if (each.group in ("Network", "Training") and each.name not in NOT_SWEPT) or each.name == "limit_batches"
)
"""The settings of `train` that may vary within a study: those that decide the result on the same held-out images."""


@dataclass(frozen=True)
class Choices:
    """One of these values."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return show(self.values)


@dataclass(frozen=True)
class Range:
    """A number from low to high, both included; with log the logarithm is drawn uniformly."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low}:{self.high}{':log' if self.log else ''}"


Space = Mapping[str, Choices | Range]


def varying(option: Option) -> dict[str, Any]:
    """What changes of a setting of `train` that may also have a list or a range of values."""
    wanted = f"{option.allowed}; several as a,b,c"
    if option.choices:
        wanted = "several as a,b,c or one of"
    elif option.type in (int, float):
        wanted += "; a range as low:high or low:high:log with low < high, above 0 for log"
    metavar = option.value_name or "on,off"  # a switch has a value here
    return {"read": partial(parse, option), "wanted": wanted, "metavar": metavar}


def parse(option: Option, value: Any) -> Any:
    """The value that text stands for, or Choices or a Range of them; ValueError or such where it is not allowed."""
    if isinstance(value, Choices | Range):
        return value
    if isinstance(value, str) and "," in value:
        values = tuple(option.convert(word.strip()) for word in value.split(","))
        if len(set(values)) < len(values):
            raise ValueError
        return Choices(values)
    if isinstance(value, str) and ":" in value and option.type in (int, float):
        low, high, *scale = value.split(":")
        limits = option.convert(low), option.convert(high)
        if scale not in ([], ["log"]) or not limits[0] < limits[1] or (scale and limits[0] <= 0):
            raise ValueError
        return Range(*limits, log=bool(scale))
    return option.convert(value)


def grid(space: Space) -> list[dict[str, Any]]:
    """All combinations, the last setting varying fastest; UsageError for a range."""
    for name, values in space.items():
        if isinstance(values, Range):
            raise UsageError(f"{name} {values} is a range, which has no grid; give values as a,b,c or another -sampler")
    return list(_product({name: values.values for name, values in space.items() if isinstance(values, Choices)}))


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """All combinations of the choices and of the ends of the ranges."""
    return _product({
        name: values.values if isinstance(values, Choices) else (values.low, values.high)
        for name, values in space.items()
    })  # fmt: skip


def _product(values: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(values, point, strict=True)) for point in itertools.product(*values.values()))
