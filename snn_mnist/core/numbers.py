"""Checks of the numbers that layers and neurons take as settings."""

import math
from typing import Any

from torch import Tensor, nn

__all__ = ["above_one", "finite", "finite_or_learned"]


def finite(name: str, value: Any, hint: str) -> float:
    """The value as a float; ValueError unless it is one finite number (NumPy's and 0-d tensors count)."""
    number = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise ValueError(f"{name}={value!r} must be a finite number; {hint}")
    return float(number)


def finite_or_learned(name: str, value: Any, hint: str) -> Any:
    """`finite`, but a parameter stays the tensor that it is, so that it can be learned."""
    if not isinstance(value, nn.Parameter) and not (isinstance(value, Tensor) and value.requires_grad):
        return finite(name, value, hint)
    if not value.isfinite().all():
        raise ValueError(f"{name}={value!r} must have finite values; {hint}")
    return value


def above_one(name: str, value: Any, hint: str) -> Any:
    """`finite_or_learned` above 1."""
    number = finite_or_learned(name, value, hint)
    if not (number > 1.0).all() if isinstance(number, Tensor) else number <= 1.0:
        raise ValueError(f"{name}={value!r} must be above 1 (time steps); {hint}")
    return number
