"""Neurons: the equations written out in float64 autograd; input, settings, state, backends, transforms."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from snn_mnist.core import functional, layer, neuron, surrogate

ALPHA = 2.0


class Step(torch.autograd.Function):
    """The test's own Heaviside with the gradient of ATan written out."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, 0.0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (ALPHA / 2) / (1 + (math.pi / 2 * ALPHA * x) ** 2)


def written_out(x_seq, tau, decay_input, v_threshold, v_reset, detach_reset):
    """Spikes and potentials [T, N], straight from the equations."""
    rest = 0.0 if v_reset is None else v_reset
    v = torch.full_like(x_seq[0], rest)
    spikes, potentials = [], []
    for x in x_seq:
        leak = 0.0 if tau is None else (v - rest) / tau
        h = v - leak + (x / tau if tau and decay_input else x)
        s = Step.apply(h - v_threshold)
        sr = s.detach() if detach_reset else s
        v = h - sr * v_threshold if v_reset is None else (1 - sr) * h + sr * v_reset
        spikes.append(s)
        potentials.append(v)
    return torch.stack(spikes), torch.stack(potentials)


class SquareIFNode(neuron.SimpleBaseNode):
    """A neuron of the user's own."""

    def neuronal_charge(self, x):
        self.v = self.v + x**2


KINDS = {
    "IF": (neuron.IFNode, {}, None),
    "LIF": (neuron.LIFNode, {"tau": 1.7}, 1.7),
    "LIF, input not decayed": (neuron.LIFNode, {"tau": 5, "decay_input": False}, 5.0),
    "PLIF": (neuron.ParametricLIFNode, {"init_tau": 3.0}, 3.0),
    "PLIF, input not decayed": (neuron.ParametricLIFNode, {"init_tau": 3, "decay_input": False}, 3.0),
    "own": (SquareIFNode, {}, None),
}
WAYS = [("torch", "s"), ("torch", "m"), ("numba", "m")]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend, mode", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_against_equations(kind, backend, mode, dtype):
    """Spikes, potentials and gradients; whole numbers count as float32, and potentials are float32 at least."""
    make, arguments, tau = KINDS[kind]
    if backend == "numba" and make not in (neuron.IFNode, neuron.LIFNode):
        return
    state = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(0)
    for T, v_reset, detach_reset in itertools.product((1, 25), (0.0, None, -0.3), (False, True)):
        x = (torch.randn(T, 7, generator=generator, dtype=torch.float64) * 1.5 + 0.6) * (tau or 1.0)
        x = (x.abs() if dtype == torch.uint8 else x).to(dtype)
        differentiable = x.is_floating_point()
        ours, wide = (y.requires_grad_(differentiable) for y in (x.clone(), x.to(state)))
        node = make(
            **arguments, v_threshold=0.65, v_reset=v_reset, surrogate_function=surrogate.ATan(ALPHA),
            detach_reset=detach_reset, step_mode=mode, backend=backend, store_v_seq=True,
        ).to(state)  # fmt: skip
        s = node(ours) if mode == "m" else torch.stack([node(x_t) for x_t in ours])
        decay = arguments.get("decay_input", True)
        expected_s, expected_v = written_out(
            wide**2 if kind == "own" else wide, tau, decay, 0.65, v_reset, detach_reset
        )
        assert s.dtype == (dtype if differentiable else torch.float32) and node.v.dtype == node.v_seq.dtype == state
        assert torch.equal(s.to(state), expected_s)
        close = {"rtol": 1e-9, "atol": 1e-12} if state == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
        close = {"rtol": 1e-6, "atol": 1e-6} if "PLIF" in kind and state == torch.float64 else close  # w is float32
        torch.testing.assert_close(node.v_seq, expected_v, **close)
        assert torch.equal(node.v_seq[-1], node.v) and (T == 1 or expected_s.sum() > 0)
        if differentiable:
            weight = torch.randn(T, 7, generator=generator).to(state)
            (s * weight + node.v_seq * weight.flip(0)).sum().backward()
            (expected_s * weight + expected_v * weight.flip(0)).sum().backward()
            if dtype in (torch.bfloat16, torch.float16):
                close = {"rtol": 2e-2, "atol": 2e-2}
            torch.testing.assert_close(ours.grad.to(state), wide.grad, **close)


def run(node, x, mode="m"):
    node.step_mode = mode
    return node(x) if mode == "m" else torch.stack([node(x_t) for x_t in x])


def test_parametric_lif():
    node = neuron.ParametricLIFNode(3.0, True, 1.0, None, step_mode="m")
    assert list(node.state_dict()) == ["w"] and node.w.sigmoid().item() == pytest.approx(1 / 3)
    assert node.v_reset is None and "tau=3" in repr(node)
    node(torch.rand(12, 5) * 3).sum().backward()
    assert node.w.grad.abs() > 0
    with pytest.raises(ValueError, match=r"ParametricLIFNode cannot use backend.*'torch'"):
        functional.set_backend(node, "cupy")


def test_fires_exactly_at_threshold_and_resets():
    node = neuron.IFNode(v_reset=0.0)
    assert node(torch.tensor([1.0, 0.999, 1.2, 1.3])).tolist() == [1.0, 0.0, 1.0, 1.0]
    torch.testing.assert_close(node.v, torch.tensor([0.0, 0.999, 0.0, 0.0]))
    node = neuron.IFNode(v_reset=None)
    node(torch.tensor([1.2, 1.3]))
    torch.testing.assert_close(node.v, torch.tensor([0.2, 0.3]))


# ---- input -------------------------------------------------------------------------------------------------

PAIRS = [(neuron.IFNode, "torch"), (neuron.IFNode, "numba"), (neuron.LIFNode, "torch"), (neuron.LIFNode, "numba")]
PAIRS += [(neuron.ParametricLIFNode, "torch")]


@pytest.mark.parametrize("kind, backend", PAIRS)
def test_complex_input_is_refused_by_name(kind, backend):
    with pytest.raises(TypeError, match=f"{kind.__name__} takes real numbers, but got torch.complex64"):
        kind(step_mode="m", backend=backend)(torch.ones(2, 3, dtype=torch.complex64))


@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("v_reset", [0.0, None, -0.2])
@pytest.mark.parametrize("kind", [neuron.IFNode, neuron.LIFNode])
def test_one_infinite_input(kind, v_reset, value):
    """The backends agree, v is finite, and a neuron that fires is reset; the others are as they were."""
    x = torch.full((6, 4), 0.7)
    x[1, 0] = x[3, 1] = value
    results = []
    for backend, mode in (("torch", "s"), ("torch", "m"), ("numba", "m")):
        settings = {"step_mode": "m", "backend": backend, "store_v_seq": True}
        node = kind(v_reset=v_reset, surrogate_function=surrogate.ATan(), **settings)
        x_own = x.clone().requires_grad_()
        s = run(node, x_own, mode)
        s.sum().backward()
        assert node.v.isfinite().all() and x_own.grad.isfinite().all()
        assert s[1, 0] == s[3, 1] == (value > 0)
        if mode == "m" and value > 0 and v_reset is not None:
            assert node.v_seq[1, 0].item() == pytest.approx(v_reset)
        results.append((s.detach(), node.v.detach(), x_own.grad))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    plain = kind(v_reset=v_reset, step_mode="m")(torch.full((6, 1), 0.7))
    assert torch.equal(results[0][0][:, 2:], plain.expand(6, 2))


def test_nan_stays_nan():
    x = torch.tensor([[math.nan, 0.5]] * 3)
    for backend in ("torch", "numba"):
        node = neuron.LIFNode(step_mode="m", backend=backend)
        assert node(x).tolist() == [[0.0, 0.0]] * 3 and node.v.isnan().tolist() == [True, False]


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", [neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode, SquareIFNode])
def test_membrane_stays_in_float32_under_autocast(kind, mode):
    """0.001 a step: bfloat16, with 8 bits, would stop adding it at v = 0.25."""
    x = torch.full((600, 3), 0.001 if kind is not SquareIFNode else 0.001**0.5)
    settings = {"v_threshold": 0.5}
    if kind not in (SquareIFNode, neuron.IFNode):
        settings |= {"decay_input": False, "v_threshold": 0.0015}
    expected = run(kind(**settings), x.bfloat16().float(), mode)
    assert expected.sum() > 0
    node = kind(**settings)
    with torch.autocast("cpu", torch.bfloat16):
        spikes = run(node, x.bfloat16(), mode)
    assert spikes.dtype == node.v.dtype == torch.float32 and torch.equal(spikes, expected)


# ---- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make_node, message",
    [
        (lambda: neuron.LIFNode(tau=1.0), r"tau=1.0 must be a finite number above 1; .*IFNode"),
        (lambda: neuron.LIFNode(tau="2"), "tau='2' must be a finite number"),
        (lambda: neuron.LIFNode(tau=math.inf), "tau=inf"),
        (lambda: neuron.LIFNode(nn.Parameter(torch.tensor([2.0, 1.0]))), "above 1"),
        (lambda: neuron.ParametricLIFNode(1.0), r"init_tau=1.0 must be a finite number above 1"),
        (lambda: neuron.IFNode(v_threshold=None), "v_threshold=None must be a finite number"),
        (lambda: neuron.IFNode(v_reset=math.nan), "v_reset=nan.*None means the soft reset"),
        (lambda: neuron.IFNode(step_mode="x"), "step_mode 'x' is not supported by IFNode; use 's' or 'm'"),
        (lambda: neuron.IFNode(backend="jax"), "no such backend; use one of 'torch'"),
        (lambda: neuron.IFNode(backend="cupy"), "set the step mode first"),
        (lambda: neuron.BaseNode()(torch.ones(2)), "must define neuronal_charge"),
    ],
)
def test_wrong_settings(make_node, message):
    with pytest.raises((ValueError, TypeError, NotImplementedError), match=message):
        make_node()


@pytest.mark.parametrize("two", [np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0), torch.tensor(2)])
def test_numbers_of_numpy_and_torch(two):
    node = neuron.LIFNode(tau=two, v_threshold=two, v_reset=two)
    assert (node.tau, node.v_threshold, node.v_reset, node.v) == (2.0,) * 4 and type(node.tau) is float
    assert surrogate.ATan(two).parameters_of_formula == {"alpha": 2.0}
    assert neuron.ParametricLIFNode(two).w.item() == 0.0 and layer.SynapseFilter(two).tau == 2.0
    for wrong in (np.float32("nan"), np.bool_(True), torch.ones(2), np.ones(3), torch.tensor(1j)):
        with pytest.raises(ValueError, match=r"v_threshold=.*must be a finite number"):
            neuron.IFNode(wrong)


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("v_reset", [None, 0.0, 0.3])
@pytest.mark.parametrize("name", ["v_threshold", "v_reset", "tau", "alpha"])
def test_parameters_are_learned(name, v_reset, mode):
    """With primitives instead of spikes, so that finite differences must agree; from constructor or later."""
    if name == "v_reset" and v_reset is None:
        return
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
    values = {"v_threshold": 0.9, "v_reset": v_reset, "tau": 2.5, "alpha": 1.5}

    def loss(value, late=False):
        given = values | {name: value}
        at_first = values if late else given
        node = neuron.LIFNode(
            at_first["tau"], True, at_first["v_threshold"], at_first["v_reset"],
            surrogate.ATan(at_first["alpha"], spiking=False),
        )  # fmt: skip
        if late:
            setattr(node.surrogate_function if name == "alpha" else node, name, value)
        y = run(node, x, mode)
        return (y * torch.arange(24.0).reshape(6, 4)).sum()

    step = 1e-6
    slope = (loss(values[name] + step) - loss(values[name] - step)) / (2 * step)
    for late in (False, True):
        p = nn.Parameter(torch.tensor(values[name], dtype=torch.float64))
        loss(p, late).backward()
        assert p.grad.item() == pytest.approx(slope.item(), rel=1e-5) and abs(slope) > 1e-3


def test_parameters_learn_with_spikes_and_appear_in_the_net():
    node = neuron.LIFNode(nn.Parameter(torch.tensor(2.0)), v_threshold=nn.Parameter(torch.full((4,), 0.8)))
    node.surrogate_function.alpha = nn.Parameter(torch.tensor(4.0))
    assert {n for n, _ in node.named_parameters()} == {"tau", "v_threshold", "surrogate_function.alpha"}
    x = torch.rand(9, 3, 4, generator=torch.Generator().manual_seed(1)) * 2
    run(node, x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in node.parameters())
    copy.deepcopy(node).load_state_dict(node.state_dict())


@pytest.mark.parametrize("name", ["v_threshold", "v_reset", "tau", "alpha"])
def test_fused_backends_refuse_parameters_by_name(name):
    for late in (False, True):
        node = neuron.LIFNode(step_mode="m")
        where = node.surrogate_function if name == "alpha" else node
        if late:
            node.backend = "numba"
        setattr(where, name, nn.Parameter(torch.tensor(2.0)))
        with pytest.raises(ValueError, match=rf"take {name} as one fixed number.*set_backend\(net, 'torch'\)"):
            functional.set_backend(node, "numba")
            node(torch.ones(2, 3))
        setattr(where, name, nn.Parameter(torch.tensor(2.0), requires_grad=False))
        node.backend = "numba"  # a fixed number again
        node(torch.ones(2, 3))


# ---- backends ----------------------------------------------------------------------------------------------


class MyLIF(neuron.LIFNode):
    def neuronal_charge(self, x):
        self.v = self.v + x


def test_spec():
    node = neuron.LIFNode(3, False, 0.5, None, surrogate.S2NN(), True)
    spec = node.spec()
    assert (spec.tau, spec.decay_input, spec.v_threshold, spec.v_reset) == (3.0, False, 0.5, None)
    assert spec.detach_reset and spec.surrogate == "s2nn"
    assert spec.parameters == (("alpha", 4.0), ("beta", 1.0)) and hash(spec) == hash(node.spec())
    node.surrogate_function.alpha = 2.0
    node.tau = 4.0
    assert node.spec().parameters[0] == ("alpha", 2.0) and node.spec().tau == 4.0
    assert neuron.IFNode().spec().tau is None
    for other, reason in [
        (SquareIFNode(), "IFNode and LIFNode only"),
        (MyLIF(), "its own neuronal_charge"),
        (neuron.IFNode(surrogate_function=torch.sigmoid), "do not know the surrogate"),
        (neuron.IFNode(surrogate_function=surrogate.ATan(spiking=False)), "spiking=False"),
    ]:
        with pytest.raises(ValueError, match=reason):
            other.spec()
        other.step_mode = "m"
        assert other.supported_backends == ("torch",)
        with pytest.raises(ValueError, match=reason):
            functional.set_backend(other, "numba")


def test_a_fused_backend_goes_on_and_is_refused_with_the_reason(monkeypatch):
    x = torch.rand(6, 2, 3) * 2
    reference, node = (neuron.LIFNode(step_mode="m", backend=b, store_v_seq=True) for b in ("torch", "numba"))
    for part in (x[:3], x[3:]):
        assert torch.equal(node(part), reference(part))
        torch.testing.assert_close(node.v_seq, reference.v_seq)
    with pytest.raises(ValueError, match=r"has no step mode 's'.*set_backend"):
        node.step_mode = "s"
    node.surrogate_function.set_spiking_mode(False)  # changed after the backend was chosen
    with pytest.raises(ValueError, match="spiking=False"):
        node(x[:3])
    node.surrogate_function.set_spiking_mode(True)
    monkeypatch.setitem(neuron.FUSED_BACKENDS, "numba", "no_such_module_here")
    for call in (lambda: node(x[:3]), lambda: neuron.IFNode(step_mode="m", backend="numba")):
        with pytest.raises(RuntimeError, match=r"'numba' cannot run here: ModuleNotFoundError: No module.*'torch'"):
            call()


def test_set_backend_on_a_net():
    net = nn.Sequential(layer.Linear(3, 3), neuron.LIFNode(), layer.Linear(3, 3), SquareIFNode())
    with pytest.raises(ValueError, match=r"module '1'.*set the step mode first"):
        functional.set_backend(net, "numba")
    functional.set_step_mode(net, "m")
    with pytest.raises(ValueError, match=r"module '3'.*SquareIFNode"):
        functional.set_backend(net, "numba")
    functional.set_backend(net, "numba", instance=neuron.LIFNode)
    assert (net[1].backend, net[3].backend) == ("numba", "torch")
    functional.set_backend(net, "torch")
    functional.set_step_mode(net, "s")
