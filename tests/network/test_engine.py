"""The engines of the backends against each other."""

import pytest
import torch

from snn_mnist.data.datasets import load_dataset
from snn_mnist.network import engine as engine_module
from snn_mnist.network.engine import TorchEngine, make_engine
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import poisson_encode
from tests.support.kernel_checks import firing_rate
from tests.support.neurons import KEY, images_of


def test_whole_test_set_equals_the_modules(mnist_dir):
    """On the same weights and spikes: counts of 2,000 test images, only ties at the threshold may differ, counted."""
    images = load_dataset("mnist", mnist_dir).test.images
    torch.manual_seed(0)
    net = SNN(step_mode="m")
    with torch.no_grad():
        net.weight.mul_(4)
        index = torch.arange(2000)
        fused, inputs = make_engine("numba", net, images).firing_counts(index, [20, 50], KEY)
        reference, reference_inputs = TorchEngine(net, images).firing_counts(index, [20, 50], KEY)
    assert torch.equal(inputs, reference_inputs)
    different = (fused != reference).sum().item()
    print(f"{different} of {fused.numel()} counts differ by a tie")
    assert different <= 4 and (fused - reference).abs().max() <= 1
    assert fused[:, 1].sum() > 10_000


def test_step_modes_agree():
    images, index = images_of(9), torch.arange(9)
    results = []
    for mode in ("s", "m"):
        torch.manual_seed(3)
        net = SNN(step_mode=mode)
        with torch.no_grad():
            net.weight.mul_(5)
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
    images, index = images_of(9, active=200), torch.arange(9)
    torch.manual_seed(3)
    net, readout_steps = SNN(step_mode=mode), [1, 15, 16, 17, 32, 40]
    with torch.no_grad():
        net.weight.mul_(5)
    whole = TorchEngine(net, images).firing_counts(index, readout_steps, KEY)
    monkeypatch.setattr(engine_module, "CHUNK_BYTES", 0)
    counts, inputs = TorchEngine(net, images).firing_counts(index, readout_steps, KEY)
    assert torch.equal(counts, whole[0]) and torch.equal(inputs, whole[1])
    assert torch.equal(inputs, poisson_encode(images, index, 0, 40, KEY).sum((0, 2)).long())
    alone = [TorchEngine(net, images).firing_counts(index, [steps], KEY)[0][:, 0] for steps in readout_steps]
    assert torch.equal(counts, torch.stack(alone, 1)) and (counts[:, -1] > counts[:, 0]).any()


def test_fused_engines_agree(host):
    """The two fused engines give the same rates, gradient and counts."""
    images, index = images_of(12, active=200), torch.arange(12)
    torch.manual_seed(0)
    net, results = SNN(step_mode="m"), []
    with torch.no_grad():
        net.weight.mul_(4)
    for backend in ("cupy", "numba"):
        engine = make_engine(backend, net, images)
        weight = net.weight.detach().clone().requires_grad_()
        rate = firing_rate(engine.kernels, weight, engine.active, index, 60, KEY, engine.spec)
        rate.square().sum().backward()
        results.append((rate.detach(), weight.grad, *engine.firing_counts(index, [20, 60], KEY)))
    (rate, gradient, counts, inputs), (rate_2, gradient_2, counts_2, inputs_2) = results
    assert torch.equal(rate, rate_2) and torch.equal(counts, counts_2) and torch.equal(inputs, inputs_2)
    assert rate.sum() > 0 and (gradient - gradient_2).norm() < 1e-5 * gradient.norm()


def test_a_fused_backend_refuses_a_network_with_another_module():
    net = SNN(step_mode="m")
    net.layer.append(torch.nn.Identity())
    with pytest.raises(ValueError, match="not 4 modules; use torch"):
        make_engine("numba", net, torch.zeros(2, 784, dtype=torch.uint8))
