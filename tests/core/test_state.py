"""State: memories, a forgotten reset, copies, replicas, activation checkpointing, torch.compile."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from snn_mnist.core import functional, layer, neuron
from snn_mnist.core.base import MemoryModule

PAIRS = [(neuron.IFNode, "torch"), (neuron.IFNode, "numba"), (neuron.LIFNode, "torch"), (neuron.LIFNode, "numba")]
PAIRS += [(neuron.ParametricLIFNode, "torch")]


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


def sequence(mode="m"):
    x = torch.rand(4, 2, 5, generator=torch.Generator().manual_seed(3))
    return x if mode == "m" else x[0]


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
    assert m.state_dict() == {}
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
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
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
    for wrong in (x[:, :1], x[:, 0], x[:, None]):  # a kept state is not spread over a batch
        with pytest.raises(RuntimeError, match=r"changed from shape \[2, 3\] to .*functional.reset_net"):
            node(wrong)
    node.v = torch.zeros(5)
    with pytest.raises(RuntimeError, match=r"\[5\]"):
        node(x)


# ---- a forgotten reset -----------------------------------------------------------------------------------


def batch(net, x, **kwargs):
    y = net(x).mean()
    y.backward(**kwargs)
    return y.item()


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
    net, x = small_net(mode), sequence(mode)
    for node in net[1::2]:
        node.detach_reset = detach_reset
    batch(net, x)
    y = net(x).mean()  # the forward pass alone is no error: it may never be differentiated
    with pytest.raises(RuntimeError, match=r"functional\.reset_net\(net\) after each batch"):
        y.backward()
    functional.reset_net(net)
    batch(net, x)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_right_ways_to_go_on(mode):
    net, x = small_net(mode), sequence(mode)
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


# ---- replicas, checkpoints, transforms ---------------------------------------------------------------------


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
