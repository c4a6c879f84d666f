"""Containers: loops and folds over T, what they hold and refuse; tuples; step modes of whole nets."""

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from snn_mnist.core import functional, layer, neuron
from tests.core.test_layers import N, T, assert_same, data, folded, results, steps


def test_recurrent_containers_by_hand():
    net = layer.ElementWiseRecurrentContainer(neuron.IFNode(v_reset=None), torch.add, "m")
    assert net(torch.tensor([1.5] + [0.0] * 7)).tolist() == [1.0] * 8, "the spike feeds itself for ever"
    net = layer.LinearRecurrentContainer(nn.Sequential(nn.Linear(4, 2), neuron.LIFNode()), 4, 2)
    assert sorted(net.state_dict()) == ["rc.bias", "rc.weight", "sub_module.0.bias", "sub_module.0.weight"]
    x, y, v = data(T, N, 4) * 4, torch.zeros(N, 2), torch.zeros(N, 2)
    for x_t in x:
        current = net.sub_module[0](net.rc(torch.cat([x_t, y], 1)))
        h = v + (current - v) / 2
        y = (h >= 1).float()
        v = h * (1 - y)
        assert torch.equal(net(x_t), y)
    with pytest.raises(RuntimeError, match="reset_net"):
        net(x[0, :1])


def stateful():
    torch.manual_seed(0)
    modules = [nn.Linear(4, 6), neuron.LIFNode(), nn.Linear(6, 2), neuron.IFNode()]
    for linear in modules[::2]:
        linear.weight.data.uniform_(-1, 2)
    return nn.Sequential(*modules), data(T, N, 4) * 3


def stateless():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()), data(T, N, 2, 5, 4)


RUNS = {  # stateful -> ways to run modules over a sequence
    True: [
        lambda m: layer.MultiStepContainer(*m),
        lambda m: layer.StepModeContainer(True, *m, step_mode="m"),
        lambda m: lambda x: functional.multi_step_forward(x, list(m)),
    ],
    False: [
        lambda m: layer.SeqToANNContainer(*m),
        lambda m: layer.StepModeContainer(False, *m, step_mode="m"),
        lambda m: lambda x: functional.seq_to_ann_forward(x, tuple(m)),
    ],
}


@pytest.mark.parametrize("is_stateful, way", [(key, way) for key, ways in RUNS.items() for way in ways])
def test_containers_are_loops_and_folds(is_stateful, way):
    net, x = stateful() if is_stateful else stateless()
    twin = copy.deepcopy(net)
    expected = results((steps if is_stateful else folded)(twin), twin, x)
    assert_same(results(way(net), net, x), expected)
    assert expected[0].abs().sum() > 0
    if is_stateful:
        functional.reset_net(net)
        assert torch.equal(steps(layer.StepModeContainer(True, *net))(x), expected[0])
        functional.reset_net(net)
        assert torch.equal(functional.multi_step_forward(x, net), expected[0])


def test_switching_rules():
    net = nn.Sequential(
        layer.StepModeContainer(True, nn.Sequential(layer.Linear(4, 4), neuron.IFNode())),
        layer.StepModeContainer(False, layer.Linear(4, 4), layer.StepModeContainer(False, layer.Linear(4, 4))),
        neuron.LIFNode(),
    )
    inside = ["0.0.0", "0.0.1", "1.0", "1.1", "1.1.0"]
    for mode in "msm":
        functional.set_step_mode(net, mode)
        modes = {name: m.step_mode for name, m in net.named_modules() if hasattr(m, "step_mode")}
        assert modes == {"0": mode, "1": mode, "2": mode} | dict.fromkeys(inside, "s")
    assert net(data(T, N, 4)).shape == (T, N, 4)
    with pytest.raises(ValueError, match="step_mode 'x'"):
        functional.set_step_mode(net, "x")
    net = nn.Sequential(neuron.LIFNode(step_mode="m"), layer.MultiStepContainer(neuron.IFNode()))
    functional.set_step_mode(net, "m")
    assert net[1].step_mode == "m" and net[1][0].step_mode == "s"
    with pytest.raises(ValueError, match=r"'1'.*not supported by MultiStepContainer; use 'm'"):
        functional.set_step_mode(net, "s")


class Mean(nn.Module):
    """A readout of the user's own: what comes behind it is no sequence."""

    def forward(self, y):
        return y.mean(0)


@pytest.mark.parametrize(
    "wrong",
    [nn.Flatten(), nn.GroupNorm(1, 2), nn.Upsample(scale_factor=2), nn.Softmax(1), nn.PReLU(3), nn.BatchNorm1d(3)],
    ids=lambda module: type(module).__name__,
)
def test_torch_modules_that_take_T_for_the_batch_are_refused(wrong):
    """Those that compute the same for [T, N, *] are not, nor what a module of the user's own may give one step to."""
    net = nn.Sequential(layer.Linear(4, 4), nn.Sequential(neuron.IFNode(), wrong))
    with pytest.raises(ValueError, match=rf"'1\.1'.*nn\.{type(wrong).__name__} would take T.*core\.layer"):
        functional.set_step_mode(net, "m")
    assert net[0].step_mode == net[1][0].step_mode == "s"
    right = [nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.5), nn.Softmax(-1), nn.LayerNorm(4), nn.PReLU(), nn.Identity()]
    functional.set_step_mode(nn.Sequential(*right, layer.SeqToANNContainer(wrong)), "m")
    functional.set_step_mode(nn.Sequential(neuron.IFNode(), Mean(), wrong), "m")


# ---- tuples ------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    double: Any
    rest: Any


class Split(nn.Module):
    def forward(self, x):
        return x + 1, Pair(x * 2, [x - 1])


class Join(nn.Module):
    def forward(self, *parts):
        a, (b, (c,)) = parts if len(parts) == 2 else parts[0]
        return a * b + c


@pytest.mark.parametrize("way", [way for ways in RUNS.values() for way in ways])
def test_modules_that_return_tuples(way):
    x = data(T, N, 5)

    def run(*modules):
        return way(modules)

    a, pair = run(Split())(x)
    assert torch.equal(a, x + 1) and torch.equal(pair.double, x * 2) and torch.equal(pair.rest[0], x - 1)
    assert torch.equal(run(Split(), Join())(x), (x + 1) * (x * 2) + (x - 1)), "tuples from module to module"
    assert torch.equal(run(Join())((a, pair)), (x + 1) * (x * 2) + (x - 1)), "and as an input"


def test_chunks_give_what_the_whole_gives():
    net = nn.Sequential(layer.Linear(8, 4), neuron.IFNode(), layer.Linear(4, 2), neuron.LIFNode())
    for linear in net[::2]:
        linear.weight.data.abs_().mul_(3)
    functional.set_step_mode(net, "m")
    x = data(50, N, 8) * 4
    with torch.no_grad():
        whole = net(x)
        functional.reset_net(net)
        assert torch.equal(functional.chunk_multi_step_forward(16, x, net), whole) and whole.sum() > 0
    a, _ = functional.chunk_multi_step_forward(16, x, lambda part: (part + 1, part))
    assert torch.equal(a, x + 1)


# ---- containers that change --------------------------------------------------------------------------------

CONTAINERS = [
    layer.MultiStepContainer,
    layer.SeqToANNContainer,
    lambda *m: layer.StepModeContainer(False, *m, step_mode="m"),
    lambda *m: layer.StepModeContainer(True, *m),
]


@pytest.mark.parametrize("make", CONTAINERS)
def test_slices_are_containers(make):
    parts = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)]
    whole = make(*parts)
    part = whole[1:]
    assert type(part) is type(whole) and list(part) == parts[1:] and part.step_mode == whole.step_mode
    assert getattr(part, "stateful", None) == whole.stateful
    with pytest.raises(TypeError):
        whole + [nn.ReLU()]
    x = data(T, N, 4)
    torch.testing.assert_close(part(x), parts[2](x.relu()))
    assert whole[0] is parts[0] and list(whole.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("make", CONTAINERS)
def test_what_is_added_is_checked(make):
    container = make(nn.Linear(4, 4))
    multi = neuron.IFNode(step_mode="m")
    ways = [
        make,
        container.append,
        lambda m: container.insert(0, m),
        lambda m: container.__setitem__(0, m),
        lambda m: container.extend([m]),
        lambda m: container.add_module("x", m),
    ]
    for way in ways:
        with pytest.raises(ValueError, match="step mode 'm'"):
            way(multi)
        if not container.stateful:
            with pytest.raises(ValueError, match=r"\.0'.*IFNode.*has a state.*MultiStepContainer"):
                way(nn.Sequential(neuron.IFNode()))
    assert len(container) == 1
    container.append(nn.ReLU()).insert(0, nn.Identity())
    container[1] = nn.Linear(4, 2)
    assert container(data(T, N, 4)).shape == (T, N, 2)


def test_other_contents_that_containers_refuse():
    with pytest.raises(ValueError, match="step mode 'm'"):
        layer.ElementWiseRecurrentContainer(neuron.IFNode(step_mode="m"), torch.add)
    with pytest.raises(TypeError, match="True or False"):
        layer.StepModeContainer(nn.Linear(2, 2))
