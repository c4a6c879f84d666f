"""The engines of the backends against each other."""

import pytest
import torch

from snn_mnist.data.datasets import load_dataset
from snn_mnist.network import engine as engine_module
from snn_mnist.network.engine import Runtime, TorchEngine
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import poisson_encode
from snn_mnist.settings.config import Config
from tests.support.kernel_checks import KEY, images_of


def net_of(mode="m", device="cpu", scale=4.0):
    torch.manual_seed(0)
    net = SNN(Config(step_mode=mode))
    with torch.no_grad():
        net.weight.mul_(scale)
    return net.to(device)


@pytest.mark.parametrize("amp", [False, True])
def test_fused_engines_count_what_the_modules_do(target, mnist_dir, amp):
    """The same weights, rounded with amp, and the same spikes: only ties at the threshold may differ."""
    images, index = load_dataset("mnist", mnist_dir).test.images, torch.arange(100 if target.name == "host" else 2000)
    net, rounded = net_of(device=target.device), net_of()
    with torch.autocast(target.device.type, enabled=amp):
        fused, inputs = (
            Runtime(target.device, target.backend, "", 1).engine(net, images).firing_counts(index, [20, 50], KEY)
        )
    with torch.no_grad():
        half = torch.get_autocast_dtype(target.device.type)
        rounded.weight.copy_(rounded.weight.to(half if amp else torch.float32))
    reference, reference_inputs = TorchEngine(rounded, images).firing_counts(index, [20, 50], KEY)
    assert torch.equal(inputs.cpu(), reference_inputs)
    different = int((fused.cpu() != reference).sum())
    print(f"{different} of {fused.numel()} counts differ by a tie")
    assert different <= 4 and (fused.cpu() - reference).abs().max() <= 1 and fused.sum() > 5 * len(index)


def test_step_modes_agree():
    images, index, results = images_of(9), torch.arange(9), []
    for mode in ("s", "m"):
        net = net_of(mode)
        engine = TorchEngine(net, images)
        rate = engine.firing_rate(index, 50, KEY)
        rate.square().sum().backward()
        counts, _ = engine.firing_counts(index, [7, 50], KEY)
        assert torch.allclose(counts[:, -1] / 50, rate)
        results.append((rate.detach(), net.weight.grad, counts))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_counts_in_spans_are_those_of_the_whole(monkeypatch, mode):
    """Spans of 16 steps instead of thousands, with readout steps before, at and after their ends."""
    images, index, readout_steps = images_of(9, active=200), torch.arange(9), [1, 15, 16, 17, 32, 40]
    engine = TorchEngine(net_of(mode), images)
    whole = engine.firing_counts(index, readout_steps, KEY)
    monkeypatch.setattr(engine_module, "CHUNK_BYTES", 0)
    counts, inputs = engine.firing_counts(index, readout_steps, KEY)
    assert torch.equal(counts, whole[0]) and torch.equal(inputs, whole[1])
    assert torch.equal(inputs, poisson_encode(images, index, 0, 40, KEY).sum((0, 2)).long())
    alone = [engine.firing_counts(index, [steps], KEY)[0][:, 0] for steps in readout_steps]
    assert torch.equal(counts, torch.stack(alone, 1)) and (counts[:, -1] > counts[:, 0]).any()


def test_a_fused_backend_refuses_a_network_with_another_module():
    net = net_of()
    net.layer.append(torch.nn.Identity())
    with pytest.raises(ValueError, match="not 4 modules; use torch"):
        Runtime(torch.device("cpu"), "numba", "", 1).engine(net, torch.zeros(2, 784, dtype=torch.uint8))
