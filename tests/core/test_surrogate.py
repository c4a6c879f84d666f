"""Surrogates against API formulas written out in float64, finite differences, C and numba."""

import ctypes
import math
import pickle
import shutil
import subprocess

import numba
import numpy as np
import pytest
import torch
from torch import nn

from snn_mnist.core import neuron, surrogate
from snn_mnist.kernels.formulas import FORMULAS, expression
from snn_mnist.visualizing import plot_surrogate_function

pi, exp, where = math.pi, torch.exp, torch.where


def sigma(x):
    return torch.sigmoid(x)


def waves(x, n, T, f):
    return sum(f((2 * i - 1) * 2 * pi * x / T) / ((2 * i - 1) if f is torch.sin else 1) for i in range(1, n))


# name -> (class, parameter sets, g, primitive); written from the definitions, independent of our code
ORACLE = {
    "piecewise_quadratic": (
        "PiecewiseQuadratic",
        [{"alpha": 1.0}, {"alpha": 0.4}, {"alpha": 3.0}],
        lambda x, alpha: (alpha - alpha**2 * x.abs()).clamp(min=0),
        lambda x, alpha: where(
            x < -1 / alpha,
            0.0,
            where(x > 1 / alpha, 1.0, -0.5 * alpha**2 * x * x.abs() + alpha * x + 0.5),
        ),
    ),
    "piecewise_exp": (
        "PiecewiseExp",
        [{"alpha": 1.0}, {"alpha": 4.0}],
        lambda x, alpha: alpha / 2 * exp(-alpha * x.abs()),
        lambda x, alpha: where(x < 0, exp(-alpha * x.abs()) / 2, 1 - exp(-alpha * x.abs()) / 2),
    ),
    "sigmoid": (
        "Sigmoid",
        [{"alpha": 4.0}, {"alpha": 0.5}],
        lambda x, alpha: alpha * sigma(alpha * x) * sigma(-alpha * x),
        lambda x, alpha: sigma(alpha * x),
    ),
    "soft_sign": (
        "SoftSign",
        [{"alpha": 2.0}, {"alpha": 5.0}],
        lambda x, alpha: alpha / (2 * (1 + (alpha * x).abs()) ** 2),
        lambda x, alpha: 0.5 * (alpha * x / (1 + (alpha * x).abs()) + 1),
    ),
    "super_spike": (
        "SuperSpike",
        [{"alpha": 1.0}, {"alpha": 3.0}],
        lambda x, alpha: alpha / (1 + x.abs()) ** 2,
        None,
    ),
    "atan": (
        "ATan",
        [{"alpha": 2.0}, {"alpha": 0.1}, {"alpha": 8.0}],
        lambda x, alpha: alpha / 2 / (1 + (pi / 2 * alpha * x) ** 2),
        lambda x, alpha: torch.atan(pi / 2 * alpha * x) / pi + 0.5,
    ),
    "nonzero_sign_log_abs": (
        "NonzeroSignLogAbs",
        [{"alpha": 1.0}, {"alpha": 2.5}],
        lambda x, alpha: 1 / (1 / alpha + x.abs()),
        lambda x, alpha: where(x >= 0, 1.0, -1.0) * torch.log(alpha * x.abs() + 1),
    ),
    "erf": (
        "Erf",
        [{"alpha": 2.0}, {"alpha": 0.7}],
        lambda x, alpha: alpha / math.sqrt(pi) * exp(-(alpha**2) * x**2),
        lambda x, alpha: torch.erfc(-alpha * x) / 2,
    ),
    "piecewise_leaky_relu": (
        "PiecewiseLeakyReLU",
        [{"w": 1.0, "c": 0.01}, {"w": 0.3, "c": 0.2}, {"w": 2.0, "c": 0.0}],
        lambda x, w, c: where(x.abs() < w, 1 / (2 * w), torch.full_like(x, c)),
        lambda x, w, c: where(x < -w, c * x + c * w, where(x > w, c * x - c * w + 1, x / (2 * w) + 0.5)),
    ),
    "squarewave_fourier_series": (
        "SquarewaveFourierSeries",
        [{"n": 2, "T_period": 8.0}, {"n": 5, "T_period": 3.0}],
        lambda x, n, T_period: 4 / T_period * waves(x, n, T_period, torch.cos),
        lambda x, n, T_period: 0.5 + 2 / pi * waves(x, n, T_period, torch.sin),
    ),
    "s2nn": (
        "S2NN",
        [{"alpha": 4.0, "beta": 1.0}, {"alpha": 2.0, "beta": 0.5}],
        lambda x, alpha, beta: where(x < 0, alpha * sigma(alpha * x) * sigma(-alpha * x), beta / (x.clamp(min=0) + 1)),
        lambda x, alpha, beta: where(x < 0, sigma(alpha * x), beta * torch.log(x.clamp(min=0) + 1) + 0.5),
    ),
    "q_pseudo_spike": (
        "QPseudoSpike",
        [{"alpha": 2.0}, {"alpha": 1.5}, {"alpha": 6.0}],
        lambda x, alpha: (1 + 2 * x.abs() / (alpha - 1)) ** (-alpha),
        lambda x, alpha: where(
            x < 0,
            0.5 * (1 + 2 * x.abs() / (alpha - 1)) ** (1 - alpha),
            1 - 0.5 * (1 + 2 * x.abs() / (alpha - 1)) ** (1 - alpha),
        ),
    ),
    "leaky_k_relu": (
        "LeakyKReLU",
        [{"leak": 0.0, "k": 1.0}, {"leak": 0.2, "k": 0.7}],
        lambda x, leak, k: where(x >= 0, k, torch.full_like(x, leak)),
        lambda x, leak, k: where(x >= 0, k * x, leak * x),
    ),
    "fake_numerical_gradient": (
        "FakeNumericalGradient",
        [{"alpha": 0.3}, {"alpha": 2.0}],
        lambda x, alpha: where(x == 0, alpha, (torch.sign(x) / x).clamp(max=alpha)),
        None,
    ),
    "log_tailed_relu": (
        "LogTailedReLU",
        [{"alpha": 0.0}, {"alpha": 0.1}],
        lambda x, alpha: where(x <= 0, alpha, where(x <= 1, 1.0, 1 / x)),
        lambda x, alpha: where(x <= 0, alpha * x, where(x <= 1, x, torch.log(x.clamp(min=1)) + 1)),
    ),
    "rect": (
        "Rect",
        [{"alpha": 1.0}, {"alpha": 0.25}],
        lambda x, alpha: where(x.abs() < 1 / (2 * alpha), alpha, torch.zeros_like(x)),
        lambda x, alpha: (alpha * x + 0.5).clamp(0, 1),
    ),
}
CASES = [(name, p) for name, (_, sets, _, _) in ORACLE.items() for p in sets]
# float32-exact points, away from the kinks of every parameter set above, with 0 and far ends
POINTS = np.concatenate([np.linspace(-6, 6, 241) + 0.0078125, [0.0, -1e4, 1e4, -137.03125, 3000.0]])


def module(name, **parameters):
    return getattr(surrogate, ORACLE[name][0])(**parameters)


def ids(case):
    return "-".join([case[0], *(f"{k}{v:g}" for k, v in case[1].items())])


def test_the_sixteen():
    assert set(FORMULAS) == set(ORACLE) == set(surrogate.SURROGATES)
    assert {n: c.__name__ for n, c in surrogate.SURROGATES.items()} == {n: o[0] for n, o in ORACLE.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_values_and_gradients(case, dtype):
    name, parameters = case
    _, _, g, p = ORACLE[name]
    x64 = torch.tensor(POINTS)
    # float32 sine and cosine of a large argument lose what its rounding loses
    atol = 1e-12 if dtype == torch.float64 else 2e-6 if name != "squarewave_fourier_series" else 2e-2
    close = {"rtol": 1e-9 if dtype == torch.float64 else 5e-5, "atol": atol}
    m = module(name, **parameters)
    function = getattr(surrogate, name)
    for run in (m, lambda x: function.apply(x, *parameters.values()), lambda x: function(x, **parameters)):
        x = x64.to(dtype, copy=True).requires_grad_()
        s = run(x)
        assert s.dtype == dtype and torch.equal(s, (x64 >= 0).to(dtype))
        s.backward(torch.full_like(s, 3.0))
        assert x.grad is not None and x.grad.dtype == dtype
        torch.testing.assert_close(x.grad.double() / 3, g(x64, **parameters), **close)
    torch.testing.assert_close(m.gradient(x64.to(dtype)).double(), g(x64, **parameters), **close)
    if p is None:
        with pytest.raises(ValueError, match="no primitive"):
            m.set_spiking_mode(False)
        with pytest.raises(ValueError, match="no primitive"):
            m.primitive(x64)
        return
    torch.testing.assert_close(m.primitive(x64.to(dtype)).double(), p(x64, **parameters), **close)
    m.set_spiking_mode(False)
    assert m.spiking is False
    x = x64.to(dtype, copy=True).requires_grad_()
    y = m(x)
    torch.testing.assert_close(y.double(), p(x64, **parameters), **close)
    y.sum().backward()
    torch.testing.assert_close(x.grad.double(), g(x64, **parameters), **close)
    m.set_spiking_mode(True)
    assert torch.equal(m(x64), (x64 >= 0).double())


@pytest.mark.parametrize("case", [c for c in CASES if ORACLE[c[0]][3]], ids=ids)
def test_gradient_is_the_slope_of_the_primitive(case):
    m = module(case[0], **case[1])
    x, h = torch.tensor(POINTS[:241]), 1e-6
    jumps = {"s2nn": [0.0], "log_tailed_relu": [0.0, 1.0], "leaky_k_relu": [0.0]}
    assert all((x - k).abs().min() > h for k in jumps.get(case[0], []))
    slope = (m.primitive(x + h) - m.primitive(x - h)) / (2 * h)
    torch.testing.assert_close(m.gradient(x), slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_no_nan_anywhere(case, dtype):
    m = module(case[0], **case[1])
    dense = torch.linspace(-1e4, 1e4, 20001, dtype=dtype)
    tiny = torch.finfo(dtype).tiny * torch.tensor([-1.0, 0.0, -0.0, 1e-3, 1.0], dtype=dtype)
    huge = torch.tensor([-1.0, -0.3, 0.3, 1.0], dtype=dtype) * torch.finfo(dtype).max
    far = torch.tensor([-1e38, -1e20, 1e20, 1e38], dtype=dtype)
    x = torch.cat([dense, tiny, huge, far])
    if case[0] == "squarewave_fourier_series":  # the argument of its cosines may not overflow
        x = x[x.abs() < 1e37]
    assert torch.isfinite(m.gradient(x)).all()
    if m.formula.primitive is not None:
        assert not m.primitive(x).isnan().any()
        y = m.primitive(x[:20001])
        assert torch.isfinite(y).all()
        if case[0] != "squarewave_fourier_series":
            assert (y.diff() >= -1e-6).all(), "a primitive rises"
    if case[0] != "squarewave_fourier_series":  # cos(inf) has no value
        assert not m.gradient(torch.tensor([-math.inf, math.inf], dtype=dtype)).isnan().any()


def formulas_of(name):
    f = FORMULAS[name]
    return [f.gradient] if f.primitive is None else [f.gradient, f.primitive]


@pytest.fixture(scope="module", params=["float32", "float64"])
def compiled_c(request, tmp_path_factory):
    """Every case as one C library: (dtype, {(case index, formula index): function})."""

    if shutil.which("gcc") is None:
        pytest.skip("no gcc on this machine")
    dtype = request.param
    folder = tmp_path_factory.mktemp("c")
    text = "#include <math.h>\n"
    t = "float" if dtype == "float32" else "double"
    for i, (name, parameters) in enumerate(CASES):
        for j, formula in enumerate(formulas_of(name)):
            body = expression(formula, parameters, "c", dtype)
            text += f"void f{i}_{j}(const {t}* X, {t}* Y, long n)"
            text += f" {{ for (long i = 0; i < n; i++) {{ const {t} x = X[i]; Y[i] = {body}; }} }}\n"
    (folder / "f.c").write_text(text)
    flags = ["-O1", "-Wall", "-Werror", "-Wdouble-promotion", "-Wfloat-conversion", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "f.c", "-o", "f.so", "-lm"], cwd=folder, check=True)
    return dtype, ctypes.CDLL(str(folder / "f.so"))


def check_target(case, dtype, evaluate):
    """evaluate(j, x) against float64 torch, for gradient (j=0) and primitive (j=1)."""
    name, parameters = case
    m = module(name, **parameters)
    x = POINTS.astype(dtype)
    atol = 1e-12 if dtype == "float64" else 2e-6 if name != "squarewave_fourier_series" else 2e-2
    for j, reference in enumerate([m.gradient, m.primitive][: len(formulas_of(name))]):
        y = evaluate(j, x)
        assert y.dtype == np.dtype(dtype)
        rtol = 1e-9 if dtype == "float64" else 5e-5
        np.testing.assert_allclose(y, reference(torch.tensor(POINTS)).numpy(), rtol=rtol, atol=atol)


def test_c_text(compiled_c):
    dtype, library = compiled_c
    for i, case in enumerate(CASES):

        def evaluate(j, x, i=i):
            y = np.empty_like(x)
            getattr(library, f"f{i}_{j}")(*(a.ctypes.data_as(ctypes.c_void_p) for a in (x, y)), len(x))
            return y

        check_target(case, dtype, evaluate)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numba_text(dtype):
    inline = numba.njit(inline="always")
    names = {
        "where": inline(lambda c, a, b: a if c else b),
        "minimum": inline(lambda a, b: a if a < b else b),
        "maximum": inline(lambda a, b: a if a > b else b),
        "f32": np.float32,
        "f64": np.float64,
    }
    names |= {n: getattr(math, n) for n in ("exp", "log", "log1p", "sin", "cos", "atan", "erfc", "sqrt")}
    lines, types = ["def run(x, out):", "  for i in range(x.size):", "    x_ = x[i]"], []
    cases = [c for i, c in enumerate(CASES) if i == 0 or CASES[i - 1][0] != c[0]]  # one set each: time
    for i, (name, parameters) in enumerate(cases):
        for j, formula in enumerate(formulas_of(name)):
            text = expression(formula, parameters, "python", dtype)
            lines.append(f"    out[{2 * i + j}, i] = one_{i}_{j}(x_)")
            scope = dict(names)
            exec(f"def one(x): return {text}", scope)
            names[f"one_{i}_{j}"] = compiled = numba.njit(scope["one"])
            types.append(compiled)
    exec("\n".join(lines), names)
    x = POINTS.astype(dtype)
    out = np.zeros((2 * len(cases), x.size), dtype)
    numba.njit(names["run"])(x, out)
    for one in types:  # float32 in, float32 out: no constant widens the arithmetic
        (signature,) = one.nopython_signatures
        assert str(signature.return_type) == dtype
    for i, case in enumerate(cases):
        check_target(case, dtype, lambda j, _, i=i: out[2 * i + j])


def test_plain_numbers_and_text():
    assert FORMULAS["atan"].gradient(0.0, 2.0) == 1.0
    assert FORMULAS["piecewise_quadratic"].primitive(5.0, 1.0) == 1.0
    assert expression(FORMULAS["nonzero_sign_log_abs"].gradient, {"alpha": 4.0}, "c") == "(1.0f / (0.25f + fabsf(x)))"
    text = expression(FORMULAS["leaky_k_relu"].gradient, {"leak": 0.5, "k": 1.0}, "python")
    assert text == "where((x < f32(0.0)), f32(0.5), f32(1.0))"
    with pytest.raises(TypeError, match="where"):
        expression(lambda x: x if x > 0 else -x, {}, "c")
    with pytest.raises(ValueError, match="targets: c, python"):
        expression(FORMULAS["atan"].gradient, {"alpha": 2.0}, "fortran")


def test_parameters():
    assert surrogate.ATan().alpha == 2.0 and surrogate.ATan(3).parameters_of_formula == {"alpha": 3.0}
    m = surrogate.PiecewiseLeakyReLU(0.5, 0.1, False)
    assert (m.w, m.c, m.spiking) == (0.5, 0.1, False)
    assert repr(surrogate.Sigmoid(alpha=4)) == "Sigmoid(alpha=4.0, spiking=True)"
    m = surrogate.Sigmoid(alpha=4.0)
    m.alpha = 1.0  # a changed attribute counts at once
    assert m.gradient(torch.zeros(1)).item() == 0.25
    x = torch.zeros(1, requires_grad=True)
    m(x).backward()
    assert x.grad is not None and x.grad.item() == 0.25
    assert pickle.loads(pickle.dumps(surrogate.S2NN(2.0))).parameters_of_formula == {
        "alpha": 2.0,
        "beta": 1.0,
    }
    assert list(surrogate.ATan().state_dict()) == []


def test_defaults():
    """Those of SpikingJelly's classes: the first set of each."""
    assert {name: formula.defaults for name, formula in FORMULAS.items()} == {n: c[1][0] for n, c in ORACLE.items()}


def test_the_gradient_at_the_threshold_itself():
    """x = 0 is a spike: the side that SpikingJelly takes there."""
    zero = torch.zeros(1)
    assert surrogate.LeakyKReLU(leak=0.25, k=2.0).gradient(zero).item() == 2.0
    assert surrogate.LogTailedReLU(alpha=0.5).gradient(zero).item() == 0.5


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: surrogate.ATan(alpha=0),
            r"alpha=0 of atan must be a finite number above 0; the default is 2",
        ),
        (lambda: surrogate.Sigmoid(alpha=math.nan), "alpha=nan"),
        (lambda: surrogate.QPseudoSpike(alpha=1.0), "above 1"),
        (lambda: surrogate.SquarewaveFourierSeries(n=1), "whole number above 1"),
        (lambda: surrogate.SquarewaveFourierSeries(n=2.5), "whole number"),
        (lambda: surrogate.PiecewiseLeakyReLU(w=-1), "w=-1"),
        (lambda: surrogate.SuperSpike(spiking=False), "no primitive"),
        (lambda: surrogate.atan.apply(torch.zeros(1), -2.0), "alpha=-2.0"),
        (lambda: surrogate.atan.apply(torch.zeros(1), gamma=2.0), "no parameter 'gamma'; it has alpha"),
    ],
)
def test_wrong_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_too_many_parameters():
    with pytest.raises(TypeError):
        surrogate.atan.apply(torch.zeros(1), 2.0, 3.0)
    with pytest.raises(TypeError):
        surrogate.ATan(gamma=1.0)


def test_heaviside_and_half_precision():
    x = torch.tensor([-1.0, -0.0, 0.0, 2.0])
    assert surrogate.heaviside(x).tolist() == [0.0, 1.0, 1.0, 1.0]
    for name in FORMULAS:
        x16 = torch.tensor([-900.0, -0.5, 0.0, 0.5, 900.0], dtype=torch.bfloat16, requires_grad=True)
        module(name)(x16).sum().backward()
        assert x16.grad is not None and x16.grad.dtype == torch.bfloat16 and torch.isfinite(x16.grad).all()


# ---- parameters to be learned, and surrogates of one's own --------------------------------------------------

LEARNED = [
    (name, parameter)
    for name, formula in FORMULAS.items()
    for parameter in formula.defaults
    if formula.primitive is not None and parameter not in ("n",)
]


@pytest.mark.parametrize("name, parameter", LEARNED)
@pytest.mark.parametrize("spiking", [True, False])
def test_a_parameter_gets_the_derivative_of_the_primitive(name, parameter, spiking):
    x = torch.linspace(-2.1, 2.3, 41, dtype=torch.float64)
    weight = torch.cos(3 * x)
    start = ORACLE[name][1][-1]
    p = ORACLE[name][3]
    step = 1e-6
    ends = [(p(x, **(start | {parameter: start[parameter] + d})) * weight).sum() for d in (step, -step)]
    learned = nn.Parameter(torch.tensor(start[parameter], dtype=torch.float64))
    function = module(name, **start, spiking=spiking)
    setattr(function, parameter, learned)
    y = function(x)
    (y * weight).sum().backward()
    assert learned.grad.item() == pytest.approx(((ends[0] - ends[1]) / (2 * step)).item(), rel=1e-4, abs=1e-8)
    assert not spiking or torch.equal(y, surrogate.heaviside(x))
    assert [n for n, _ in function.named_parameters()] == [parameter]
    style = getattr(surrogate, name).apply(x, **(start | {parameter: learned}))
    (grad,) = torch.autograd.grad((style * weight).sum(), learned)
    torch.testing.assert_close(grad, learned.grad)


@pytest.mark.parametrize("name", ["super_spike", "fake_numerical_gradient"])
def test_without_a_primitive_nothing_is_learned(name):
    with pytest.raises(ValueError, match=f"{name} has no primitive, so alpha can't be learned"):
        module(name, alpha=nn.Parameter(torch.tensor(1.0)))


@pytest.mark.parametrize("spiking", [True, False])
@pytest.mark.parametrize("name", [name for name, case in ORACLE.items() if case[3]])
def test_second_derivatives(name, spiking):
    """Of a penalty on the gradients by x and by a learned parameter, against finite differences of the penalty."""
    start = ORACLE[name][1][-1]
    parameter = next(n for n in start if n != "n")
    points = torch.tensor([-2.1, -0.71, -0.02, 0.013, 0.29, 1.7], dtype=torch.float64)

    function = getattr(surrogate, name)

    def penalty(x, value):
        y = (function.apply if spiking else function.primitive)(x, **(start | {parameter: value}))
        gradients = torch.autograd.grad((y * torch.cos(3 * points)).sum(), (x, value), create_graph=True)
        return sum((g**2).sum() for g in gradients)

    x = points.clone().requires_grad_()
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


class Several(surrogate.MultiArgsSurrogateFunctionBase):
    def __init__(self, height=2.0, spiking=True):
        super().__init__(spiking)
        self.height = height

    def forward(self, x):
        return Box.apply(x, self.height) if self.spiking else (self.height * x + 0.5).clamp(0, 1)


class Changed(surrogate.Rect):
    """A surrogate of the table with another step."""

    @staticmethod
    def spiking_function(x, alpha):
        return Box.apply(x, alpha)


@pytest.mark.parametrize("own", [OfV14(2.0), OfV14(alpha=2.0), OfV2(), Several(), Changed(2.0)])
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


def test_a_surrogate_of_ones_own_needs_its_functions():
    class Empty(surrogate.SurrogateFunctionBase):
        pass

    for spiking, name in ((True, "spiking_function"), (False, "primitive_function")):
        with pytest.raises(NotImplementedError, match=name):
            Empty(spiking=spiking)(torch.ones(2))
    with pytest.raises(TypeError, match=r"\(alpha, spiking\)"):
        Empty(1.0, 2.0, True)
    assert surrogate.Sigmoid.spiking_function(torch.tensor([-1.0, 0.0]), 4.0).tolist() == [0.0, 1.0]
