"""One traced image: the recorded arrays are those of a loop written by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from snn_mnist.network.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.network.trace import misclassified, trace_image
from snn_mnist.settings.config import Config
from tests.support.export_net import digits, network


def by_hand(weight: Tensor, config: Config, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """H, V and S [T, 10] by the equations, and the input spikes [T, 784]."""
    image = digits().test.images[index : index + 1]
    spikes = poisson_encode(image, torch.tensor([index]), 0, config.T, SpikeKey(config.seed, Stream.TRACE, 0))[:, 0]
    v = torch.full((10,), 0.0 if config.v_reset is None else config.v_reset)
    steps = []
    for x in spikes @ weight.T:
        leak = v - (config.v_reset or 0.0)
        h = v + x if config.neuron == "if" else v + (x - leak) / config.tau
        s = (h >= config.v_threshold).float()
        hard = torch.where(s == 1, torch.tensor(config.v_reset or 0.0), h)
        v = h - s * config.v_threshold if config.v_reset is None else hard
        steps.append(torch.stack([h, v, s]))
    return *torch.stack(steps, 1), spikes


@pytest.mark.parametrize(
    "settings",
    [{}, {"v_reset": None, "tau": 3}, {"v_reset": -0.25, "v_threshold": 0.5}, {"neuron": "if"}, {"T": 1100}],
)
def test_arrays_are_the_equations(settings):
    saved = network(**{"T": 40, "seed": 7} | settings)
    weight, config = saved.net.weight.detach(), saved.config
    found = trace_image(saved.net, digits(), 5, config)
    h, v, s, spikes = by_hand(weight, config, 5)
    assert np.array_equal(found.s, s) and found.s.any()
    for ours, theirs in ((found.v, v), (found.h, h), (found.x, spikes @ weight.T)):
        assert ours.shape == (config.T, 10) and ours.dtype == np.float32 and np.allclose(ours, theirs, atol=1e-4)
    assert np.array_equal(found.input_spikes, spikes.sum(0).view(28, 28))
    assert saved.net.spiking.v == (config.v_reset or 0.0)  # the network is left as it was


def test_misclassified_images_are_found_in_order():
    saved = network(T=40, seed=7)
    weight = saved.net.weight.detach()
    found = [trace.index for trace in misclassified(saved.net, digits(), saved.config)]
    labels = digits().test.labels.tolist()
    wrong = [i for i, label in enumerate(labels) if by_hand(weight, saved.config, i)[2].sum(0).argmax() != label]
    assert found == wrong and 2 < len(found) < 60
