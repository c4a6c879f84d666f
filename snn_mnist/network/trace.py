"""One image through a network, every time step of it recorded."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import linear

from snn_mnist.core import neuron
from snn_mnist.data.datasets import Dataset
from snn_mnist.network.engine import TorchEngine
from snn_mnist.network.network import PIXELS, SNN
from snn_mnist.network.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.settings.config import Config

CHUNK = 1024  # steps encoded at a time, a multiple of 16


@dataclass(frozen=True)
class Trace:
    """The ten neurons while one image is shown for T steps."""

    index: int  # of the image in the test split
    label: int
    image: np.ndarray  # [28, 28] uint8
    input_spikes: np.ndarray  # [28, 28] int64, number of spikes of each pixel
    x: np.ndarray  # [T, 10] float32, input current
    h: np.ndarray  # [T, 10] float32, membrane potential before the reset
    v: np.ndarray  # [T, 10] float32, membrane potential after the reset
    s: np.ndarray  # [T, 10] float32, output spikes

    @property
    def rates(self) -> np.ndarray:
        """Firing rates [10]"""
        return self.s.mean(0)

    @property
    def prediction(self) -> int:
        """The class with the highest firing rate; the lowest class wins a tie."""
        return int(np.argmax(self.rates))


@torch.no_grad()
def trace_image(net: SNN, data: Dataset, index: int, config: Config) -> Trace:
    """Show test image `index` to a network on the CPU for config.T steps."""
    image, input_spikes, node = data.test.images[index], torch.zeros(PIXELS), copy.deepcopy(net.spiking)
    node.step_mode = "s"
    node.reset()
    at_rest, currents, potentials, output = node.v, [], [], []
    for start in range(0, config.T, CHUNK):
        stop = min(start + CHUNK, config.T)
        for spikes in poisson_encode(image[None], torch.tensor([index]), start, stop, _key(config)):  # [1, 784]
            currents.append(linear(spikes, net.weight))
            output.append(node(currents[-1]))
            potentials.append(node.v)
            input_spikes += spikes[0]
    x, v, s = map(torch.cat, (currents, potentials, output))  # [T, 10]
    node.v = torch.cat([torch.full_like(v[:1], at_rest), v[:-1]])
    node.neuronal_charge(x)  # of V[t-1] with X[t], for all t at once
    pictures = image.view(28, 28).numpy(), input_spikes.long().view(28, 28).numpy()
    neurons = (each.numpy() for each in (x, neuron.bounded(node.v), v, s))
    return Trace(index, int(data.test.labels[index]), *pictures, *neurons)


def misclassified(net: SNN, data: Dataset, config: Config) -> Iterator[Trace]:
    """Yield the traces of the test images that the network misclassifies, in order.

    They are searched 200 at a time. In a batch sums are rounded differently, so that a neuron just at the threshold may
    fire there and not in the trace of the single image: the trace decides.
    """
    net.spiking.step_mode = "m"
    engine = TorchEngine(net, data.test.images)
    for index in torch.arange(len(data.test)).split(200):
        counts, _ = engine.firing_counts(index, [config.T], _key(config))
        for wrong in index[counts[:, 0].argmax(1) != data.test.labels[index]].tolist():
            trace = trace_image(net, data, wrong, config)
            if trace.prediction != trace.label:
                yield trace


def _key(config: Config) -> SpikeKey:
    return SpikeKey(config.seed, Stream.TRACE, 0)
