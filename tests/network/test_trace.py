"""One traced image: the recorded arrays are those of a loop written by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from snn_mnist.network.poisson import SpikeKey, Stream, encode
from snn_mnist.network.trace import misclassified, trace_image
from snn_mnist.settings.config import Config
from tests.support.export_net import digits, network


def by_hand(weight: Tensor, config: Config, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """H, V and S [T, 10 votes] by the equations, and the input [T, 784]."""
    image, key = digits().test.images[index : index + 1], SpikeKey(config.seed, Stream.TRACE, 0)
    spikes = encode(config.encoding, image, torch.tensor([index]), 0, config.T, config.T, key)[:, 0]
    spikes = spikes.expand(config.T, -1)
    v = torch.full((10 * config.votes,), 0.0 if config.v_reset is None else config.v_reset)
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
    [
        {},
        {"v_reset": None, "tau": 3},
        {"v_reset": -0.25, "v_threshold": 0.5},
        {"neuron": "if", "votes": 3},
        {"T": 1100},
        {"encoding": "constant", "votes": 2, "T": 1100},
        {"encoding": "latency", "neuron": "if", "v_threshold": 0.2},
    ],
)
def test_arrays_are_the_equations(settings):
    saved = network(**{"T": 40, "seed": 7} | settings)
    weight, config = saved.net.weight.detach(), saved.config
    found = trace_image(saved.net, digits(), 5, config)
    h, v, s, spikes = by_hand(weight, config, 5)
    assert np.array_equal(found.s, s) and found.s.any()
    for ours, theirs in ((found.v, v), (found.h, h), (found.x, spikes @ weight.T)):
        assert (
            ours.shape == (config.T, 10 * config.votes)
            and ours.dtype == np.float32
            and np.allclose(ours, theirs, atol=1e-4)
        )
    assert np.allclose(found.rates, s.mean(0).view(10, -1).mean(1)) and found.encoding == config.encoding
    assert np.array_equal(found.input_spikes, (spikes * (config.encoding != "constant")).sum(0).view(28, 28))
    assert saved.net.spiking.v == (config.v_reset or 0.0)  # the network is left as it was


@pytest.mark.parametrize("votes", [1, 3])
def test_misclassified_images_are_found_in_order(votes):
    saved = network(T=40, seed=7, votes=votes)
    weight = saved.net.weight.detach()
    found = [trace.index for trace in misclassified(saved.net, digits(), saved.config)]
    labels = digits().test.labels.tolist()
    scores = [by_hand(weight, saved.config, i)[2].sum(0).view(10, votes).sum(1) for i in range(len(labels))]
    wrong = [i for i, label in enumerate(labels) if scores[i].argmax() != label]
    assert found == wrong and 2 < len(found) < 60
