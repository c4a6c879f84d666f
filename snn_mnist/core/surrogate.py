"""Surrogate gradients: a Heaviside step forward, a smooth derivative backward.

    forward   s = 1 if x >= 0 else 0
    backward  ds/dx := g(x)

Function style `atan.apply(x, alpha)`, module style `ATan(alpha=2.0)`. With `spiking=False` a module returns
the primitive p(x), p' = g, instead of the step. The formulas are in kernels/formulas.py.
"""

import functools
import math
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from snn_mnist.kernels.formulas import FORMULAS, Formula, bind


def heaviside(x: Tensor) -> Tensor:
    """1 where x >= 0, else 0, in the type of x."""
    return (x >= 0).to(x.dtype)


def _torch_or_number(on_tensors: Callable[..., Any], on_numbers: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: on_tensors(x) if isinstance(x, Tensor) else on_numbers(x)


def _minimum(x: Any, y: Any) -> Any:
    return torch.minimum(x, y) if isinstance(y, Tensor) else x.clamp(max=y)


def _maximum(x: Any, y: Any) -> Any:
    return torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp(min=y)


@functools.cache
def _torch_namespace(dtype: torch.dtype) -> dict[str, Any]:
    def where(condition: Tensor, a: Any, b: Any) -> Tensor:
        if not isinstance(a, Tensor) and not isinstance(b, Tensor):  # two numbers say nothing of the type
            a = torch.tensor(a, dtype=dtype, device=condition.device)
        return torch.where(condition, a, b)

    functions = ("exp", "log", "log1p", "sin", "cos", "atan", "erfc", "sqrt")
    namespace = {name: _torch_or_number(getattr(torch, name), getattr(math, name)) for name in functions}
    namespace |= {"abs": torch.abs, "minimum": _minimum, "maximum": _maximum, "where": where}
    return namespace | {"pi": math.pi, "range": range, "int": int}


@functools.cache
def _on_tensors(formula: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Tensor]:
    return bind(formula, _torch_namespace(dtype))


class _Spike(torch.autograd.Function):
    """Heaviside forward, g backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, formula: Formula, parameters: tuple[float, ...]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.formula, ctx.parameters = formula, parameters
        return heaviside(x)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grad_output * _on_tensors(ctx.formula.gradient, x.dtype)(x, *ctx.parameters), None, None


class _Primitive(torch.autograd.Function):
    """Primitive forward, g backward: autograd through `where` would give NaN at the untaken branch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, formula: Formula, parameters: tuple[float, ...]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.formula, ctx.parameters = formula, parameters
        assert formula.primitive is not None
        return _on_tensors(formula.primitive, x.dtype)(x, *parameters)

    backward = _Spike.backward


class SurrogateFunction:
    """Function style: `sigmoid.apply(x, alpha)`, parameters by position or name, defaults as in the table."""

    def __init__(self, formula: Formula):
        self.formula = formula

    def apply(self, x: Tensor, *args: float, **kwargs: float) -> Tensor:
        given = dict(zip(self.formula.defaults, args, strict=False)) | kwargs
        if len(args) > len(self.formula.defaults):
            raise TypeError(f"{self.formula.name} takes {', '.join(self.formula.defaults)}, but got {args}")
        return _Spike.apply(x, self.formula, tuple(self.formula.parameters(**given).values()))

    __call__ = apply

    def __repr__(self) -> str:
        return f"<surrogate function {self.formula.name}>"


class SurrogateFunctionBase(nn.Module):
    """Module style: a formula, its parameters as attributes, and `spiking`."""

    formula: ClassVar[Formula]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "formula" in cls.__dict__:  # so that help() and editors show e.g. (alpha=2.0, spiking=True)
            defaults = cls.formula.defaults | {"spiking": True}
            kind = Parameter.POSITIONAL_OR_KEYWORD
            cls.__signature__ = Signature([Parameter(n, kind, default=d) for n, d in defaults.items()])  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()
        given = type(self).__signature__.bind(*args, **kwargs).arguments  # type: ignore[attr-defined]
        spiking = given.pop("spiking", True)
        for name, value in self.formula.parameters(**given).items():
            setattr(self, name, value)
        self.set_spiking_mode(spiking)

    @property
    def parameters_of_formula(self) -> dict[str, float]:
        """Name -> value, checked now, so an attribute changed by hand counts."""
        return self.formula.parameters(**{name: getattr(self, name) for name in self.formula.defaults})

    def set_spiking_mode(self, spiking: bool) -> None:
        """True: spikes (Heaviside). False: the primitive, e.g. for a gradient check."""
        if not spiking and self.formula.primitive is None:
            raise ValueError(f"{type(self).__name__} has no primitive for spiking=False; use spiking=True")
        self.spiking = bool(spiking)

    def gradient(self, x: Tensor) -> Tensor:
        """g(x)"""
        return _on_tensors(self.formula.gradient, x.dtype)(x, **self.parameters_of_formula)

    def primitive(self, x: Tensor) -> Tensor:
        """p(x), p' = g; ValueError where there is none."""
        if self.formula.primitive is None:
            raise ValueError(f"{type(self).__name__} has no primitive; only its gradient is defined")
        return _on_tensors(self.formula.primitive, x.dtype)(x, **self.parameters_of_formula)

    def forward(self, x: Tensor) -> Tensor:
        if self.spiking and not (x.requires_grad and torch.is_grad_enabled()):
            return heaviside(x)  # without the cost of an autograd function
        function = _Spike if self.spiking else _Primitive
        return function.apply(x, self.formula, tuple(self.parameters_of_formula.values()))

    def extra_repr(self) -> str:
        parameters = (f"{name}={value!r}" for name, value in self.parameters_of_formula.items())
        return ", ".join([*parameters, f"spiking={self.spiking}"])


class PiecewiseQuadratic(SurrogateFunctionBase):
    """g = max(0, a - a^2 |x|)"""

    formula = FORMULAS["piecewise_quadratic"]


class PiecewiseExp(SurrogateFunctionBase):
    """g = a/2 exp(-a |x|)"""

    formula = FORMULAS["piecewise_exp"]


class Sigmoid(SurrogateFunctionBase):
    """g = a sigma(a x) (1 - sigma(a x))"""

    formula = FORMULAS["sigmoid"]


class SoftSign(SurrogateFunctionBase):
    """g = a / (2 (1 + |a x|)^2)"""

    formula = FORMULAS["soft_sign"]


class SuperSpike(SurrogateFunctionBase):
    """g = a / (1 + |x|)^2; no primitive"""

    formula = FORMULAS["super_spike"]


class ATan(SurrogateFunctionBase):
    """g = a/2 / (1 + (pi a x / 2)^2)"""

    formula = FORMULAS["atan"]


class NonzeroSignLogAbs(SurrogateFunctionBase):
    """g = 1 / (1/a + |x|)"""

    formula = FORMULAS["nonzero_sign_log_abs"]


class Erf(SurrogateFunctionBase):
    """g = a / sqrt(pi) exp(-a^2 x^2)"""

    formula = FORMULAS["erf"]


class PiecewiseLeakyReLU(SurrogateFunctionBase):
    """g = 1 / (2 w) for |x| < w, else c"""

    formula = FORMULAS["piecewise_leaky_relu"]


class SquarewaveFourierSeries(SurrogateFunctionBase):
    """g = 4/T sum_{i=1}^{n-1} cos((2i - 1) 2 pi x / T)"""

    formula = FORMULAS["squarewave_fourier_series"]


class S2NN(SurrogateFunctionBase):
    """g = a sigma(a x) (1 - sigma(a x)) for x < 0, b / (x + 1) for x >= 0"""

    formula = FORMULAS["s2nn"]


class QPseudoSpike(SurrogateFunctionBase):
    """g = (1 + 2 |x| / (a - 1))^-a"""

    formula = FORMULAS["q_pseudo_spike"]


class LeakyKReLU(SurrogateFunctionBase):
    """g = k for x >= 0, leak for x < 0"""

    formula = FORMULAS["leaky_k_relu"]


class FakeNumericalGradient(SurrogateFunctionBase):
    """g = min(sign(x) / x, a); no primitive"""

    formula = FORMULAS["fake_numerical_gradient"]


class LogTailedReLU(SurrogateFunctionBase):
    """g = a for x <= 0, 1 for x <= 1, 1/x beyond"""

    formula = FORMULAS["log_tailed_relu"]


class Rect(SurrogateFunctionBase):
    """g = a for |x| < 1 / (2 a), else 0"""

    formula = FORMULAS["rect"]


piecewise_quadratic = SurrogateFunction(FORMULAS["piecewise_quadratic"])
piecewise_exp = SurrogateFunction(FORMULAS["piecewise_exp"])
sigmoid = SurrogateFunction(FORMULAS["sigmoid"])
soft_sign = SurrogateFunction(FORMULAS["soft_sign"])
super_spike = SurrogateFunction(FORMULAS["super_spike"])
atan = SurrogateFunction(FORMULAS["atan"])
nonzero_sign_log_abs = SurrogateFunction(FORMULAS["nonzero_sign_log_abs"])
erf = SurrogateFunction(FORMULAS["erf"])
piecewise_leaky_relu = SurrogateFunction(FORMULAS["piecewise_leaky_relu"])
squarewave_fourier_series = SurrogateFunction(FORMULAS["squarewave_fourier_series"])
s2nn = SurrogateFunction(FORMULAS["s2nn"])
q_pseudo_spike = SurrogateFunction(FORMULAS["q_pseudo_spike"])
leaky_k_relu = SurrogateFunction(FORMULAS["leaky_k_relu"])
fake_numerical_gradient = SurrogateFunction(FORMULAS["fake_numerical_gradient"])
log_tailed_relu = SurrogateFunction(FORMULAS["log_tailed_relu"])
rect = SurrogateFunction(FORMULAS["rect"])

SURROGATES: dict[str, type[SurrogateFunctionBase]] = {
    cls.formula.name: cls
    for cls in (
        PiecewiseQuadratic, PiecewiseExp, Sigmoid, SoftSign, SuperSpike, ATan, NonzeroSignLogAbs, Erf,
        PiecewiseLeakyReLU, SquarewaveFourierSeries, S2NN, QPseudoSpike, LeakyKReLU, FakeNumericalGradient,
        LogTailedReLU, Rect,
    )
}  # fmt: skip
