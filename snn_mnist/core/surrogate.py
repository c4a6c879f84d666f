"""Surrogate gradients: a Heaviside step forward, a smooth derivative backward.

    forward   s = 1 if x >= 0 else 0
    backward  ds/dx := g(x)

Function style `atan.apply(x, alpha)`, module style `ATan(alpha=2.0)`. With `spiking=False` a module returns
the primitive p(x), p' = g, instead of the step. The formulas are in kernels/formulas.py.
"""

import builtins
import math
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature, signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from snn_mnist.kernels.formulas import FORMULAS, Formula, bind


def heaviside(x: Tensor) -> Tensor:
    """Return 1 where x >= 0, else 0, in the type of x."""
    return (x >= 0).to(x.dtype)


def _torch_or_number(on_tensors: Callable[..., Any], on_numbers: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: on_tensors(x) if isinstance(x, Tensor) else on_numbers(x)


def _torch_namespace(dtype: torch.dtype) -> dict[str, Any]:
    def where(condition: Tensor, a: Any, b: Any) -> Tensor:
        if not isinstance(a, Tensor) and not isinstance(b, Tensor):  # two numbers say nothing of the type
            a = torch.tensor(a, dtype=dtype, device=condition.device)
        return torch.where(condition, a, b)

    functions = ("exp", "log", "log1p", "sin", "cos", "atan", "erfc", "sqrt")
    namespace = {name: _torch_or_number(getattr(torch, name), getattr(math, name)) for name in functions}
    namespace |= {"abs": torch.abs, "where": where}
    namespace |= {"minimum": lambda x, y: x.clamp(max=y), "maximum": lambda x, y: x.clamp(min=y)}
    return namespace | {"pi": math.pi, "range": range, "int": int, "__builtins__": builtins, "__name__": __name__}


# Bound at import: torch.compile can look a function up, but not make one.
_ON_TENSORS: dict[tuple[str, str, torch.dtype], Callable[..., Tensor] | None] = {
    (name, kind, dtype): function and bind(function, _torch_namespace(dtype))
    for name, formula in FORMULAS.items()
    for kind, function in (("gradient", formula.gradient), ("primitive", formula.primitive))
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


def _gradient(x: Tensor, formula: Formula, *parameters: Any) -> Tensor:
    return _ON_TENSORS[formula.name, "gradient", x.dtype](x, *parameters)  # type: ignore[misc]


def _primitive(x: Tensor, formula: Formula, *parameters: Any) -> Tensor:
    if formula.primitive is None:
        raise ValueError(f"{formula.name} has no primitive; only its gradient is defined")
    return _ON_TENSORS[formula.name, "primitive", x.dtype](x, *parameters)  # type: ignore[misc]


class _Spike(torch.autograd.Function):
    """Heaviside forward, g backward. Parameters that are tensors get the derivative of the primitive.

    An nn.Parameter is learned as if the step were p(x, parameters), just as x is.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, formula: Formula, *parameters: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.formula, ctx.parameters = formula, parameters
        return heaviside(x)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        dx = grad_output * _gradient(x, ctx.formula, *ctx.parameters)
        return dx, None, *_gradients_of_parameters(ctx.formula, x, ctx.parameters, grad_output)


class _Primitive(_Spike):
    """Primitive forward, g backward: autograd through `where` would give NaN at the untaken branch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, formula: Formula, *parameters: Any) -> Tensor:
        _Spike.forward(ctx, x, formula, *parameters)
        return _primitive(x, formula, *parameters)


def _gradients_of_parameters(formula: Formula, x: Tensor, parameters: Sequence[Any], grad: Tensor) -> list[Any]:
    """Return the derivatives of the sum of grad p(x, parameters) by the parameters that are tensors."""
    if not any(isinstance(p, Tensor) for p in parameters):
        return [None] * len(parameters)
    again = torch.is_grad_enabled()  # create_graph: the derivatives are differentiated again
    with torch.enable_grad():
        places = [p.view_as(p) if isinstance(p, Tensor) else p for p in parameters]  # x may depend on a parameter too
        p = _primitive(x, formula, *places)
    tensors = [place for place in places if isinstance(place, Tensor)]
    found = iter(torch.autograd.grad(p, tensors, grad, create_graph=again, allow_unused=True))
    return [next(found) if isinstance(place, Tensor) else None for place in places]


class SurrogateFunction:
    """Function style: `sigmoid.apply(x, alpha)`, parameters by position or name, defaults as in the table."""

    def __init__(self, formula: Formula):
        self.formula = formula

    def apply(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the step, with the surrogate's gradient."""
        return self._call(_Spike, x, args, kwargs)

    def primitive(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return p(x); ValueError where there is none."""
        return self._call(_Primitive, x, args, kwargs)

    def _call(self, function: Any, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        if len(args) > len(self.formula.defaults):
            raise TypeError(f"{self.formula.name} takes {', '.join(self.formula.defaults)}, but got {args}")
        given = dict(zip(self.formula.defaults, args, strict=False)) | kwargs
        return function.apply(x, self.formula, *checked_parameters(self.formula, given).values())


def checked_parameters(formula: Formula, given: dict[str, Any]) -> dict[str, Any]:
    """Return name -> number; a parameter to be learned stays a tensor, and needs a primitive."""
    if not any(isinstance(value, Tensor) for value in given.values()):
        return formula.parameters(**given)
    learned = {name: value for name, value in given.items() if isinstance(value, Tensor) and value.requires_grad}
    if learned and formula.primitive is None:
        raise ValueError(f"{formula.name} has no primitive, so {next(iter(learned))} can't be learned; use a number")
    return formula.parameters(**{n: v.item() if isinstance(v, Tensor) else v for n, v in given.items()}) | learned


class SurrogateFunctionBase(nn.Module):
    """Module style. A surrogate of one's own defines two static functions of x and its parameters:

    class Mine(SurrogateFunctionBase):
        def __init__(self, alpha=2.0, spiking=True):
            super().__init__(alpha, spiking)    # or, with any names: super().__init__(spiking, alpha=alpha)

        @staticmethod
        def spiking_function(x, alpha):         # a step with a gradient, e.g. a torch.autograd.Function's apply
            ...

        @staticmethod
        def primitive_function(x, alpha):       # used with spiking=False
            ...
    """

    spiking_function: Callable[..., Tensor]
    primitive_function: Callable[..., Tensor]

    def __init__(self, *args: Any, **parameters: Any):
        super().__init__()
        if args and isinstance(args[-1], bool):  # (alpha, spiking) or (spiking, name=value, …)
            *args, parameters["spiking"] = args  # type: ignore[assignment]
        self.spiking = bool(parameters.pop("spiking", True))
        if len(args) > 1 or (args and parameters):
            raise TypeError(
                "a surrogate takes (alpha, spiking), or (spiking, name=value, …) with its parameters by name"
            )
        parameters |= {"alpha": args[0]} if args else {}
        self._parameter_names = tuple(parameters)
        for name, value in parameters.items():
            setattr(self, name, value)

    def set_spiking_mode(self, spiking: bool) -> None:
        """True: spikes (Heaviside). False: the primitive, e.g. for a gradient check."""
        self.spiking = bool(spiking)

    @property
    def parameters_of_formula(self) -> dict[str, Any]:
        """Return name -> value now."""
        return {name: getattr(self, name) for name in self._parameter_names}

    def forward(self, x: Tensor) -> Tensor:
        function = self.spiking_function if self.spiking else self.primitive_function
        parameters = self.parameters_of_formula
        return function(x, *parameters.values()) if len(parameters) == 1 else function(x, **parameters)

    def gradient(self, x: Tensor) -> Tensor:
        """Return g(x), which here is what autograd passes through the step."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self._in_mode(True, x).sum(), x)[0]

    def primitive(self, x: Tensor) -> Tensor:
        """Return p(x); ValueError or AttributeError where there is none."""
        with torch.no_grad():
            return self._in_mode(False, x)

    def _in_mode(self, spiking: bool, x: Tensor) -> Tensor:
        before, self.spiking = self.spiking, spiking
        try:
            return self(x)
        finally:
            self.spiking = before

    def extra_repr(self) -> str:
        parameters = (f"{name}={value!r}" for name, value in self.parameters_of_formula.items())
        return ", ".join([*parameters, f"spiking={self.spiking}"])


class FormulaSurrogate(SurrogateFunctionBase):
    """A formula of the table, its parameters as attributes, and `spiking`."""

    formula: ClassVar[Formula]
    __signature__: ClassVar[Signature]

    def __init__(self, *args: Any, **kwargs: Any):
        given = self.__signature__.bind(*args, **kwargs).arguments
        spiking = given.pop("spiking", True)
        super().__init__(spiking=spiking, **checked_parameters(self.formula, given))

    def forward(self, x: Tensor) -> Tensor:
        learned = (getattr(value, "requires_grad", False) for value in (x, *self.parameters_of_formula.values()))
        learning = torch.is_grad_enabled() and any(learned)
        if self.spiking and not learning:
            return heaviside(x)  # without the cost of an autograd function
        return super().forward(x)


class GradientSurrogate(SurrogateFunctionBase):
    """A surrogate from its gradient alone: `gradient(x, alpha=2.0)` returns g(x), of the shape of x; no primitive."""

    def __init__(self, gradient: Callable[..., Tensor], **parameters: Any):
        defaults = {p.name: p.default for p in signature(gradient).parameters.values() if p.default is not p.empty}
        super().__init__(True, **defaults | parameters)
        self.function = gradient

    def forward(self, x: Tensor) -> Tensor:
        if not self.spiking:
            raise ValueError(f"{self.function.__name__} has no primitive; only its gradient is defined")
        gradient = self.function(x.detach(), **self.parameters_of_formula)
        return heaviside(x) + gradient * (x - x.detach())  # adds 0, whose derivative is g(x)


SURROGATES: dict[str, type[FormulaSurrogate]] = {}  # name of the formula -> its class


def _both_styles(class_name: str, gradient: str) -> tuple[Any, SurrogateFunction]:
    """Return the class and the function of the formula of that name."""
    formula = next(f for f in FORMULAS.values() if f.name.replace("_", "") == class_name.lower())
    function = SurrogateFunction(formula)
    parameters = formula.defaults | {"spiking": True}  # so help() shows e.g. (alpha=2.0, spiking=True)
    kind = Parameter.POSITIONAL_OR_KEYWORD
    attributes = {
        "__doc__": f"g = {gradient}",
        "__module__": __name__,
        "__signature__": Signature([Parameter(key, kind, default=value) for key, value in parameters.items()]),
        "formula": formula,
        "spiking_function": staticmethod(function.apply),
        "primitive_function": staticmethod(function.primitive),
    }
    SURROGATES[formula.name] = type(class_name, (FormulaSurrogate,), attributes)
    return SURROGATES[formula.name], function


PiecewiseQuadratic, piecewise_quadratic = _both_styles("PiecewiseQuadratic", "max(0, a - a^2 |x|)")
PiecewiseExp, piecewise_exp = _both_styles("PiecewiseExp", "a/2 exp(-a |x|)")
Sigmoid, sigmoid = _both_styles("Sigmoid", "a sigma(a x) (1 - sigma(a x))")
SoftSign, soft_sign = _both_styles("SoftSign", "a / (2 (1 + |a x|)^2)")
SuperSpike, super_spike = _both_styles("SuperSpike", "a / (1 + |x|)^2; no primitive")
ATan, atan = _both_styles("ATan", "a/2 / (1 + (pi a x / 2)^2)")
NonzeroSignLogAbs, nonzero_sign_log_abs = _both_styles("NonzeroSignLogAbs", "1 / (1/a + |x|)")
Erf, erf = _both_styles("Erf", "a / sqrt(pi) exp(-a^2 x^2)")
PiecewiseLeakyReLU, piecewise_leaky_relu = _both_styles("PiecewiseLeakyReLU", "1 / (2 w) for |x| < w, else c")
SquarewaveFourierSeries, squarewave_fourier_series = _both_styles(
    "SquarewaveFourierSeries", "4/T sum_{i=1}^{n-1} cos((2i - 1) 2 pi x / T)"
)
S2NN, s2nn = _both_styles("S2NN", "a sigma(a x) (1 - sigma(a x)) for x < 0, b / (x + 1) for x >= 0")
QPseudoSpike, q_pseudo_spike = _both_styles("QPseudoSpike", "(1 + 2 |x| / (a - 1))^-a")
LeakyKReLU, leaky_k_relu = _both_styles("LeakyKReLU", "k for x >= 0, leak for x < 0")
FakeNumericalGradient, fake_numerical_gradient = _both_styles(
    "FakeNumericalGradient", "min(sign(x) / x, a); no primitive"
)
LogTailedReLU, log_tailed_relu = _both_styles("LogTailedReLU", "a for x <= 0, 1 for x <= 1, 1/x beyond")
Rect, rect = _both_styles("Rect", "a for |x| < 1 / (2 a), else 0")
