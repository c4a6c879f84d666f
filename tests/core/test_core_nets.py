"""Whole nets: equal losses in both step modes, train steps included; the tutorial names import."""

import copy

import pytest
import torch
from torch import nn

from snn_mnist.core import functional, layer, monitor, neuron, surrogate
from snn_mnist.network.network import SNN


def ten_linear_if():
    parts = []
    for _ in range(10):
        parts += [layer.Linear(12, 12), neuron.IFNode(surrogate_function=surrogate.ATan())]
    return nn.Sequential(*parts), (12,)


def conv_bn_lif():
    return nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        neuron.LIFNode(surrogate_function=surrogate.Sigmoid()),
        layer.MaxPool2d(2),
        layer.Flatten(),
        layer.Linear(4 * 9, 5),
        neuron.LIFNode(tau=3.0, decay_input=False, v_reset=None, detach_reset=True),
    ), (1, 6, 6)


@pytest.mark.parametrize("make", [ten_linear_if, conv_bn_lif])
def test_equal_losses_in_both_step_modes(make):
    torch.manual_seed(0)
    net, shape = make()
    for p in net.parameters():
        if p.dim() > 1:
            p.data = (p.data + 0.25 * p.data.std()) * 2.5  # every layer fires
    if make is conv_bn_lif:
        # batch statistics over one step are not those over the sequence, in any framework
        net(torch.randn(64, *shape))
        functional.reset_net(net)
        net.eval()
    net.double()
    twin = copy.deepcopy(net)
    functional.set_step_mode(twin, "m")
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.1) for n in (net, twin)]
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(4):
        x = torch.rand(6, 5, *shape, generator=generator, dtype=torch.float64) * 3
        pair = []
        for one, optimizer in zip((net, twin), optimizers, strict=True):
            if one is net:
                rate = sum(one(x_t) for x_t in x) / len(x)
            else:
                rate = one(x).mean(0)
            loss = ((rate - torch.eye(5, rate.shape[1], dtype=torch.float64)) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            functional.reset_net(one)
            pair.append(loss.item())
        losses.append(pair)
    for single, multi in losses:
        assert single == pytest.approx(multi, rel=1e-9)
    assert len({round(single, 9) for single, _ in losses}) == 4, "the net learns"
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert p.grad is not None and p.grad.abs().sum() > 0
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_hooks_and_new_modules_on_the_layer_of_the_programs_net(mode):
    """SNN.forward calls its Sequential as a whole."""
    net, x = SNN(step_mode=mode), torch.ones(*([5] if mode == "m" else []), 3, 784)
    seen = []
    net.layer.register_forward_hook(lambda m, x, y: seen.append(y.shape))
    with monitor.OutputMonitor(net, nn.Sequential) as watched:
        y = net(x)
    assert seen == [y.shape] and watched.monitored_layers == ["layer"] and torch.equal(watched[0], y)
    weight, spiking = net.weight, net.spiking
    net.layer.insert(1, layer.Dropout(1.0, mode))  # everything is dropped
    functional.reset_net(net)
    assert net(x).sum() == 0 and net.weight is weight and net.spiking is spiking
    net.layer[1] = nn.Identity()
    net.layer.append(nn.Softplus())
    functional.reset_net(net)
    assert torch.equal(net(x), nn.functional.softplus(y)) and net.spiking is spiking
