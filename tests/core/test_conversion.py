"""Conversion of ANNs: rates against the ANN's own activations, scales and spikes against numbers by hand."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from snn_mnist.core import conversion, functional, layer, neuron


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # hundreds of small steps
    yield
    torch.set_num_threads(before)


def conv_net():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 20, bias=False), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10),
    )  # fmt: skip
    for _ in range(10):
        net(images())  # running statistics that are not 0 and 1
    for norm in (net[1], net[9]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    return net


def images(count=16):
    return torch.rand(count, 1, 12, 12)


def mean_output(snn, x, T):
    functional.reset_net(snn)
    with torch.no_grad():
        return sum(snn(x) for _ in range(T)) / T


def scales(snn):
    """s of each ReLU: the factors behind the IF neurons"""
    return [value.item() for name, value in snn.named_buffers() if name.endswith(".2.scale")]


def test_a_network_by_hand():
    """Weights 1 and -1, and 0.5 into the second layer. Activations on the data: (2, 0) and (0, 1), so s = 2, then
    (0.5 · 2, 0.5 · 1), so s = 1. Input 1.5: x/s = 0.75 fires in steps 2, 3, 4 of 4."""
    ann = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False), nn.ReLU())
    ann[0].weight.data = torch.tensor([[1.0], [-1.0]])
    ann[2].weight.data = torch.tensor([[0.5, 0.5]])
    snn = conversion.Converter([torch.tensor([[2.0], [-1.0]])])(ann)
    assert scales(snn) == [2.0, 1.0]
    first = snn.get_submodule("snn tailor.0.1")
    assert (type(first), first.v_threshold, first.v_reset) == (neuron.IFNode, 1.0, None)
    hidden = []
    first.register_forward_hook(lambda module, x, y: hidden.append(y[0].tolist()))
    with torch.no_grad():
        outputs = [snn(torch.tensor([[1.5]])).item() for _ in range(4)]
    assert hidden == [[0, 0], [1, 0], [1, 0], [1, 0]]
    assert outputs == [0.0, 1.0, 1.0, 1.0]  # a spike is 2 · 0.5 = 1 of current, at the second layer's threshold


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("Max", 10.0), ("max", 10.0), (0.25, 2.5), (1, 10.0), ("100%", 10.0), ("50%", 5.0), ("99.9%", 9.99)],
)
def test_modes(mode, expected):
    """Activations 0, 1, …, 10: their maximum, shares of it, and percentiles, linear between the two nearest."""
    data = [(torch.arange(11.0)[:, None], "labels are not read")]
    assert scales(conversion.Converter(data, mode=mode)(nn.Sequential(nn.ReLU()))) == [pytest.approx(expected)]


def test_the_scale_is_a_moving_average_over_batches():
    """1, then 0.8 · 1 + 0.2 · 2, then 0.8 · 1.2 + 0.2 · 6."""
    data = [torch.tensor([[1.0]]), torch.tensor([[2.0]]), [torch.tensor([[6.0]])]]
    assert scales(conversion.Converter(data, momentum=0.2)(nn.Sequential(nn.ReLU()))) == [pytest.approx(2.16)]


def test_the_mean_over_T_is_the_ann():
    """Where no activation saturates. The error falls as 1/T: batch normalisation, biases and pooling are the ANN's."""
    ann, x = conv_net(), images(8)
    snn = conversion.Converter([x])(ann)
    ann.eval()
    with torch.no_grad():
        exact = ann(x)
    errors = [(mean_output(snn, x, T) - exact).abs().max().item() for T in (10, 60, 360)]
    assert errors[2] < 0.02 * exact.abs().max()
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_batch_normalisation_is_fused_or_kept():
    ann, x = conv_net(), images()
    fused, kept = (conversion.Converter([x], fuse_flag=flag)(ann) for flag in (True, False))
    counts = [sum(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in net.modules()) for net in (fused, kept)]
    assert counts == [0, 2]
    torch.testing.assert_close(mean_output(fused, x, 40), mean_output(kept, x, 40), rtol=0, atol=0.05)


class Net(nn.Module):
    """forward(self, x) with these modules and parameters as attributes."""

    def __init__(self, forward, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)
        self.compute = forward

    def forward(self, x):
        return self.compute(self, x)


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(6, 6)


def branches(net, x):
    """A convolution used twice, and one result alone is normalised; ReLU as shared module, function and method."""
    a = net.relu(net.norm(net.conv(x)))
    b = F.relu(input=net.conv(a)) + torch.relu(a - 0.5)
    return net.out(net.relu(b - 0.1).relu().mean([2, 3]))


def gated(net, x):
    y = net.a(x).relu() * torch.sigmoid(net.gate) + 1 - x / 2
    return F.linear(F.dropout(y, 0.5, net.training), net.gate[None])


def reshaped(net, x):
    y = net.a(x).relu().view(x.size(0), 2, 3).flatten(1)
    return torch.cat([y.reshape(x.shape[0], -1), x], 1)


CONVERTIBLE = {
    "branches": (
        Net(branches, conv=nn.Conv2d(2, 2, 3, padding=1), norm=nn.BatchNorm2d(2), relu=nn.ReLU(), out=nn.Linear(2, 3)),
        (2, 5, 5),
    ),
    "norm of one use of two": (
        Net(lambda net, x: (lambda y: net.n(y).relu() + y.relu())(net.a(x)), a=linear(), n=nn.BatchNorm1d(6)), (6,)
    ),
    "in place": (nn.Sequential(linear(), nn.ReLU(inplace=True), linear(1)), (6,)),
    "constants": (Net(gated, a=linear(), gate=nn.Parameter(torch.rand(6))), (6,)),
    "shapes": (Net(reshaped, a=linear()), (6,)),
    "Linear and BatchNorm1d of [N, C, L], C = L": (nn.Sequential(linear(), nn.BatchNorm1d(6), nn.ReLU()), (6, 6)),
    "Linear and BatchNorm1d of [N, C, L]": (nn.Sequential(linear(), nn.BatchNorm1d(4), nn.ReLU()), (4, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_the_mean_over_T_is_the_ann_for_any_graph(name):
    """Within 1/T of an activation's scale a layer; the ANN's own output is the oracle."""
    torch.manual_seed(0)
    ann, shape = CONVERTIBLE[name]
    for _ in range(10):
        ann(torch.rand(16, *shape) * 3)
    for norm in (m for m in ann.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))):
        nn.init.uniform_(norm.weight, 0.5, 2)
    x = torch.rand(8, *shape) * 2 - 0.5
    snn = conversion.Converter([x.clone()])(ann)
    with torch.no_grad():
        exact = ann.eval()(x.clone())
        torch.testing.assert_close(mean_output(snn, x, 300), exact, rtol=0, atol=0.05 * exact.abs().max().item())
    assert len({id(m) for m in snn.modules() if isinstance(m, neuron.IFNode)}) == len(scales(snn))


REFUSED = {
    "clamp": lambda net, x: torch.clamp(net.a(x), 0, 1) + F.relu(net.a(x)),
    "gt": lambda net, x: torch.where(net.a(x) > 0, x, -x) + F.relu(x),
    "maximum": lambda net, x: torch.maximum(net.a(x), x) + F.relu(x),
    "mul": lambda net, x: (lambda h: h * h)(net.a(x).relu()),
    "matmul": lambda net, x: net.a(x).relu() @ x.T,
    "truediv": lambda net, x: 1 / (1 + net.a(x).relu()),
    "getitem": lambda net, x: net.a(x).relu()[x],
    "pow_1": lambda net, x: net.a(x).relu() ** 2,
    "log_softmax": lambda net, x: F.log_softmax(net.a(x).relu(), 1),
    "leaky_relu": lambda net, x: F.leaky_relu(x.relu()),
    "add_": lambda net, x: net.a(x).relu().add_(1),
    "dropout": lambda net, x: F.dropout(net.a(x).relu()),
    "b": lambda net, x: net.b(net.a(x).relu()),
    "neurons": lambda net, x: net.neurons(net.a(x).relu()),
}


@pytest.mark.parametrize("node", REFUSED)
def test_what_is_neither_linear_nor_a_relu_is_refused_by_name(node):
    ann = Net(REFUSED[node], a=linear(), b=nn.LayerNorm(6), neurons=neuron.IFNode())
    with pytest.raises(ValueError, match=f"'{node}' is neither linear nor a ReLU"):
        conversion.Converter([torch.rand(4, 6)])(ann)


def test_graphs_that_compute_something_else_are_refused():
    def changed_in_place(net, x):
        h = net.a(x)
        return F.relu(h, inplace=True) + h

    x = torch.rand(4, 6) - 0.5
    with pytest.raises(ValueError, match="another output than the network itself"):
        conversion.Converter([x])(Net(changed_in_place, a=linear()))
    norm = nn.BatchNorm1d(6, track_running_stats=False)  # its statistics are the batch's in evaluation too
    with pytest.raises(ValueError, match="'_1' is neither"):
        conversion.Converter([x])(nn.Sequential(linear(), norm, nn.ReLU()))
    for computed in (
        nn.utils.parametrizations.weight_norm(linear()),
        prune.random_unstructured(linear(), "weight", 0.5),
    ):
        with pytest.raises(ValueError, match=r"weight of '0' is computed .*remove_parametrizations or prune.remove"):
            conversion.Converter([x])(nn.Sequential(computed, nn.ReLU()))


def test_both_step_modes_of_modules_without_one():
    """Upsampling and the like are folded over T; the output of each step is that of step mode 's'."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2), nn.PixelUnshuffle(2), nn.Dropout(0.5),
        nn.AdaptiveMaxPool2d(3), nn.ReflectionPad2d(1), nn.Conv2d(16, 2, 3), nn.ReLU(), nn.Unflatten(1, (2, 1)),
    )  # fmt: skip
    x = torch.rand(5, 1, 6, 6)
    snn = conversion.Converter([x])(ann)
    with torch.no_grad():
        steps = torch.stack([snn(x) for _ in range(6)])
        functional.reset_net(snn)
        functional.set_step_mode(snn, "m")
        assert torch.equal(snn(x.expand(6, *x.shape)), steps) and steps.abs().sum() > 0


def test_functions_take_one_step_only():
    snn = conversion.Converter([torch.rand(4, 6)])(CONVERTIBLE["shapes"][0])
    for net in (snn, copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        with pytest.raises(ValueError, match=r"would take T for the batch.*multi_step_forward"):
            functional.set_step_mode(net, "m")
        x_seq = torch.rand(3, 4, 6)
        assert functional.multi_step_forward(x_seq, net).shape == (3, 4, 12)


def test_the_ann_stays_as_it_is():
    ann = conv_net()
    before, kinds = copy.deepcopy(ann.state_dict()), [type(module) for module in ann.modules()]
    snn = conversion.Converter([images()])(ann)
    assert ann.training and [type(module) for module in ann.modules()] == kinds
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())
    assert not {id(p) for p in ann.parameters()} & {id(p) for p in snn.parameters()}
    assert [node.name for node in snn.graph.nodes if "relu" in str(node.target)] == []


def test_layers_of_the_core_convert_alike_and_both_step_modes_agree():
    ann, x = conv_net(), images(3)
    other = copy.deepcopy(ann)
    for module in other:
        module.__class__ = getattr(layer, type(module).__name__, type(module))
    a, b = (conversion.Converter([x], mode=0.9)(net) for net in (ann, other))
    with torch.no_grad():
        steps = torch.stack([a(x) for _ in range(7)])
        functional.set_step_mode(b, "m")
        assert torch.equal(b(x.expand(7, *x.shape)), steps)


@pytest.mark.parametrize("mode", ["min", "0%", "x%", "101%", 0, 1.5, True, None, float("nan")])
def test_wrong_modes(mode):
    with pytest.raises(ValueError, match=rf"^mode={mode!r} is not supported; use 'Max', a percentage"):
        conversion.Converter([], mode=mode)


@pytest.mark.parametrize(
    ("ann", "data", "words"),
    [
        (nn.Sequential(nn.Linear(1, 1)), [torch.ones(1, 1)], "the network has no ReLU"),
        (nn.Sequential(nn.ReLU()), [], "the dataloader gave no batch"),
        (nn.Sequential(nn.ReLU()), [-torch.ones(1, 1)], "gives the activations of '_0' the scale 0"),
        (nn.Sequential(nn.ReLU()), [torch.full((1, 1), torch.inf)], "the scale inf"),
    ],
)
def test_what_cannot_be_converted(ann, data, words):
    with pytest.raises(ValueError, match=words):
        conversion.Converter(data)(ann)
