"""NIR files of networks of one's own: the file's equations in float64 give the spikes of the modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from snn_mnist.core import functional, layer, neuron
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.export import nir as nir_file
from snn_mnist.export import verify
from snn_mnist.network.network import SavedNetwork
from snn_mnist.network.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.settings.config import Config
from tests.support.export_net import digits, network

nir = pytest.importorskip("nir", reason="nir is not installed: pip install nir")

DT = 1e-4


class Own(nn.Module):
    """What the export needs of a network of one's own."""

    def __init__(self, module, votes, encoding):
        super().__init__()
        self.module, self.votes, self.encoding = module, votes, encoding


def own(*modules, T=12, **settings):
    """The modules, whose Linear layers get weights that make a part of the neurons fire."""
    module, config = nn.Sequential(*modules), Config(T=T, dataset="digits", **settings)
    random = torch.Generator().manual_seed(7)
    for linear in (each for each in module.modules() if isinstance(each, nn.Linear)):
        spread = 2.5 / min(linear.in_features, 100) ** 0.5
        with torch.no_grad():
            linear.weight.normal_(spread / 10, spread, generator=random)
            if linear.bias is not None:
                linear.bias.normal_(0, 0.3, generator=random)
    functional.set_step_mode(module, "m")
    return SavedNetwork(Path("own.pth"), config, Own(module.eval(), config.votes, config.encoding), True, 3)


def learned(*values):
    return nn.Parameter(torch.tensor(values))


def linear(inputs, outputs, bias=True):
    return layer.Linear(inputs, outputs, bias)


def plif(tau, **settings):
    node = neuron.ParametricLIFNode(tau, **settings)
    with torch.no_grad():
        node.w += 0.1  # as training does
    return node


CHAINS = {
    "two layers": lambda: own(
        layer.Flatten(),
        linear(784, 37),
        neuron.LIFNode(3.0, v_threshold=0.75, v_reset=-0.25),
        linear(37, 10, False),
        neuron.LIFNode(),
    ),
    "plif": lambda: own(linear(784, 10), plif(2.7)),
    "nested, voting": lambda: own(
        nn.Sequential(layer.SeqToANNContainer(nn.Flatten(), nn.Linear(784, 30)), plif(1.8), nn.Dropout(0.5)),
        nn.Sequential(linear(30, 25), neuron.IFNode(2.0)),
        nn.Linear(25, 20),
        neuron.LIFNode(4.0),
        layer.VotingLayer(2),
    ),
    "votes": lambda: own(linear(784, 40), neuron.LIFNode(), linear(40, 30), plif(3.0, v_reset=-0.5), votes=3),
    "no decay of the input": lambda: own(
        linear(784, 20),
        neuron.LIFNode(3.0, decay_input=False),
        linear(20, 10),
        plif(2.5, decay_input=False),
    ),
    "learned": lambda: own(
        linear(784, 4),
        neuron.LIFNode(learned(2.5), v_threshold=learned(0.5, 1.0, 1.5, 2.0), v_reset=learned(-0.5)),
        linear(4, 10),
        neuron.LIFNode(learned(*np.linspace(1.5, 4, 10, dtype=np.float32))),
    ),
    "no layer between": lambda: own(
        neuron.LIFNode(1.5, v_threshold=0.75),
        linear(784, 15),
        linear(15, 10),
        neuron.IFNode(),
    ),
}
UNIFORM = ("two layers", "plif", "nested, voting", "votes")  # one value a layer, and r = 1


def spikes_of(saved, count=16):
    return poisson_encode(
        digits().test.images[:count], torch.arange(count), 0, saved.config.T, SpikeKey(0, Stream.EVAL, 0)
    )


def euler(path, spikes):
    """The spikes of each node of the file, one step of its differential equations after another, in float64."""
    graph = nir.read(str(path))
    following = dict(graph.edges)
    v, outputs = {}, {}
    for step in spikes.double().numpy():
        name, x = "input", step
        while (name := following[name]) != "output":
            node = graph.nodes[name]
            if isinstance(node, (nir.Affine, nir.Linear)):
                x = x @ node.weight.T.astype(float) + getattr(node, "bias", 0.0)
            else:
                h = v.get(name, node.v_reset)
                leaky = isinstance(node, nir.LIF)
                h = h + (DT / node.tau * (node.v_leak - h + node.r * x) if leaky else DT * node.r * x)
                x = (h > node.v_threshold).astype(float)
                v[name] = x * node.v_reset + (1 - x) * h
            outputs.setdefault(name, []).append(x)
    return {name: np.stack(each) for name, each in outputs.items()}


@pytest.mark.parametrize("name", CHAINS)
def test_every_layer_of_the_file_spikes_as_the_module_does(tmp_path, name):
    saved, path = CHAINS[name](), tmp_path / "own.nir"
    nir_file.export_nir(saved, path, DT)
    spikes, module = spikes_of(saved), saved.net.module.double()
    seen = []
    for each in module.modules():
        if isinstance(each, neuron.BaseNode):
            each.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().numpy()))
    output = module(spikes.double()).detach().numpy()
    outputs = euler(path, spikes)
    theirs = [each for node, each in outputs.items() if node.startswith("neurons")]
    for ours, each in zip(seen, theirs, strict=True):
        assert 0.02 < ours.mean() < 0.98, "or nothing would be compared"
        np.testing.assert_array_equal(ours, each)
    reference = verify.reference(saved, spikes.numpy(), np.float64)  # of neurons whose v is no longer at rest
    np.testing.assert_array_equal(reference, theirs[-1])
    last = [*outputs.values()][-1]
    if output.shape[-1] > 10:  # the vote is the program's
        output = output.reshape(*output.shape[:2], 10, -1).mean(-1)
    np.testing.assert_allclose(last, output, atol=1e-6)


@pytest.mark.parametrize("how", ["euler", "exact"])
@pytest.mark.parametrize("name", CHAINS)
def test_verify_finds_no_other_spike(tmp_path, name, how):
    """Nor in the simulators that are installed, of what they take."""
    saved, path = CHAINS[name](), tmp_path / "own.nir"
    nir_file.export_nir(saved, path, DT, how)
    loop, *others = verify.compare(path, saved, digits().test.images[:40], DT, how).values()
    assert loop.images == loop.identical == 40 and loop.different == 0 and loop.spikes > 100
    for each in others if name in UNIFORM else ():
        assert not isinstance(each, verify.Agreement) or each.different == 0, each


def test_a_spike_passes_all_layers_in_its_step(tmp_path):
    saved, path = own(linear(784, 10, False), neuron.LIFNode(), linear(10, 10, False), neuron.IFNode()), tmp_path / "n"
    with torch.no_grad():
        for each in nir_file.layers(saved.net)[::2]:
            each.weight.fill_(2.0)
    nir_file.export_nir(saved, path, DT)
    spikes = torch.zeros(3, 1, 784)
    spikes[1, 0, 5] = 1
    runners = {"loop": lambda given: nir_file.simulate(nir.read(str(path)), given, DT)}
    for package, make in verify.IMPORTERS.items():
        try:
            runners[package] = make(nir.read(str(path)), DT)
        except (ImportError, AssertionError):  # not installed; snnTorch takes no IF
            continue
    for package, run in runners.items():
        assert run(spikes.numpy())[:, 0].tolist() == [[0] * 10, [1] * 10, [0] * 10], package


def test_names_and_numbers_of_the_file(tmp_path):
    saved = own(linear(784, 12), plif(3.0), nn.Sequential(linear(12, 20, False), neuron.IFNode()), votes=2)
    about = nir_file.export_nir(saved, tmp_path / "own.nir", 1e-3)
    graph = nir.read(str(tmp_path / "own.nir"))
    names = ["input", "affine1", "neurons1", "affine2", "neurons2", "vote", "output"]
    assert [*nir_file.in_order(graph)] == names
    assert "Affine → LIF(12) → Affine → IF(20) → Affine → Output" in about
    first, second = nir_file.layers(saved.net)[:3:2]
    np.testing.assert_array_equal(graph.nodes["affine1"].bias, first.bias.detach())
    np.testing.assert_array_equal(graph.nodes["affine2"].weight, second.weight.detach())
    tau = 1e-3 * (1 + np.exp(-nir_file.layers(saved.net)[1].w.item()))
    np.testing.assert_allclose(graph.nodes["neurons1"].tau, tau, rtol=1e-12)
    assert "tau" not in graph.metadata and graph.metadata["T"] == 12
    with pytest.raises(SNNError, match="not Input → Affine → LIF → Output"):
        nir_file.import_nir(tmp_path / "own.nir", tmp_path / "back.pth")


def test_one_layer_of_ones_own_is_written_as_that_of_the_program():
    ours = network(tau=3.0, v_reset=-0.3)
    theirs = own(nn.Linear(784, 10, bias=False), neuron.LIFNode(3.0, v_reset=-0.3))
    theirs.net.module[0].load_state_dict({"weight": ours.net.weight})
    ours, theirs = nir_file.build(ours), nir_file.build(theirs)
    assert ours.edges == theirs.edges
    for name, node in ours.nodes.items():
        for key, value in node.to_dict().items():
            np.testing.assert_equal(theirs.nodes[name].to_dict()[key], value)


class Doubled(neuron.LIFNode):
    def neuronal_charge(self, x):
        super().neuronal_charge(2 * x)


class Skipping(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + x


SHARED = neuron.LIFNode()


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([linear(784, 10), nn.Sequential(layer.Conv2d(1, 1, 3))], "module 1.0 is a Conv2d: NIR export takes chains of"),
        ([linear(784, 10), Doubled()], "module 1 is a Doubled"),
        ([Skipping(linear(784, 784)), linear(784, 10), neuron.LIFNode()], "module 0 is a Skipping"),
        ([linear(784, 40), neuron.LIFNode(), layer.VotingLayer(4), linear(10, 10), neuron.LIFNode()], "2 is a Voting"),
        ([linear(784, 10), neuron.LIFNode(), linear(10, 10)], "does not end with neurons"),
        ([linear(784, 10), SHARED, linear(10, 10), SHARED], "module 3 is used twice"),
        ([linear(784, 10), neuron.LIFNode(v_reset=None)], "-allow-lossy"),
    ],
)
def test_what_nir_does_not_take_is_refused_by_name(tmp_path, modules, message):
    with pytest.raises(UsageError, match=message) as refused:
        nir_file.export_nir(own(*modules), tmp_path / "own.nir")
    assert "\n" not in str(refused.value) and not (tmp_path / "own.nir").exists()
