"""Surrogates against API formulas written out in float64, finite differences."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from snn_mnist.core import neuron, surrogate
from snn_mnist.kernels.formulas import FORMULAS, expression
from snn_mnist.visualizing import plot_surrogate_function

pi, exp, where, sigma = math.pi, torch.exp, torch.where, torch.sigmoid


def waves(x, n, T, f):
    return sum(f((2 * i - 1) * 2 * pi * x / T) / ((2 * i - 1) if f is torch.sin else 1) for i in range(1, n))


def quadratic(x, a):
    return where(x < -1 / a, 0.0, where(x > 1 / a, 1.0, -0.5 * a**2 * x * x.abs() + a * x + 0.5))


def both_sides(x, u):
    return where(x < 0, u, 1 - u)


# name -> (class, parameters (the defaults first), g, primitive); from the definitions, independent of our code
ORACLE = {
    "piecewise_quadratic": (
        "PiecewiseQuadratic", [(1.0,), (0.4,), (3.0,)], lambda x, a: (a - a**2 * x.abs()).clamp(min=0), quadratic
    ),
    "piecewise_exp": (
        "PiecewiseExp", [(1.0,), (4.0,)],
        lambda x, a: a / 2 * exp(-a * x.abs()), lambda x, a: both_sides(x, exp(-a * x.abs()) / 2),
    ),
    "sigmoid": (
        "Sigmoid", [(4.0,), (0.5,)], lambda x, a: a * sigma(a * x) * sigma(-a * x), lambda x, a: sigma(a * x)
    ),
    "soft_sign": (
        "SoftSign", [(2.0,), (5.0,)],
        lambda x, a: a / (2 * (1 + (a * x).abs()) ** 2), lambda x, a: 0.5 * (a * x / (1 + (a * x).abs()) + 1),
    ),
    "super_spike": ("SuperSpike", [(1.0,), (3.0,)], lambda x, a: a / (1 + x.abs()) ** 2, None),
    "atan": (
        "ATan", [(2.0,), (0.1,), (8.0,)],
        lambda x, a: a / 2 / (1 + (pi / 2 * a * x) ** 2), lambda x, a: torch.atan(pi / 2 * a * x) / pi + 0.5,
    ),
    "nonzero_sign_log_abs": (
        "NonzeroSignLogAbs", [(1.0,), (2.5,)],
        lambda x, a: 1 / (1 / a + x.abs()), lambda x, a: where(x >= 0, 1.0, -1.0) * torch.log(a * x.abs() + 1),
    ),
    "erf": (
        "Erf", [(2.0,), (0.7,)],
        lambda x, a: a / math.sqrt(pi) * exp(-(a**2) * x**2), lambda x, a: torch.erfc(-a * x) / 2,
    ),
    "piecewise_leaky_relu": (
        "PiecewiseLeakyReLU", [(1.0, 0.01), (0.3, 0.2), (2.0, 0.0)],
        lambda x, w, c: where(x.abs() < w, 1 / (2 * w), torch.full_like(x, c)),
        lambda x, w, c: where(x < -w, c * x + c * w, where(x > w, c * x - c * w + 1, x / (2 * w) + 0.5)),
    ),
    "squarewave_fourier_series": (
        "SquarewaveFourierSeries", [(2, 8.0), (5, 3.0)],
        lambda x, n, T: 4 / T * waves(x, n, T, torch.cos), lambda x, n, T: 0.5 + 2 / pi * waves(x, n, T, torch.sin),
    ),
    "s2nn": (
        "S2NN", [(4.0, 1.0), (2.0, 0.5)],
        lambda x, a, b: where(x < 0, a * sigma(a * x) * sigma(-a * x), b / (x.clamp(min=0) + 1)),
        lambda x, a, b: where(x < 0, sigma(a * x), b * torch.log(x.clamp(min=0) + 1) + 0.5),
    ),
    "q_pseudo_spike": (
        "QPseudoSpike", [(2.0,), (1.5,), (6.0,)],
        lambda x, a: (1 + 2 * x.abs() / (a - 1)) ** (-a),
        lambda x, a: both_sides(x, 0.5 * (1 + 2 * x.abs() / (a - 1)) ** (1 - a)),
    ),
    "leaky_k_relu": (
        "LeakyKReLU", [(0.0, 1.0), (0.2, 0.7)],
        lambda x, a, k: where(x >= 0, k, torch.full_like(x, a)), lambda x, a, k: where(x >= 0, k * x, a * x),
    ),
    "fake_numerical_gradient": (
        "FakeNumericalGradient", [(0.3,), (2.0,)],
        lambda x, a: where(x == 0, a, (torch.sign(x) / x).clamp(max=a)), None,
    ),
    "log_tailed_relu": (
        "LogTailedReLU", [(0.0,), (0.1,)],
        lambda x, a: where(x <= 0, a, where(x <= 1, 1.0, 1 / x)),
        lambda x, a: where(x <= 0, a * x, where(x <= 1, x, torch.log(x.clamp(min=1)) + 1)),
    ),
    "rect": (
        "Rect", [(1.0,), (0.25,)],
        lambda x, a: where(x.abs() < 1 / (2 * a), a, torch.zeros_like(x)), lambda x, a: (a * x + 0.5).clamp(0, 1),
    ),
}  # fmt: skip
CASES = [(name, p) for name, (_, sets, _, _) in ORACLE.items() for p in sets]
WITH_PRIMITIVE = [name for name, case in ORACLE.items() if case[3]]
# float32-exact points, away from the kinks of every parameter set above, with 0 and far ends
POINTS = np.concatenate([np.linspace(-6, 6, 241) + 0.0078125, [0.0, -1e4, 1e4, -137.03125, 3000.0]])


def module(name, *parameters, **named):
    return getattr(surrogate, ORACLE[name][0])(*parameters, **named)


def ids(case):
    return "-".join([case[0], *map(str, case[1])])


def test_names_and_defaults():
    """The first parameters of each in ORACLE are its defaults."""
    assert {n: c.__name__ for n, c in surrogate.SURROGATES.items()} == {n: o[0] for n, o in ORACLE.items()}
    assert {n: tuple(f.defaults.values()) for n, f in FORMULAS.items()} == {n: o[1][0] for n, o in ORACLE.items()}
    for name, cls in surrogate.SURROGATES.items():
        assert getattr(surrogate, cls.__name__) is cls and cls.__doc__.startswith("g = ")
        twin = pickle.loads(pickle.dumps(cls()))
        assert type(twin) is cls and twin.parameters_of_formula == FORMULAS[name].defaults and repr(twin) == repr(cls())


def closeness(name, dtype):
    if dtype == "float64":
        return {"rtol": 1e-9, "atol": 1e-12}
    # float32 sine and cosine of a large argument lose what its rounding loses
    return {"rtol": 5e-5, "atol": 2e-2 if name == "squarewave_fourier_series" else 2e-6}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_values_and_gradients_in_torch(case, dtype):
    """Of the module and of both ways to call the function; with spiking=False the primitive's."""
    name, parameters = case
    _, _, g, p = ORACLE[name]
    close, x64 = closeness(name, str(dtype).removeprefix("torch.")), torch.tensor(POINTS)
    m, function = module(name, *parameters), getattr(surrogate, name)
    named = dict(zip(FORMULAS[name].defaults, parameters, strict=True))
    steps = m, lambda x: function.apply(x, *parameters), lambda x: function.apply(x, **named)
    runs = [(run, (x64 >= 0).double()) for run in steps]
    if p is None:
        primitive = module(name, spiking=False)
        for call in (lambda: primitive(x64), lambda: m.primitive(x64), lambda: function.primitive(x64)):
            with pytest.raises(ValueError, match="no primitive"):
                call()
    else:
        torch.testing.assert_close(m.primitive(x64.to(dtype)).double(), p(x64, *parameters), **close)
        runs.append((module(name, *parameters, spiking=False), p(x64, *parameters)))
    for run, expected in runs:
        x = x64.to(dtype, copy=True).requires_grad_()
        s = run(x)
        torch.testing.assert_close(s.double(), expected, **close)
        s.backward(torch.full_like(s, 3.0))
        assert s.dtype == x.grad.dtype == dtype
        torch.testing.assert_close(x.grad.double() / 3, g(x64, *parameters), **close)
    torch.testing.assert_close(m.gradient(x64.to(dtype)).double(), g(x64, *parameters), **close)
    assert torch.equal(m(x64), (x64 >= 0).double())  # without a gradient


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_no_nan_anywhere(case, dtype):
    m, finfo, waves = module(case[0], *case[1]), torch.finfo(dtype), case[0] == "squarewave_fourier_series"
    dense = torch.linspace(-1e4, 1e4, 20001, dtype=torch.float64).to(dtype)
    tiny = finfo.tiny * torch.tensor([-1.0, 0.0, -0.0, 1e-3, 1.0], dtype=dtype)
    huge = torch.tensor([-1.0, -0.3, -1e-9, 1e-9, 0.3, 1.0], dtype=torch.float64) * finfo.max
    x = torch.cat([dense, tiny, huge.to(dtype)])
    if waves:  # the argument of its cosines may not overflow
        x, dense = (values[values.abs() < finfo.max / 50] for values in (x, dense))
    else:
        assert not m.gradient(torch.tensor([-math.inf, math.inf], dtype=dtype)).isnan().any()
    gradient = m.gradient(x)
    assert gradient.dtype == dtype and gradient.isfinite().all()
    if m.formula.primitive is not None:
        assert not m.primitive(x).isnan().any() and m.primitive(dense).isfinite().all()
        assert waves or finfo.bits == 16 or (m.primitive(dense).diff() >= -1e-6).all(), "a primitive rises"


def test_a_formula_does_not_branch_in_python():
    with pytest.raises(TypeError, match="where"):
        expression(lambda x: x if x > 0 else -x, {}, "c")


def test_parameters():
    assert surrogate.ATan(3).parameters_of_formula == {"alpha": 3.0}
    m = surrogate.PiecewiseLeakyReLU(0.5, 0.1, False)
    assert (m.w, m.c, m.spiking) == (0.5, 0.1, False)
    assert repr(surrogate.Sigmoid(alpha=4)) == "Sigmoid(alpha=4.0, spiking=True)"
    m = surrogate.Sigmoid(alpha=4.0)
    m.alpha = 1.0  # a changed attribute counts at once
    assert m.gradient(torch.zeros(1)).item() == 0.25 and list(m.state_dict()) == []


@pytest.mark.parametrize(
    "error, make, message",
    [
        (ValueError, lambda: surrogate.ATan(alpha=0), r"alpha=0 of atan must be .* above 0; the default is 2"),
        (ValueError, lambda: surrogate.Sigmoid(alpha=math.nan), "alpha=nan"),
        (ValueError, lambda: surrogate.QPseudoSpike(alpha=1.0), "above 1"),
        (ValueError, lambda: surrogate.SquarewaveFourierSeries(n=1), "whole number above 1"),
        (ValueError, lambda: surrogate.SquarewaveFourierSeries(n=2.5), "whole number"),
        (ValueError, lambda: surrogate.PiecewiseLeakyReLU(w=-1), "w=-1"),
        (ValueError, lambda: surrogate.atan.apply(torch.zeros(1), -2.0), "alpha=-2.0"),
        (ValueError, lambda: surrogate.atan.apply(torch.zeros(1), gamma=2.0), "no parameter 'gamma'; it has alpha"),
        (TypeError, lambda: surrogate.atan.apply(torch.zeros(1), 2.0, 3.0), "takes alpha"),
        (TypeError, lambda: surrogate.ATan(gamma=1.0), "gamma"),
        (ValueError, lambda: surrogate.SuperSpike(nn.Parameter(torch.tensor(1.0))), "so alpha can't be learned"),
        (TypeError, lambda: Empty(1.0, 2.0, True), r"\(alpha, spiking\)"),
        (AttributeError, lambda: Empty()(torch.ones(2)), "spiking_function"),
    ],
)
def test_wrong_parameters(error, make, message):
    with pytest.raises(error, match=message):
        make()


# ---- parameters to be learned, and surrogates of one's own --------------------------------------------------


@pytest.mark.parametrize("name, parameter", [(n, p) for n in WITH_PRIMITIVE for p in FORMULAS[n].defaults if p != "n"])
@pytest.mark.parametrize("spiking", [True, False])
def test_a_parameter_gets_the_derivative_of_the_primitive(name, parameter, spiking):
    x = torch.linspace(-2.1, 2.3, 41, dtype=torch.float64)
    weight, step = torch.cos(3 * x), 1e-6
    start = dict(zip(FORMULAS[name].defaults, ORACLE[name][1][-1], strict=True))
    up, down = (start | {parameter: start[parameter] + d} for d in (step, -step))
    slope = ((ORACLE[name][3](x, *up.values()) - ORACLE[name][3](x, *down.values())) * weight).sum() / (2 * step)
    learned = nn.Parameter(torch.tensor(start[parameter], dtype=torch.float64))
    function = module(name, **start, spiking=spiking)
    setattr(function, parameter, learned)
    y = function(x)
    (y * weight).sum().backward()
    assert learned.grad.item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-8)
    assert not spiking or torch.equal(y, surrogate.heaviside(x))
    assert [n for n, _ in function.named_parameters()] == [parameter]
    style = getattr(surrogate, name).apply(x, **(start | {parameter: learned}))
    computed = module(name, **(start | {parameter: 1.0 * learned}), spiking=spiking)  # a tensor, but no nn.Parameter
    for y in (style, computed(x)):
        (grad,) = torch.autograd.grad((y * weight).sum(), learned)
        torch.testing.assert_close(grad, learned.grad)


@pytest.mark.parametrize("name, spiking", [*((name, True) for name in ORACLE), *((n, False) for n in WITH_PRIMITIVE)])
def test_second_derivatives(name, spiking):
    """g' is torch's derivative of the formula; a penalty on the gradients by x and a learned parameter, which needs a
    primitive, is that of finite differences."""
    parameters = ORACLE[name][1][-1]
    start = dict(zip(FORMULAS[name].defaults, parameters, strict=True))
    points = torch.tensor([-2.1, -0.71, -0.02, 0.013, 0.29, 1.7], dtype=torch.float64)
    function = getattr(getattr(surrogate, name), "apply" if spiking else "primitive")
    x, twin = (points.clone().requires_grad_() for _ in range(2))
    ours = torch.autograd.grad(function(x, *parameters).sum(), x, create_graph=True)[0]
    second, expected = (
        torch.autograd.grad(g.sum() + 0 * z.sum(), z)[0]
        for g, z in ((ours, x), (ORACLE[name][2](twin, *parameters), twin))
    )
    torch.testing.assert_close(second, expected, rtol=1e-9, atol=1e-12)
    if name not in WITH_PRIMITIVE:
        return
    parameter = next(n for n in start if n != "n")

    def penalty(x, value):
        y = function(x, **(start | {parameter: value}))
        gradients = torch.autograd.grad((y * torch.cos(3 * points)).sum(), (x, value), create_graph=True)
        return sum((g**2).sum() for g in gradients)

    value = torch.tensor(start[parameter], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(penalty, (x, value), eps=1e-6, atol=1e-5, rtol=1e-4)


class Box(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, alpha):
        ctx.save_for_backward(x)
        ctx.alpha = alpha
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * ctx.alpha * (x.abs() < 0.5 / ctx.alpha), None


class OfV14(surrogate.SurrogateFunctionBase):
    """As the tutorial of SpikingJelly 0.0.0.0.14 writes one."""

    def __init__(self, alpha=2.0, spiking=True):
        super().__init__(alpha, spiking)

    @staticmethod
    def spiking_function(x, alpha):
        return Box.apply(x, alpha)

    @staticmethod
    def primitive_function(x, alpha):
        return (alpha * x + 0.5).clamp(0, 1)


class OfV2(surrogate.SurrogateFunctionBase):
    def __init__(self, width=0.5, height=2.0, spiking=True):
        super().__init__(spiking, width=width, height=height)

    @staticmethod
    def spiking_function(x, height, width):  # by name, so that the order is free
        return Box.apply(x, height)

    @staticmethod
    def primitive_function(x, height, width):
        return (height * x + 0.5).clamp(0, 1)


class Empty(surrogate.SurrogateFunctionBase):
    pass


def triangle(x, alpha=2.0):
    return (alpha - alpha * alpha * x.abs()).clamp(min=0)


def test_a_surrogate_from_its_gradient_alone():
    own, reference = surrogate.GradientSurrogate(triangle), surrogate.PiecewiseQuadratic(2.0)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    torch.testing.assert_close(own.gradient(x), reference.gradient(x))
    assert torch.equal(own(x), reference(x)) and own.alpha == 2.0
    assert surrogate.GradientSurrogate(triangle, alpha=1.0).gradient(torch.zeros(1)) == 1
    with pytest.raises(ValueError, match="triangle has no primitive"):
        own.primitive(x)
    left, right = plot_surrogate_function([triangle, reference]).axes
    assert [len(axes.lines) for axes in (left, right)] == [2, 2] and "triangle, α=2" in right.lines[0].get_label()


@pytest.mark.parametrize("own", [OfV14(2.0), OfV14(alpha=2.0), OfV2()])
def test_a_surrogate_of_ones_own(own):
    x = torch.linspace(-1, 1, 21) + 0.01
    reference = surrogate.Rect(2.0)
    for spiking in (True, False):
        results = []
        for function in (own, reference):
            function.set_spiking_mode(spiking)
            x_own = x.clone().requires_grad_()
            y = function(x_own)
            y.sum().backward()
            results.append((y.detach(), x_own.grad))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(own.gradient(x), reference.gradient(x))
    torch.testing.assert_close(own.primitive(x), reference.primitive(x))
    left, right = plot_surrogate_function(own).axes
    for axes, expected in ((left, reference.primitive), (right, reference.gradient)):
        drawn = axes.lines[-1]
        np.testing.assert_allclose(drawn.get_ydata(), expected(torch.as_tensor(drawn.get_xdata())), atol=1e-6)
    own.set_spiking_mode(True)
    node = neuron.LIFNode(surrogate_function=own, step_mode="m")
    same = neuron.LIFNode(surrogate_function=surrogate.Rect(2.0), step_mode="m")
    x = torch.rand(6, 4)
    assert torch.equal(node(x), same(x)) and node.supported_backends == ("torch",)
    assert "spiking=True" in repr(own) and "do not know the surrogate" in node.why_not_fused()
    assert surrogate.Sigmoid.spiking_function(torch.tensor([-1.0, 0.0]), 4.0).tolist() == [0.0, 1.0]
