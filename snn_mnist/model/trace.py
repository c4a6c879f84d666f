"""One test image through a network, step by step: currents, potentials and spikes of the ten neurons."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snn_mnist.core import functional, layer, monitor, neuron
from snn_mnist.data.datasets import Dataset
from snn_mnist.model.engine import TorchEngine
from snn_mnist.model.network import SNN
from snn_mnist.model.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.runs.config import Config

SPAN = 1024  # steps encoded at a time, a multiple of 16


@dataclass(frozen=True)
class Trace:
    """What the ten neurons did while one image was shown."""

    index: int
    label: int
    image: np.ndarray  # [28, 28] uint8
    input_spikes: np.ndarray  # [28, 28] int64, how often each pixel fired
    x: np.ndarray  # [T, 10] float32, input current
    h: np.ndarray  # [T, 10] float32, potential before the reset
    v: np.ndarray  # [T, 10] float32, potential after the reset
    s: np.ndarray  # [T, 10] float32, spikes

    @property
    def rates(self) -> np.ndarray:
        """[10]"""
        return self.s.mean(0)

    @property
    def prediction(self) -> int:
        """The class that fired most, of equals the lowest."""
        return int(self.rates.argmax())

    @property
    def tied(self) -> bool:
        return int((self.rates == self.rates.max()).sum()) > 1


def trace_image(net: SNN, data: Dataset, index: int, config: Config) -> Trace:
    """Shows the network test image `index` for T steps, with monitors on its two layers."""
    net, image = net.cpu(), data.test.images[index]
    functional.set_step_mode(net, "s")
    functional.reset_net(net)
    resting, input_spikes = net.spiking.v, torch.zeros(784)
    with (
        torch.no_grad(),
        monitor.OutputMonitor(net, layer.Linear) as currents,
        monitor.AttributeMonitor("v", False, net, neuron.BaseNode) as potentials,
        monitor.OutputMonitor(net, neuron.BaseNode) as fired,
    ):
        for start in range(0, config.T, SPAN):
            stop = min(start + SPAN, config.T)
            encoded = poisson_encode(image[None], torch.tensor([index]), start, stop, _spike_key(config))
            for spikes in encoded:  # [1, 784]
                net(spikes)
                input_spikes += spikes[0]
    functional.reset_net(net)
    x, v, s = (torch.cat(recorded.records) for recorded in (currents, potentials, fired))  # [T, 10]
    return Trace(
        index, int(data.test.labels[index]), image.view(28, 28).numpy(),
        input_spikes.long().view(28, 28).numpy(),
        x.numpy(), charged(net.spiking, x, v, resting).numpy(), v.numpy(), s.numpy(),
    )  # fmt: skip


@torch.no_grad()
def charged(node: neuron.BaseNode, x: Tensor, v: Tensor, resting: float) -> Tensor:
    """H [T, 10], the potentials before the reset: the charge of V[t-1] and X[t] ([T, 10]), once more."""
    node = copy.deepcopy(node)
    node.v = torch.cat([torch.full_like(v[:1], resting), v[:-1]])
    node.neuronal_charge(x)
    return node.v


def _spike_key(config: Config) -> SpikeKey:
    return SpikeKey(config.seed, Stream.TRACE, 0)


def misclassified(net: SNN, data: Dataset, config: Config) -> Iterator[int]:
    """Indices of test images that the network gets wrong, from the first on.

    By a few hundred at a time. In another batch size sums round otherwise, so a neuron just at the threshold
    may fire here and not in the trace of the image, which therefore has the last word.
    """
    functional.set_step_mode(net, "m")
    engine = TorchEngine(net.cpu(), data.test.images)
    for index in torch.arange(len(data.test)).split(200):
        counts, _ = engine.firing_counts(index, [config.T], _spike_key(config))
        wrong = counts[:, 0].argmax(1) != data.test.labels[index]
        yield from index[wrong].tolist()
        functional.set_step_mode(net, "m")  # the trace of an image in between goes step by step
