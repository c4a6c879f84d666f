"""Conversion of ANNs: rates against the ANN's own activations, scales and spikes against numbers by hand."""

import copy
import gc

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class Shared(nn.Module):
    """A convolution used twice, and only one result normalised: nothing to fuse. ReLU as a shared module, a function
    and a method; a branch."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(inplace=True)
        self.out = nn.Linear(2, 3)

    def forward(self, x):
        a = self.relu(self.norm(self.conv(x)))
        b = F.relu(input=self.conv(a)) + torch.relu(a - 0.5)
        return self.out(self.relu(b - 0.1).relu().mean([2, 3]))


def test_a_graph_with_branches_functions_and_shared_modules():
    torch.manual_seed(0)
    ann = Shared()
    for _ in range(10):
        ann(torch.rand(8, 2, 5, 5) * 3)
    x = torch.rand(4, 2, 5, 5)
    snn = conversion.Converter([x])(ann)
    assert len(scales(snn)) == 5 and len({id(m) for m in snn.modules() if isinstance(m, neuron.IFNode)}) == 5
    with torch.no_grad():
        torch.testing.assert_close(mean_output(snn, x, 300), ann.eval()(x), rtol=0, atol=0.03)


class Branch(nn.Module):
    """What is normalised is used as it is too: nothing to fuse."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        y = self.linear(x)
        return self.norm(y).relu() + y.relu()


def test_batch_normalisation_stays_where_its_input_is_used_otherwise():
    torch.manual_seed(0)
    ann, x = Branch(), torch.rand(64, 3) * 3 - 1
    for _ in range(10):
        ann(x)
    snn = conversion.Converter([x])(ann)
    with torch.no_grad():
        torch.testing.assert_close(mean_output(snn, x, 300), ann.eval()(x), rtol=0, atol=0.03)


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
    other = nn.Sequential(*(getattr(layer, type(m).__name__, type(m))(*arguments(m)) for m in ann))
    other.load_state_dict(ann.state_dict())
    a, b = (conversion.Converter([x], mode=0.9)(net) for net in (ann, other))
    with torch.no_grad():
        steps = torch.stack([a(x) for _ in range(7)])
        functional.set_step_mode(b, "m")
        assert torch.equal(b(x.expand(7, *x.shape)), steps)


def arguments(module: nn.Module):
    if isinstance(module, nn.Conv2d):
        return module.in_channels, module.out_channels, 3, 1, module.padding
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features, module.bias is not None
    return (2,) if isinstance(module, nn.AvgPool2d) else (module.num_features,) if hasattr(module, "eps") else ()


def tensors_alive():
    """Their number and bytes; the SNN's and those of everything else."""
    gc.collect()
    sizes = [each.untyped_storage().nbytes() for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter)]
    return len(sizes), sum(sizes)


def test_memory_does_not_depend_on_T():
    """Tensors after 3 and after 60 steps."""
    snn, x, alive = conversion.Converter([images()])(conv_net()), images(4), {}
    with torch.no_grad():
        for step in range(1, 61):
            snn(x)
            if step in (3, 60):
                alive[step] = tensors_alive()
    assert alive[3] == alive[60]


@pytest.mark.parametrize(
    ("mode", "shown"), [("min", "'min'"), ("0%", "'0%'"), ("x%", "'x%'"), ("101%", "'101%'"), (0, "0"), (1.5, "1.5"),
                        (True, "True"), (None, "None"), (float("nan"), "nan")],
)  # fmt: skip
def test_wrong_modes(mode, shown):
    with pytest.raises(ValueError, match=rf"^mode={shown} is not supported; use 'Max', a percentage"):
        conversion.Converter([], mode=mode)


@pytest.mark.parametrize(
    ("ann", "data", "words"),
    [
        (nn.Sequential(nn.Linear(1, 1)), [torch.ones(1, 1)], "the network has no ReLU"),
        (nn.Sequential(nn.ReLU(), nn.Sigmoid()), [torch.ones(1, 1)], "'_1' is neither linear nor a ReLU"),
        (nn.Sequential(nn.ReLU(), nn.LeakyReLU()), [torch.ones(1, 1)], "'_1' is neither linear nor a ReLU"),
        (nn.Sequential(nn.ReLU()), [], "the dataloader gave no batch"),
        (nn.Sequential(nn.ReLU()), [-torch.ones(1, 1)], "gives the activations of '_0' the scale 0"),
        (nn.Sequential(nn.ReLU()), [torch.full((1, 1), torch.inf)], "the scale inf"),
    ],
)
def test_what_cannot_be_converted(ann, data, words):
    with pytest.raises(ValueError, match=words):
        conversion.Converter(data)(ann)


def test_a_functional_activation_other_than_relu_is_refused():
    class Net(nn.Module):
        def forward(self, x):
            return F.leaky_relu(x.relu())

    with pytest.raises(ValueError, match="'leaky_relu' is neither linear nor a ReLU"):
        conversion.Converter([torch.ones(1)])(Net())
