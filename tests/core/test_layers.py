"""Layers by the names and positions their users know, layers with memories, tuples, and containers that change."""

import inspect
import logging
import math

import numpy as np
import pytest
import torch
from torch import nn

from snn_mnist.core import functional, layer, neuron
from snn_mnist.core.base import StepModule

T, N = 4, 3


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both_modes(make, x_seq):
    """The output of step by step and of the sequence, with the gradients of input and parameters."""
    results = []
    for mode in "sm":
        torch.manual_seed(0)
        module = make(mode)
        x = x_seq.clone().requires_grad_()
        y = module(x) if mode == "m" else torch.stack([module(x_t) for x_t in x])
        (y * data(*y.shape, seed=9)).sum().backward()
        results.append([y.detach(), x.grad, *(p.grad for p in module.parameters())])
    return results


# ---- signatures --------------------------------------------------------------------------------------------

STATELESS = [
    name
    for name, cls in vars(layer).items()
    if inspect.isclass(cls) and issubclass(cls, StepModule) and hasattr(nn, name) and "Container" not in name
    and not issubclass(cls, layer.MemoryModule)
]  # fmt: skip


@pytest.mark.parametrize("name", STATELESS)
def test_signature_is_torchs_then_step_mode(name):
    def positional(cls):
        parameters = inspect.signature(cls).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    theirs = [p for p in positional(getattr(nn, name)) if p[0] not in ("device", "dtype")]
    assert positional(getattr(layer, name)) == [*theirs, ("step_mode", "s")]


def test_all_layers_are_there():
    families = {"Conv": "123", "ConvTranspose": "123", "BatchNorm": "123", "MaxPool": "123", "AvgPool": "123"}
    families |= {"AdaptiveAvgPool": "123", "MaxUnpool": "123"}
    expected = {f"{family}{n}d" for family, dims in families.items() for n in dims}
    assert set(STATELESS) == expected | {"Linear", "Flatten", "GroupNorm"}


def test_step_mode_by_position():
    assert layer.Linear(8, 4, True, "m").step_mode == "m"
    assert layer.Conv2d(1, 2, 3, 1, 0, 1, 1, False, "zeros", "m").step_mode == "m"
    assert layer.BatchNorm2d(3, 1e-5, 0.1, True, True, "m").step_mode == "m"
    x = torch.ones(5)
    assert layer.Dropout(0.5, "m").step_mode == "m" and x.tolist() == [1.0] * 5
    assert layer.Linear(2, 2, device="meta", dtype=torch.float64).weight.dtype == torch.float64


# ---- stateless layers --------------------------------------------------------------------------------------

NEW = [
    (lambda m: layer.ConvTranspose1d(2, 3, 3, 2, step_mode=m), (2, 5)),
    (lambda m: layer.ConvTranspose2d(2, 3, 3, padding=1, step_mode=m), (2, 5, 4)),
    (lambda m: layer.ConvTranspose3d(1, 2, 2, step_mode=m), (1, 3, 2, 3)),
    (lambda m: layer.GroupNorm(2, 4, step_mode=m), (4, 5)),
    (lambda m: layer.GroupNorm(2, 4, step_mode=m), (4,)),
    (lambda m: layer.MaxPool1d(2, step_mode=m), (2, 6)),
    (lambda m: layer.MaxPool3d(2, step_mode=m), (2, 4, 6, 4)),
    (lambda m: layer.AvgPool1d(2, step_mode=m), (2, 6)),
    (lambda m: layer.AvgPool2d(2, 1, divisor_override=3, step_mode=m), (2, 4, 3)),
    (lambda m: layer.AvgPool3d(2, 1, divisor_override=3, step_mode=m), (2, 4, 3, 4)),
    (lambda m: layer.AdaptiveAvgPool1d(3, m), (2, 7)),
    (lambda m: layer.AdaptiveAvgPool2d((3, None), m), (2, 7, 4)),
    (lambda m: layer.AdaptiveAvgPool3d(2, m), (2, 4, 5, 3)),
    (lambda m: layer.VotingLayer(3, m), (12,)),
    (lambda m: layer.SynapseFilter(3.0, step_mode=m), (5,)),
    (lambda m: layer.SynapseFilter(3.0, True, m), (2, 5)),
    (lambda m: layer.Dropout(0.3, m), (40,)),
    (lambda m: layer.Dropout2d(0.3, m), (20, 3, 3)),
    (lambda m: layer.ElementWiseRecurrentContainer(neuron.LIFNode(), torch.add, m), (6,)),
    (lambda m: layer.LinearRecurrentContainer(nn.Sequential(nn.Linear(6, 4), nn.Sigmoid()), 6, 4, True, m), (6,)),
]


@pytest.mark.parametrize("make, shape", NEW, ids=lambda v: "" if callable(v) else str(v))
def test_both_step_modes_agree(make, shape):
    steps, sequence = both_modes(make, data(T, N, *shape))
    assert steps[0].abs().sum() > 0
    for a, b in zip(steps, sequence, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert "step_mode='m'" in repr(make("m"))


def test_linear_takes_any_number_of_dimensions_and_the_right_features():
    linear = layer.Linear(8, 4, True, "m")
    for shape in ((T, 8), (T, N, 8), (T, N, 2, 8)):
        x = data(*shape)
        torch.testing.assert_close(linear(x), x @ linear.weight.T + linear.bias)
    for shape in ((2, 4), (T, N, 4), (8, 1)):
        for mode in "sm":
            with pytest.raises(ValueError, match=rf"takes 8 features in the last dimension.*\[{shape[0]}, "):
                layer.Linear(8, 8, step_mode=mode)(data(*shape))


@pytest.mark.parametrize(
    "module, shape, message",
    [
        (layer.GroupNorm(2, 4, step_mode="m"), (4, 4), r"takes \[T, N, C, \*\] with C = 4"),
        (layer.GroupNorm(2, 4), (3, 6, 4), r"takes \[N, C, \*\] with C = 4"),
        (layer.AdaptiveAvgPool2d(2, "m"), (2, 3, 4, 4), "takes.*5 dimensions"),
        (layer.MaxPool1d(2, step_mode="m"), (2, 3, 4), "takes.*4 dimensions"),
        (layer.ConvTranspose2d(3, 2, 2, step_mode="m"), (2, 3, 4, 4), "takes.*5 dimensions"),
        (layer.VotingLayer(3), (2, 7), "multiple of voting_size=3"),
    ],
)
def test_wrong_shapes_are_refused(module, shape, message):
    with pytest.raises(ValueError, match=message):
        module(data(*shape))


SPATIAL = [
    name for name in dir(layer)
    if name[:-2].endswith(("Pool", "Conv", "ConvTranspose")) and name.endswith(("1d", "2d", "3d"))
]  # fmt: skip


@pytest.mark.parametrize("name", SPATIAL)
def test_a_single_step_is_no_sequence_for_any_spatial_layer(name):
    """[N, C, *] has as many dimensions as [T, N, C, *] of the next lower kind: torch would take T for N."""
    assert len(SPATIAL) >= 12
    n, given = int(name[-2]), {"output_size": 2} if "Adaptive" in name else {"kernel_size": 2}
    channels = {"in_channels": 3, "out_channels": 3} if "Conv" in name else {}
    module = getattr(layer, name)(**channels, **given, step_mode="m")
    assert module(data(T, N, 3, *[4] * n)).shape[:3] == (T, N, 3)
    with pytest.raises(ValueError, match=rf"takes.*{n + 3} dimensions"):
        module(data(N, 3, *[4] * n))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_unpooling_inverts_pooling(n):
    x = data(T, N, 2, *[5] * n)
    plain = getattr(nn, f"MaxPool{n}d")(2, return_indices=True)
    values, indices = getattr(layer, f"MaxPool{n}d")(2, return_indices=True, step_mode="m")(x)
    assert values.shape == indices.shape == (T, N, 2, *[2] * n)
    unpool = getattr(layer, f"MaxUnpool{n}d")(2, step_mode="m")
    for size in (x.shape, x.shape[1:], x.shape[-n:]):
        y = unpool(values, indices, size)
        for t in range(T):
            expected = getattr(nn, f"MaxUnpool{n}d")(2)(*plain(x[t]), x.shape[-n:])
            assert torch.equal(y[t], expected)
            unpool.step_mode = "s"
            assert torch.equal(unpool(*plain(x[t]), x.shape[1:]), expected)
            unpool.step_mode = "m"
    even = getattr(layer, f"MaxPool{n}d")(2, return_indices=True, step_mode="m")(data(T, N, 2, *[4] * n))
    assert unpool(*even).shape == (T, N, 2, *[4] * n)
    with pytest.raises(ValueError, match="dimensions"):
        unpool(values[0], indices[0])


def test_transposed_convolution_with_an_output_size():
    for mode, x in (("s", data(N, 2, 5, 5)), ("m", data(T, N, 2, 5, 5))):
        conv = layer.ConvTranspose2d(2, 3, 3, stride=2, step_mode=mode)
        assert conv(x, (12, 11)).shape == (*x.shape[:-3], 3, 12, 11)


# ---- memories ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda m: layer.Dropout(0.5, m), lambda m: layer.Dropout2d(0.5, m)])
def test_dropout_keeps_its_mask_until_reset(make):
    x = torch.ones(T, N, 50, 2, 2)
    drop = make("m")
    first = drop(x)
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert all(torch.equal(first[0], step) for step in first), "one mask over all steps"
    assert torch.equal(drop(x), first), "and over calls"
    drop.step_mode = "s"
    assert torch.equal(drop(x[0]), first[0])
    with pytest.raises(RuntimeError, match=r"mask is kept.*reset_net"):
        drop(x[0, :1])
    functional.reset_net(drop)
    assert not torch.equal(drop(x[0]), first[0])
    drop.eval()
    assert torch.equal(drop(x[0, :1]), x[0, :1]) and drop.state_dict() == {}
    if isinstance(drop, layer.Dropout2d):
        assert (first.flatten(3).std(3) == 0).all(), "whole channels"


def test_dropout_settings():
    assert layer.Dropout(np.float32(0.25)).p == 0.25 and layer.Dropout2d().p == 0.2
    assert layer.Dropout(1.0)(torch.ones(4)).tolist() == [0.0] * 4
    for p in (-0.1, 1.5, "x", math.nan):
        with pytest.raises(ValueError, match="p="):
            layer.Dropout(p)
    with pytest.raises(ValueError, match="has a state"):
        layer.SeqToANNContainer(layer.Dropout())


def test_synapse_filter_by_hand():
    x, tau, current = (data(T, 6) > 0).double(), 4.0, torch.zeros(6, dtype=torch.float64)
    expected = []
    for spike in x:
        current = current - (1 - spike) * current / tau + spike
        expected.append(current)
    torch.testing.assert_close(layer.SynapseFilter(tau, step_mode="m")(x), torch.stack(expected))
    learned = layer.SynapseFilter(tau, True, "m").double()
    assert list(learned.state_dict()) == ["w"] and "tau=4.0" in repr(learned)
    learned(x).sum().backward()
    step = 1e-4
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            learned.reset()
            learned.w += sign * step
            ends.append(learned(x).sum())
            learned.w -= sign * step
    torch.testing.assert_close(learned.w.grad, (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"tau=1.0 must be above 1"):
        layer.SynapseFilter(1.0)


def test_element_wise_recurrent_container():
    net = layer.ElementWiseRecurrentContainer(neuron.IFNode(v_reset=None), lambda x, y: x + y)
    x = torch.zeros(8)
    x[0] = 1.5  # the spike feeds itself for ever
    assert [net(x_t).item() for x_t in x] == [1.0] * 8
    functional.set_step_mode(net, "m")
    functional.reset_net(net)
    assert net(x).tolist() == [1.0] * 8 and net.sub_module.step_mode == "s"
    with pytest.raises(ValueError, match="step mode 'm'"):
        layer.ElementWiseRecurrentContainer(neuron.IFNode(step_mode="m"), torch.add)


def test_linear_recurrent_container():
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


# ---- tuples ------------------------------------------------------------------------------------------------


class Split(nn.Module):
    def forward(self, x):
        return x + 1, (x * 2, [x - 1])


class Join(nn.Module):
    def forward(self, *parts):
        a, (b, (c,)) = parts if len(parts) == 2 else parts[0]
        return a * b + c


@pytest.mark.parametrize(
    "run",
    [
        lambda *m: layer.SeqToANNContainer(*m),
        lambda *m: layer.MultiStepContainer(*m),
        lambda *m: layer.StepModeContainer(True, *m, step_mode="m"),
        lambda *m: layer.StepModeContainer(False, *m, step_mode="m"),
        lambda *m: lambda x: functional.seq_to_ann_forward(x, m),
        lambda *m: lambda x: functional.multi_step_forward(x, list(m)),
    ],
)
def test_modules_that_return_tuples(run):
    x = data(T, N, 5)
    a, (b, (c,)) = run(Split())(x)
    assert torch.equal(a, x + 1) and torch.equal(b, x * 2) and torch.equal(c, x - 1)
    assert torch.equal(run(Split(), Join())(x), (x + 1) * (x * 2) + (x - 1)), "tuples from module to module"
    assert torch.equal(run(Join())((a, (b, [c]))), (x + 1) * (x * 2) + (x - 1)), "and as an input"
    images = data(T, N, 2, 4, 4)
    values, indices = run(nn.MaxPool2d(2, return_indices=True))(images)
    expected = nn.MaxPool2d(2, return_indices=True)(images.flatten(0, 1))
    assert torch.equal(run(nn.MaxUnpool2d(2))((values, indices)).flatten(0, 1), nn.MaxUnpool2d(2)(*expected))
    assert torch.equal(values.flatten(0, 1), expected[0]) and torch.equal(indices.flatten(0, 1), expected[1])


def test_sequences_of_a_tuple_share_time_and_batch():
    with pytest.raises(RuntimeError, match=r"must share \[T, N\]"):
        functional.seq_to_ann_forward((data(4, 3, 2), data(4, 2, 2)), Join())


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
    lambda *m: layer.MultiStepContainer(*m),
    lambda *m: layer.SeqToANNContainer(*m),
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
    longer = whole + [nn.ReLU()]
    assert type(longer) is type(whole) and len(longer) == 4 and len(whole) == 3
    x = data(T, N, 4)
    torch.testing.assert_close(part(x), parts[2](x.relu()))
    assert whole[0] is parts[0]


@pytest.mark.parametrize("make", CONTAINERS)
def test_what_is_added_is_checked(make):
    container = make(nn.Linear(4, 4))
    multi = neuron.IFNode(step_mode="m")
    ways = [
        lambda m: container.append(m),
        lambda m: container.insert(0, m),
        lambda m: container.__setitem__(0, m),
        lambda m: container.extend([m]),
        lambda m: container.add_module("x", m),
        lambda m: container.__iadd__(nn.Sequential(m)),
    ]
    for way in ways:
        with pytest.raises(ValueError, match="step mode 'm'"):
            way(multi)
        if not container.stateful:
            with pytest.raises(ValueError, match="has a state"):
                way(nn.Sequential(neuron.IFNode()))
    assert len(container) == 1
    container.append(nn.ReLU()).insert(0, nn.Identity())
    container[1] = nn.Linear(4, 2)
    assert container(data(T, N, 4)).shape == (T, N, 2)


# ---- whole nets --------------------------------------------------------------------------------------------


class Own(nn.Module):
    """Has a reset and a detach, and is no memory module."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def reset(self):
        self.calls.append("reset")

    def detach(self):
        self.calls.append("detach")


def test_reset_and_detach_of_other_modules(caplog):
    net = nn.Sequential(neuron.IFNode(), Own())
    with caplog.at_level(logging.WARNING, "snn_mnist"):
        functional.reset_net(net)
        functional.detach_net(net)
    assert net[1].calls == ["reset", "detach"]
    assert [r.getMessage() for r in caplog.records] == [
        f"calling {name}() of Own, which is no base.MemoryModule" for name in ("reset", "detach")
    ]
