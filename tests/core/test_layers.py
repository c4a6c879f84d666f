"""Layers and containers: torch's own numbers in both step modes, for each type of number; tuples; later changes."""

import copy
import inspect
import logging
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from snn_mnist.core import functional, layer, neuron, surrogate
from snn_mnist.core.base import StepModule

T, N = 4, 3


def data(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def results(run, module, x):
    """The output, the gradient of the input and those of the parameters."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    torch.manual_seed(5)
    y = run(x)
    (y * data(*y.shape, seed=9, dtype=y.dtype)).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in module.parameters())]


def steps(module):
    return lambda x: torch.stack([module(x_t) for x_t in x])


def folded(module):
    def run(x):
        y = module(x.flatten(0, 1))
        return y.reshape(*x.shape[:2], *y.shape[1:])

    return run


def assert_same(a, b, dtype=torch.float32):
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# ---- stateless layers: torch's arguments, and a step's shape ------------------------------------------------

STATELESS = {
    "Linear": [((4, 2), (4,)), ((4, 2, False), (4,))],
    "Flatten": [((), (2, 3, 4))],
    "Conv1d": [((2, 3, 3, 1, 1), (2, 7))],
    "Conv2d": [((2, 3, 3, 2), (2, 7, 6))],
    "Conv3d": [((1, 2, 2), (1, 3, 4, 5))],
    "ConvTranspose1d": [((2, 3, 3, 2), (2, 5))],
    "ConvTranspose2d": [((2, 3, 3, 1, 1), (2, 5, 4))],
    "ConvTranspose3d": [((1, 2, 2), (1, 3, 2, 3))],
    "BatchNorm1d": [((4,), (4,)), ((4,), (4, 3))],
    "BatchNorm2d": [((2,), (2, 5, 4))],
    "BatchNorm3d": [((2,), (2, 3, 4, 2))],
    "GroupNorm": [((2, 4), (4, 5)), ((2, 4), (4,))],
    "MaxPool1d": [((2,), (2, 6))],
    "MaxPool2d": [((2, 1), (2, 6, 4))],
    "MaxPool3d": [((2,), (2, 4, 6, 4))],
    "AvgPool1d": [((2,), (2, 6))],
    "AvgPool2d": [((2, 1, 0, False, True, 3), (2, 4, 3))],
    "AvgPool3d": [((2, 1, 0, False, True, 3), (2, 4, 3, 4))],
    "AdaptiveAvgPool1d": [((3,), (2, 7))],
    "AdaptiveAvgPool2d": [(((3, None),), (2, 7, 4))],
    "AdaptiveAvgPool3d": [((2,), (2, 4, 5, 3))],
}
ALL = {
    name
    for name, cls in vars(layer).items()
    if inspect.isclass(cls) and issubclass(cls, StepModule) and hasattr(nn, name) and "Dropout" not in name
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "name, arguments, shape", [(name, *case) for name, cases in STATELESS.items() for case in cases]
)
def test_stateless_layers(name, arguments, shape, dtype):
    """Forward and backward, running statistics, repr, state_dict, copies and pickles are those of torch's layer."""
    plain = getattr(nn, name)(*arguments).to(dtype)
    single, multi = (getattr(layer, name)(*arguments, step_mode=mode).to(dtype) for mode in "sm")
    for module in (single, multi):
        module.load_state_dict(plain.state_dict())
    assert isinstance(multi, type(plain)) and repr(multi) == repr(plain)[:-1] + (
        ", step_mode='m')" if repr(plain)[-2] != "(" else "step_mode='m')"
    )
    x = data(T, N, *shape, dtype=dtype)
    assert_same(results(multi, multi, x), results(folded(plain), plain, x), dtype)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(multi.state_dict()[key], value)
    if "BatchNorm" not in name:
        assert_same(results(steps(single), single, x), results(multi, multi, x), dtype)
    multi.eval()
    for twin in (copy.deepcopy(multi), pickle.loads(pickle.dumps(multi))):
        assert twin.step_mode == "m" and torch.equal(twin(x), multi(x))


@pytest.mark.parametrize("name", STATELESS)
def test_steps_of_the_same_memory_are_computed_once(name):
    """Outputs, gradients and running statistics are those of T separate steps."""
    arguments, shape = STATELESS[name][0]
    module, found = getattr(layer, name)(*arguments, step_mode="m"), []
    twin, image = copy.deepcopy(module), data(1, N, *shape).requires_grad_()
    for one, whole in ((module, image.expand(T, N, *shape)), (twin, image.expand(T, N, *shape).contiguous())):
        y = one(whole)
        grads = torch.autograd.grad(
            (y * torch.arange(T).view(T, *[1] * (y.dim() - 1))).sum(), [image, *one.parameters()]
        )
        found.append([y, *grads, *one.buffers()])
    assert_same(*found)
    assert (found[0][0].stride(0) == 0) == (not name.startswith(("BatchNorm", "ConvT"))) and found[1][0].stride(0)


@pytest.mark.parametrize("name", sorted(ALL))
def test_signature_is_torchs_then_step_mode(name):
    def positional(cls):
        parameters = inspect.signature(cls).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    theirs = [p for p in positional(getattr(nn, name)) if p[0] not in ("device", "dtype")]
    assert positional(getattr(layer, name)) == [*theirs, ("step_mode", "s")]
    assert getattr(nn, name).__doc__ != getattr(layer, name).__doc__


def test_all_layers_are_there_and_take_step_mode_by_position():
    assert set(STATELESS) | {"MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d"} == ALL
    assert layer.Conv2d(1, 2, 3, 1, 0, 1, 1, False, "zeros", "m").step_mode == "m"
    assert layer.BatchNorm2d(3, 1e-5, 0.1, True, True, "m").step_mode == layer.Dropout(0.5, "m").step_mode == "m"
    assert layer.Linear(2, 2, device="meta", dtype=torch.float64).weight.dtype == torch.float64
    with pytest.raises(TypeError, match="out_channels"):
        layer.Conv2d(1)

    class Mine(layer.Conv2d):
        def __init__(self, channels):
            super().__init__(channels, channels, 3, 1, 1, step_mode="m")

    assert list(inspect.signature(Mine).parameters) == ["channels"] and Mine(2)(data(T, N, 2, 4, 4)).shape[-1] == 4


def test_linear_takes_any_number_of_dimensions():
    linear = layer.Linear(8, 4, True, "m")
    for x in (data(T, 8), data(T, N, 8), data(T, N, 2, 8)):
        torch.testing.assert_close(linear(x), x @ linear.weight.T + linear.bias)


SPATIAL = [name for name in sorted(ALL) if name[:-2].endswith(("Pool", "Conv", "ConvTranspose"))]


@pytest.mark.parametrize("name", SPATIAL)
def test_a_single_step_is_no_sequence_for_any_spatial_layer(name):
    """[N, C, *] has as many dimensions as [T, N, C, *] of the next lower kind: torch would take T for N."""
    n, given = int(name[-2]), {"output_size": 2} if "Adaptive" in name else {"kernel_size": 2}
    channels = {"in_channels": 3, "out_channels": 3} if "Conv" in name else {}
    module = getattr(layer, name)(**channels, **given, step_mode="m")
    assert module(data(T, N, 3, *[4] * n)).shape[:3] == (T, N, 3)
    with pytest.raises(ValueError, match=rf"takes.*{n + 3} dimensions"):
        module(data(N, 3, *[4] * n))


@pytest.mark.parametrize(
    "module, shape", [(layer.Flatten(step_mode="m"), (3,)), (layer.Linear(4, 2, True, "m"), (0, 3, 4))]
)
def test_what_is_no_sequence_is_refused(module, shape):
    with pytest.raises(RuntimeError, match=r"sequence \[T, N, \*\] with T >= 1"):
        module(data(*shape))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_unpooling_inverts_pooling(n):
    x = data(T, N, 2, *[5] * n)
    plain, invert = getattr(nn, f"MaxPool{n}d")(2, return_indices=True), getattr(nn, f"MaxUnpool{n}d")(2)
    values, indices = getattr(layer, f"MaxPool{n}d")(2, return_indices=True, step_mode="m")(x)
    unpool, single = (getattr(layer, f"MaxUnpool{n}d")(2, step_mode=mode) for mode in "ms")
    for size in (x.shape, x.shape[1:], x.shape[-n:]):
        expected = torch.stack([invert(*plain(x_t), x.shape[-n:]) for x_t in x])
        assert torch.equal(unpool(values, indices, output_size=size), expected)
        assert torch.equal(single(*plain(x[0]), size), expected[0])
    with pytest.raises(ValueError, match="dimensions"):
        unpool(values[0], indices[0])


def test_transposed_convolution_with_an_output_size():
    for mode, x in (("s", data(N, 2, 5, 5)), ("m", data(T, N, 2, 5, 5))):
        conv = layer.ConvTranspose2d(2, 3, 3, stride=2, step_mode=mode)
        assert conv(x, (12, 11)).shape == conv(x, output_size=(12, 11)).shape == (*x.shape[:-3], 3, 12, 11)


# ---- memories, containers and nets in both step modes -------------------------------------------------------


def conv_net(mode):
    """In evaluation: batch statistics over one step are not those over the sequence, in any framework."""
    net = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        neuron.LIFNode(surrogate_function=surrogate.Sigmoid()),
        layer.MaxPool2d(2),
        layer.Flatten(),
        layer.Linear(4 * 9, 5),
        neuron.LIFNode(tau=3.0, decay_input=False, v_reset=None, detach_reset=True),
    )
    for weighted in (net[0], net[5]):
        weighted.weight.data += 0.4
    functional.set_step_mode(net, mode)
    return net.eval()


BOTH_MODES = [
    (lambda m: layer.VotingLayer(3, m), (12,)),
    (lambda m: layer.SynapseFilter(3.0, step_mode=m), (5,)),
    (lambda m: layer.SynapseFilter(3.0, True, m), (2, 5)),
    (lambda m: layer.Dropout(0.3, m), (40,)),
    (lambda m: layer.Dropout2d(0.3, m), (20, 3, 3)),
    (lambda m: layer.ElementWiseRecurrentContainer(neuron.LIFNode(), torch.add, m), (6,)),
    (lambda m: layer.LinearRecurrentContainer(nn.Sequential(nn.Linear(6, 4), nn.Sigmoid()), 6, 4, True, m), (6,)),
    (conv_net, (1, 6, 6)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make, shape", BOTH_MODES)
def test_both_step_modes_agree(make, shape, dtype):
    found = []
    for mode, run in (("s", steps), ("m", lambda module: module)):
        torch.manual_seed(0)
        module = make(mode).to(dtype)
        found.append(results(run(module), module, data(T, N, *shape, dtype=dtype)))
    assert_same(*found, dtype)
    assert all(part.abs().sum() > 0 for part in found[0]) and "step_mode='m'" in repr(make("m"))


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
    with pytest.raises(ValueError, match=r"probability.*1\.5"):
        layer.Dropout(1.5)(torch.ones(4))


def test_synapse_filter_by_hand():
    x, tau, current = (data(T, 6) > 0).double(), 4.0, torch.zeros(6, dtype=torch.float64)
    expected = []
    for spike in x:
        current = current - (1 - spike) * current / tau + spike
        expected.append(current)
    torch.testing.assert_close(layer.SynapseFilter(tau, step_mode="m")(x), torch.stack(expected))
    learned = layer.SynapseFilter(tau, True, "m").double()
    assert list(learned.state_dict()) == ["w"]

    def run(w):
        learned.reset()
        return torch.func.functional_call(learned, {"w": w}, (x,)).sum()

    assert torch.autograd.gradcheck(run, (learned.w,))
    with pytest.raises(ValueError, match=r"tau=1.0 must be .* above 1"):
        layer.SynapseFilter(1.0)


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
    assert [("Own" in r.getMessage(), "memory" in r.getMessage().lower()) for r in caplog.records] == [(True, True)] * 2
