"""Surrogate gradients and their primitives, written once for every backend.

Each formula is one plain function of `x` and its parameters (Python numbers, so a loop over one unrolls). It uses
operators and the free names `where, exp, log, log1p, abs, sin, cos, atan, erfc, sqrt, minimum, maximum, pi` only, so
the same code runs on Python floats, on torch tensors (`bind`) and, traced by `expression`, as C (CUDA) or numba text.

Every formula is finite for every finite x (the square wave: |x| < 1e37), in float32 too and in untaken branches:
exponents are never positive, divisors never zero.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import atan, cos, erfc, exp, log, log1p, pi, sin, sqrt
from typing import Any


def where(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


def minimum(a: Any, b: Any) -> Any:
    return a if a < b else b


def maximum(a: Any, b: Any) -> Any:
    return a if a > b else b


# ---- gradients g(x) and primitives, pairwise -------------------------------------------------------------


def piecewise_quadratic(x: Any, alpha: float) -> Any:
    return maximum(alpha - alpha * alpha * abs(x), 0.0)


def piecewise_quadratic_primitive(x: Any, alpha: float) -> Any:
    u = minimum(maximum(alpha * x, -1.0), 1.0)  # 0 and 1 beyond +-1/alpha
    return 0.5 + u - 0.5 * u * abs(u)


def piecewise_exp(x: Any, alpha: float) -> Any:
    return 0.5 * alpha * exp(-alpha * abs(x))


def piecewise_exp_primitive(x: Any, alpha: float) -> Any:
    e = 0.5 * exp(-alpha * abs(x))
    return where(x < 0.0, e, 1.0 - e)


def sigmoid(x: Any, alpha: float) -> Any:
    e = exp(-alpha * abs(x))  # sigma (1 - sigma) is even, so |x| keeps the exponent from overflowing
    return alpha * e / ((1.0 + e) * (1.0 + e))


def sigmoid_primitive(x: Any, alpha: float) -> Any:
    e = exp(-alpha * abs(x))
    return where(x < 0.0, e, 1.0) / (1.0 + e)


def soft_sign(x: Any, alpha: float) -> Any:
    u = 1.0 + alpha * abs(x)
    return 0.5 * alpha / (u * u)


def soft_sign_primitive(x: Any, alpha: float) -> Any:
    u = 0.5 / (1.0 + alpha * abs(x))  # alpha x / (1 + |alpha x|) would be inf/inf
    return where(x < 0.0, u, 1.0 - u)


def super_spike(x: Any, alpha: float) -> Any:
    u = 1.0 + abs(x)
    return alpha / (u * u)


def arctan(x: Any, alpha: float) -> Any:
    u = (0.5 * pi * alpha) * x
    return 0.5 * alpha / (1.0 + u * u)


def arctan_primitive(x: Any, alpha: float) -> Any:
    return atan((0.5 * pi * alpha) * x) / pi + 0.5


def nonzero_sign_log_abs(x: Any, alpha: float) -> Any:
    return 1.0 / (1.0 / alpha + abs(x))


def nonzero_sign_log_abs_primitive(x: Any, alpha: float) -> Any:
    u = log1p(alpha * abs(x))
    return where(x < 0.0, -u, u)


def gauss_erf(x: Any, alpha: float) -> Any:
    return (alpha / sqrt(pi)) * exp(-(alpha * x) * (alpha * x))


def gauss_erf_primitive(x: Any, alpha: float) -> Any:
    return 0.5 * erfc(-alpha * x)


def piecewise_leaky_relu(x: Any, w: float, c: float) -> Any:
    return where(abs(x) < w, 0.5 / w, c)


def piecewise_leaky_relu_primitive(x: Any, w: float, c: float) -> Any:
    u = minimum(maximum(x, -w), w)
    return (0.5 / w) * u + 0.5 + c * (x - u)


def squarewave_fourier_series(x: Any, n: int, T_period: float) -> Any:
    total = 0.0
    for i in range(1, int(n)):
        total = total + cos(((2 * i - 1) * 2 * pi / T_period) * x)
    return (4.0 / T_period) * total


def squarewave_fourier_series_primitive(x: Any, n: int, T_period: float) -> Any:
    total = 0.0
    for i in range(1, int(n)):
        total = total + sin(((2 * i - 1) * 2 * pi / T_period) * x) / (2 * i - 1)
    return 0.5 + (2.0 / pi) * total


def s2nn(x: Any, alpha: float, beta: float) -> Any:
    e = exp(-alpha * abs(x))
    return where(x < 0.0, alpha * e / ((1.0 + e) * (1.0 + e)), beta / (1.0 + abs(x)))


def s2nn_primitive(x: Any, alpha: float, beta: float) -> Any:
    e = exp(-alpha * abs(x))
    return where(x < 0.0, e / (1.0 + e), beta * log1p(abs(x)) + 0.5)


def q_pseudo_spike(x: Any, alpha: float) -> Any:
    return exp(-alpha * log1p((2.0 / (alpha - 1.0)) * abs(x)))


def q_pseudo_spike_primitive(x: Any, alpha: float) -> Any:
    u = 0.5 * exp((1.0 - alpha) * log1p((2.0 / (alpha - 1.0)) * abs(x)))
    return where(x < 0.0, u, 1.0 - u)


def leaky_k_relu(x: Any, leak: float, k: float) -> Any:
    return where(x < 0.0, leak, k)


def leaky_k_relu_primitive(x: Any, leak: float, k: float) -> Any:
    return where(x < 0.0, leak * x, k * x)


def fake_numerical_gradient(x: Any, alpha: float) -> Any:
    return alpha / maximum(alpha * abs(x), 1.0)  # min(1/|x|, alpha) without dividing by 0


def log_tailed_relu(x: Any, alpha: float) -> Any:
    return where(x <= 0.0, alpha, 1.0 / maximum(x, 1.0))


def log_tailed_relu_primitive(x: Any, alpha: float) -> Any:
    return where(x <= 0.0, alpha * x, minimum(x, 1.0) + log(maximum(x, 1.0)))


def rect(x: Any, alpha: float) -> Any:
    return where(abs(x) < 0.5 / alpha, alpha, 0.0)


def rect_primitive(x: Any, alpha: float) -> Any:
    return minimum(maximum(alpha * x + 0.5, 0.0), 1.0)


# ---- the table -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Formula:
    """One surrogate: its gradient, its primitive (None: there is none), parameter defaults and bounds."""

    name: str
    gradient: Callable[..., Any]  # g(x, *parameters), for the backward pass
    primitive: Callable[..., Any] | None  # p(x, *parameters) with p' = g
    defaults: dict[str, float]
    above: dict[str, float]  # a parameter must exceed its bound; absent: any value is allowed

    def parameters(self, **given: float) -> dict[str, float]:
        """Return the defaults updated by `given`; ValueError for an unknown name or a value out of range."""
        for name, value in given.items():
            if name not in self.defaults:
                raise ValueError(f"{self.name} has no parameter {name!r}; it has {', '.join(self.defaults)}")
            bound, default = self.above.get(name, -math.inf), self.defaults[name]
            whole = isinstance(default, int)
            if not bound < value < math.inf or (whole and value != int(value)):
                kind = "a whole number" if whole else "a finite number"
                kind += f" above {bound:g}" if bound > -math.inf else ""
                raise ValueError(f"{name}={value!r} of {self.name} must be {kind}; the default is {default:g}")
        return {name: type(default)(given.get(name, default)) for name, default in self.defaults.items()}


def _formula(gradient: Any, primitive: Any, above: dict[str, float], name: str = "", **defaults: float) -> Formula:
    return Formula(name or gradient.__name__, gradient, primitive, defaults, above)


_POSITIVE, _SERIES = {"alpha": 0.0}, {"n": 1, "T_period": 0.0}
FORMULAS: dict[str, Formula] = {
    formula.name: formula
    for formula in (
        _formula(piecewise_quadratic, piecewise_quadratic_primitive, _POSITIVE, alpha=1.0),
        _formula(piecewise_exp, piecewise_exp_primitive, _POSITIVE, alpha=1.0),
        _formula(sigmoid, sigmoid_primitive, _POSITIVE, alpha=4.0),
        _formula(soft_sign, soft_sign_primitive, _POSITIVE, alpha=2.0),
        _formula(super_spike, None, _POSITIVE, alpha=1.0),
        _formula(arctan, arctan_primitive, _POSITIVE, "atan", alpha=2.0),
        _formula(nonzero_sign_log_abs, nonzero_sign_log_abs_primitive, _POSITIVE, alpha=1.0),
        _formula(gauss_erf, gauss_erf_primitive, _POSITIVE, "erf", alpha=2.0),
        _formula(piecewise_leaky_relu, piecewise_leaky_relu_primitive, {"w": 0.0}, w=1.0, c=0.01),
        _formula(squarewave_fourier_series, squarewave_fourier_series_primitive, _SERIES, n=2, T_period=8.0),
        _formula(s2nn, s2nn_primitive, {"alpha": 0.0, "beta": 0.0}, alpha=4.0, beta=1.0),
        _formula(q_pseudo_spike, q_pseudo_spike_primitive, {"alpha": 1.0}, alpha=2.0),
        _formula(leaky_k_relu, leaky_k_relu_primitive, {}, leak=0.0, k=1.0),
        _formula(fake_numerical_gradient, None, _POSITIVE, alpha=0.3),
        _formula(log_tailed_relu, log_tailed_relu_primitive, {}, alpha=0.0),
        _formula(rect, rect_primitive, _POSITIVE, alpha=1.0),
    )
}


# ---- one code, many targets ------------------------------------------------------------------------------


def bind(function: Callable[..., Any], namespace: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the same code with its free names (`where`, `exp`, …, `pi`) taken from `namespace`."""
    return types.FunctionType(function.__code__, dict(namespace), function.__name__, function.__defaults__)


class Expr:
    """Records the operators applied to it as the text of one fully parenthesised expression."""

    def __init__(self, text: str, constant: Callable[[float], str]):
        self.text, self.constant = text, constant

    def _infix(symbol: str, swapped: bool = False) -> Callable[[Expr, Any], Expr]:  # type: ignore[misc]
        def operator(self: Expr, other: Any) -> Expr:
            pair = self.text, _as_text(other, self.constant)
            return Expr(f" {symbol} ".join(pair[::-1] if swapped else pair).join("()"), self.constant)

        return operator

    __add__, __radd__ = _infix("+"), _infix("+", swapped=True)
    __sub__, __rsub__ = _infix("-"), _infix("-", swapped=True)
    __mul__, __rmul__ = _infix("*"), _infix("*", swapped=True)
    __truediv__, __rtruediv__ = _infix("/"), _infix("/", swapped=True)
    __lt__, __le__, __gt__, __ge__ = _infix("<"), _infix("<="), _infix(">"), _infix(">=")

    def __neg__(self) -> Expr:
        return Expr(f"(-{self.text})", self.constant)

    def __bool__(self) -> bool:
        raise TypeError("a formula may not branch on x in Python; write where(condition, a, b)")


def _as_text(value: Any, constant: Callable[[float], str]) -> str:
    return value.text if isinstance(value, Expr) else constant(value)


# name in a formula -> name in C (float32 adds an f: expf); the numba text keeps the formula's name
_C_NAMES = {name: name for name in ("exp", "log", "log1p", "sin", "cos", "atan", "erfc", "sqrt")}
_C_NAMES |= {"abs": "fabs", "minimum": "fmin", "maximum": "fmax"}


def expression(function: Callable[..., Any], params: Mapping[str, float], target: str, dtype: str = "float32") -> str:
    """Return the formula as the text of one expression in `x`, its parameters inlined as constants of a dtype.

    target 'c': C and CUDA, e.g. `(1.0f / (0.25f + fabsf(x)))`; `where` becomes `?:`. 'python': for numba, e.g.
    `(f32(1.0) / (f32(0.25) + abs(x)))`; the caller supplies `f32` (`f64`) and those of `where, exp, …` that occur.
    """
    c, suffix = target == "c", "f" if dtype == "float32" else ""

    def constant(value: float) -> str:
        return f"{float(value)!r}{suffix}" if c else f"{'f32' if suffix else 'f64'}({float(value)!r})"

    def traced(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if not any(isinstance(a, Expr) for a in args):
                return globals().get(name, abs)(*args)  # a constant such as sqrt(pi) is computed here, in float64
            texts = [_as_text(a, constant) for a in args]
            if c and name == "where":
                return Expr("({} ? {} : {})".format(*texts), constant)
            return Expr(f"{_C_NAMES[name] + suffix if c else name}({', '.join(texts)})", constant)

        return call

    namespace: dict[str, Any] = {name: traced(name) for name in (*_C_NAMES, "where")}
    namespace |= {"pi": pi, "range": range, "int": int}
    return bind(function, namespace)(Expr("x", constant), **params).text
