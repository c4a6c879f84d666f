"""Neurons: the equations written out in float64 autograd; input, settings, state, backends, transforms."""

import copy
import io
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from snn_mnist.core import functional, layer, neuron, surrogate
from snn_mnist.core.base import MemoryModule

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
        (lambda: neuron.IFNode(surrogate_function=surrogate.ATan), "surrogate_function"),
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
    assert "Parameter(2.0)" in repr(node)
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


# ---- state -----------------------------------------------------------------------------------------------


class Decay(MemoryModule):
    """A user's own stateful synapse with only a single step."""

    def __init__(self, start):
        super().__init__()
        self.register_memory("y", start)

    def single_step_forward(self, x):
        self.y = 0.5 * self.y + x
        return self.y


def test_memories():
    m = Decay(torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="already has 'y'"):
        m.register_memory("y", 0)
    m.step_mode = "m"
    assert m(torch.ones(3, 2)).tolist() == [[1.5, 2.0], [1.75, 2.0], [1.875, 2.0]]
    assert m.y.tolist() == [1.875, 2.0] and dict(m.named_memories())["y"] is m.y
    assert m.state_dict() == {} and "y" in dir(m)
    m.reset()
    m.y.add_(1)  # what reset() restores is not the tensor handed out
    m.reset()
    assert m.y.tolist() == [1.0, 2.0]
    m.to(torch.float64)
    assert m.y.dtype == torch.float64
    m.reset()
    assert m.y.dtype == torch.float64
    assert m.to("meta").y.device.type == "meta"


def test_v_exists_from_the_start_and_follows():
    for v_reset, start in ((0.0, 0.0), (-0.2, -0.2), (None, 0.0)):
        node = neuron.LIFNode(v_reset=v_reset)
        assert node.v == start and isinstance(node.v, float)
        node(torch.zeros(2, 3))
        assert node.v.shape == (2, 3) and node.state_dict() == {}
        assert node.double().v.dtype == torch.float64
        node.reset()
        assert node.v == start


def test_deepcopy_and_pickle_within_a_graph():
    net = nn.Sequential(layer.Linear(3, 4), neuron.LIFNode(tau=3.0))
    net(torch.rand(2, 3))
    v = net[1].v
    assert v.requires_grad
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(net), torch.load(buffer, weights_only=False)):
        assert torch.equal(twin[1].v, v) and twin[1].v is not v and not twin[1].v.requires_grad
        twin[1].v.zero_()
        functional.reset_net(twin)
        assert v.abs().sum() > 0 and twin[1].tau == 3.0
        x = torch.rand(2, 3)
        functional.reset_net(net)
        assert torch.equal(twin(x), net(x))
    assert list(net.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("kind, backend", PAIRS)
@pytest.mark.parametrize("by_hand", [False, True])
def test_start_potential_of_each_neuron(kind, backend, by_hand):
    start, x = torch.tensor([0.0, 0.5, 0.9]), torch.full((4, 2, 3), 0.2)
    node = kind(step_mode="m", backend=backend)
    for _ in range(2):
        if by_hand:
            node.v = start
        else:
            node.set_reset_value("v", start)
            node.reset()
            assert torch.equal(node.v, start)
        s = node(x)
        for i, v in enumerate(start.tolist()):
            one = kind(step_mode="m")
            one.v = v
            assert torch.equal(one(x[..., i]), s[..., i])
        assert torch.equal(start, torch.tensor([0.0, 0.5, 0.9]))
    assert node.v.shape == (2, 3)
    with pytest.raises(RuntimeError, match=r"\[2, 3\] to \[3\].*reset_net"):
        node(x[:, 0])
    node.v = torch.zeros(5)
    with pytest.raises(RuntimeError, match=r"v of .* starts with shape \[5\].*shape of the features"):
        node(x)


# ---- a forgotten reset -----------------------------------------------------------------------------------


def batch(net, x, **kwargs):
    y = net(x).mean()
    y.backward(**kwargs)
    return y.item()


def lif_net(mode, detach_reset=False):
    torch.manual_seed(0)
    node = neuron.LIFNode(step_mode=mode, detach_reset=detach_reset)
    net = nn.Sequential(layer.Linear(5, 4, step_mode=mode), node)
    return net, torch.rand(4, 2, 5) if mode == "m" else torch.rand(2, 5)


def test_changed_shape_names_reset_net():
    net, x = lif_net("s")
    net(x)
    for wrong in (x[:1], x[0], x[None]):  # a kept state is not spread over a batch
        with pytest.raises(RuntimeError, match=r"changed from shape \[2, 4\] to .*functional.reset_net"):
            net(wrong)
    functional.reset_net(net)
    net(x[:1])


def test_a_state_of_a_sequence_that_broke_off_is_not_spread_over_a_larger_batch():
    class Breaking(neuron.IFNode):
        def neuronal_charge(self, x):
            if x.isinf().any():
                raise KeyboardInterrupt
            super().neuronal_charge(x)

    node = Breaking(step_mode="m")
    with pytest.raises(KeyboardInterrupt):
        node(torch.tensor([0.3, 0.3, math.inf])[:, None])
    with pytest.raises(RuntimeError, match=r"call functional.reset_net\(net\)"):
        node(torch.full((2, 5), 0.3))


@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_backward_into_a_freed_graph_names_reset_net(mode, detach_reset):
    net, x = lif_net(mode, detach_reset)
    batch(net, x)
    y = net(x).mean()  # the forward pass alone is no error: it may never be differentiated
    with pytest.raises(RuntimeError, match=r"functional\.reset_net\(net\) after each batch"):
        y.backward()
    functional.reset_net(net)
    batch(net, x)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_right_ways_to_go_on(mode):
    net, x = lif_net(mode)
    for _ in range(3):  # one state, one graph for each batch
        functional.reset_net(net)
        batch(net, x)
    for _ in range(3):  # truncated back-propagation through time
        functional.detach_net(net)
        v = net[1].v.clone()
        assert not v.requires_grad and v.abs().sum() > 0
        batch(net, x)
    functional.reset_net(net)
    for _ in range(3):  # the graph is kept
        batch(net, x, retain_graph=True)
    with torch.no_grad():  # evaluation goes on with the state of training
        net(x)
    batch(net, x)


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
    with pytest.raises(ValueError, match=r"module '3'.*SquareIFNode.*pass instance="):
        functional.set_backend(net, "numba")
    assert net[1].backend == "torch", "nothing is changed when one module refuses"
    functional.set_backend(net, "numba", instance=neuron.LIFNode)
    assert (net[1].backend, net[3].backend) == ("numba", "torch")
    with pytest.raises(ValueError):
        functional.set_step_mode(net, "s")
    assert {m.step_mode for m in net} == {"m"}, "nothing is changed when one module refuses"
    functional.set_backend(net, "torch")
    functional.set_step_mode(net, "s")


# ---- replicas, checkpoints, transforms ---------------------------------------------------------------------


def small_net(mode="m"):
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Linear(5, 6), neuron.LIFNode(), layer.Linear(6, 3), neuron.ParametricLIFNode(v_reset=None)
    )
    for p in net.parameters():
        if p.dim() > 1:
            p.data = p.data.abs() * 3
    functional.set_step_mode(net, mode)
    return net


def sequence():
    return torch.rand(4, 2, 5, generator=torch.Generator().manual_seed(3))


def test_replicas_have_their_own_memories():
    """What nn.DataParallel does to each module on each device."""
    for module in (neuron.IFNode(), layer.SynapseFilter(), layer.Dropout()):
        name = next(iter(dict(module.named_memories())))
        replicas = [module._replicate_for_data_parallel() for _ in range(2)]
        for i, replica in enumerate(replicas):
            replica(torch.ones(i + 2))
        assert [len(getattr(r, name)) for r in replicas] == [2, 3]
        assert not isinstance(getattr(module, name), torch.Tensor)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_activation_checkpointing(mode, reentrant):
    net, x = small_net(mode), sequence().requires_grad_()

    def forward(x):
        return net(x) if mode == "m" else torch.stack([net(x_t) for x_t in x])

    def fresh(x):
        functional.reset_net(net)
        return forward(x)

    fresh(x).sum().backward()
    expected = [p.grad.clone() for p in net.parameters()]
    assert all(g.abs().sum() > 0 for g in expected)
    net.zero_grad()
    checkpoint(fresh, x, use_reentrant=reentrant).sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), expected, strict=True))
    functional.reset_net(net)
    y = checkpoint(forward, x, use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match=r"runs again inside the backward pass.*checkpointing.*reset_net"):
        y.sum().backward()


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_of_other_memories(reentrant):
    x = torch.rand(4, 3, requires_grad=True)
    y = checkpoint(layer.SynapseFilter(step_mode="m"), x, use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match="forward pass of SynapseFilter runs again"):
        y.sum().backward()
    drop = layer.Dropout(step_mode="m")  # the mask is kept, so a second forward pass is the same
    checkpoint(drop, x, use_reentrant=reentrant).sum().backward()
    assert torch.equal(x.grad, drop.mask.expand(4, 3))


@pytest.mark.skipif(torch.__version__ < (2, 15), reason="torch.compile of an older torch")
@pytest.mark.parametrize("mode", ["s", "m"])
def test_compiled_without_a_graph_break(mode):
    net = small_net(mode)
    twin = copy.deepcopy(net)  # runs as it is too, so that its compiled form meets states of freed graphs
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    for _ in range(2):
        x = sequence()
        results = []
        for one in (net, twin, compiled):
            functional.reset_net(one)
            one.zero_grad()
            y = one(x) if mode == "m" else torch.stack([one(x_t) for x_t in x])
            y.pow(2).mean().backward()
            results.append([y.detach(), *(p.grad.clone() for p in one.parameters())])
        for a, same, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
            assert torch.equal(a, same) and a.abs().sum() > 0
