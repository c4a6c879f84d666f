"""A surrogate's gradient as a compiled C function over an array, made from its formula."""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Any

import numba
import numpy as np
from numba import types

from snn_mnist.kernels.cpu.jit import compiled_callback
from snn_mnist.kernels.formulas import FORMULAS, expression


@numba.njit
def where(condition, a, b):  # type: ignore[no-untyped-def]
    return a if condition else b


@numba.njit
def minimum(a, b):  # type: ignore[no-untyped-def]
    return a if a < b else b


@numba.njit
def maximum(a, b):  # type: ignore[no-untyped-def]
    return a if a > b else b


_NAMES = {name: getattr(math, name) for name in ("exp", "log", "log1p", "sin", "cos", "atan", "erfc", "sqrt")} | {
    "where": where,
    "minimum": minimum,
    "maximum": maximum,
    "f32": np.float32,
    "f64": np.float64,
    "carray": numba.carray,
}

_TEMPLATE = """
def {name}(source, target, count):
    points, slopes = carray(source, count), carray(target, count)
    for i in range(count):
        x = points[i]
        slopes[i] = {expression}
"""


@functools.cache
def gradient_function(surrogate: str, parameters: tuple[tuple[str, float], ...], dtype: str = "float32") -> Any:
    """The compiled `void f(const real *x, real *g, int64_t count)`; its `.address` goes to a kernel."""
    formula = expression(FORMULAS[surrogate].gradient, dict(parameters), "python", dtype)
    # numba's cache tells functions of one file apart by name, line and bytecode, which holds no constants
    name = f"gradient_{surrogate}_{hashlib.sha256(formula.encode()).hexdigest()[:8]}"
    namespace = _NAMES | {"__name__": __name__}
    exec(compile(_TEMPLATE.format(name=name, expression=formula), __file__, "exec"), namespace)
    real = types.CPointer(getattr(types, dtype))
    return compiled_callback(types.void(real, real, types.int64), namespace[name])
