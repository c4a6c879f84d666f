"""What neurons take as input, as settings and as a start; what transforms, replicas and checkpoints make of them."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from snn_mnist.core import functional, layer, neuron, surrogate
from snn_mnist.core.base import MemoryModule

KINDS = [neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode]
BACKENDS = ["torch", "numba"]


def make_pairs():
    return [(kind, b) for kind in KINDS for b in BACKENDS if b == "torch" or kind is not neuron.ParametricLIFNode]


def run(node, x, mode="m"):
    node.step_mode = mode
    return node(x) if mode == "m" else torch.stack([node(x_t) for x_t in x])


# ---- input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, backend", make_pairs())
def test_complex_input_is_refused_by_name(kind, backend):
    with pytest.raises(TypeError, match=f"{kind.__name__} takes real numbers, but got torch.complex64"):
        kind(step_mode="m", backend=backend)(torch.ones(2, 3, dtype=torch.complex64))
    with pytest.raises(TypeError, match="SynapseFilter takes real numbers"):
        layer.SynapseFilter()(torch.ones(3, dtype=torch.complex128))


@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("v_reset", [0.0, None, -0.2])
@pytest.mark.parametrize("kind", [neuron.IFNode, neuron.LIFNode])
def test_one_infinite_input(kind, v_reset, value):
    """The backends agree, v is finite, and a neuron that fires is reset; the others are as they were."""
    x = torch.full((6, 4), 0.7)
    x[1, 0] = x[3, 1] = value
    results = []
    for backend, mode in (("torch", "s"), ("torch", "m"), ("numba", "m")):
        node = kind(v_reset=v_reset, step_mode="m", store_v_seq=True, surrogate_function=surrogate.ATan())
        x_own = x.clone().requires_grad_()
        if backend == "numba":
            functional.set_backend(node, backend)
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
    for backend in BACKENDS:
        node = neuron.LIFNode(step_mode="m", backend=backend)
        assert node(x).tolist() == [[0.0, 0.0]] * 3 and node.v.isnan().tolist() == [True, False]


# ---- precision ---------------------------------------------------------------------------------------------


class Squared(neuron.BaseNode):
    def neuronal_charge(self, x):
        self.v = self.v + x**2


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", [*KINDS, Squared])
def test_membrane_stays_in_float32_under_autocast(kind, mode):
    """0.001 a step: bfloat16, with 8 bits, would stop adding it at v = 0.25."""
    x = torch.full((600, 3), 0.001 if kind is not Squared else 0.001**0.5)
    settings = {"v_threshold": 0.5}
    if kind is not Squared and kind is not neuron.IFNode:
        settings |= {"decay_input": False, "v_threshold": 0.0015}
    expected = run(kind(**settings), x.bfloat16().float(), mode)
    assert expected.sum() > 0
    node = kind(**settings)
    with torch.autocast("cpu", torch.bfloat16):
        spikes = run(node, x.bfloat16(), mode)
    assert spikes.dtype == node.v.dtype == torch.float32 and torch.equal(spikes, expected)


# ---- parameters --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("two", [np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0), torch.tensor(2)])
def test_numbers_of_numpy_and_torch(two):
    node = neuron.LIFNode(tau=two, v_threshold=two, v_reset=two)
    assert (node.tau, node.v_threshold, node.v_reset, node.v) == (2.0,) * 4 and type(node.tau) is float
    assert surrogate.ATan(two).parameters_of_formula == {"alpha": 2.0}
    assert neuron.ParametricLIFNode(two).w.item() == 0.0 and layer.SynapseFilter(two).tau == 2.0
    for wrong in (np.float32("nan"), np.bool_(True), torch.ones(2), np.ones(3), torch.tensor(1j)):
        with pytest.raises(ValueError, match=r"v_threshold=.*must be a finite number"):
            neuron.IFNode(wrong)
    with pytest.raises(ValueError, match=r"must be above 1"):
        neuron.LIFNode(nn.Parameter(torch.tensor([2.0, 1.0])))


# ---- the start ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, backend", make_pairs())
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


def test_a_kept_state_is_not_spread_over_a_batch():
    node = neuron.IFNode()
    node(torch.zeros(3))
    with pytest.raises(RuntimeError, match="reset_net"):
        node(torch.zeros(2, 3))


# ---- replicas, checkpoints, transforms, processes ----------------------------------------------------------


def small_net(mode="m"):
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Linear(5, 6), neuron.LIFNode(surrogate_function=surrogate.ATan()), layer.Linear(6, 3),
        neuron.ParametricLIFNode(v_reset=None),
    )  # fmt: skip
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
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = sequence()
        results = []
        for one in (net, compiled):
            functional.reset_net(one)
            one.zero_grad()
            y = one(x) if mode == "m" else torch.stack([one(x_t) for x_t in x])
            y.pow(2).mean().backward()
            results.append([y.detach(), *(p.grad.clone() for p in one.parameters())])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
            assert a.abs().sum() > 0


def test_memories_of_a_user_may_hold_tuples():
    class Pair(MemoryModule):
        def __init__(self):
            super().__init__()
            self.register_memory("n", 0)

        def single_step_forward(self, x):
            self.n += 1
            return x + self.n, x

    pair = Pair()
    pair.step_mode = "m"
    a, b = pair(torch.zeros(3, 2))
    assert a.tolist() == [[1.0] * 2, [2.0] * 2, [3.0] * 2] and b.sum() == 0
