"""One image through a network, every time step of it recorded."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snn_mnist.core import functional, layer, monitor, neuron
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

    @property
    def tied(self) -> bool:
        return int((self.rates == self.rates.max()).sum()) > 1


def trace_image(net: SNN, data: Dataset, index: int, config: Config) -> Trace:
    """Shows test image `index` to the network for config.T steps, with monitors on its two layers."""
    net, image = net.cpu(), data.test.images[index]
    functional.set_step_mode(net, "s")
    functional.reset_net(net)
    v_start, input_spikes = net.spiking.v, torch.zeros(PIXELS)
    with (
        torch.no_grad(),
        monitor.OutputMonitor(net, layer.Linear) as currents,
        monitor.AttributeMonitor("v", False, net, neuron.BaseNode) as potentials,
        monitor.OutputMonitor(net, neuron.BaseNode) as output_spikes,
    ):
        for start in range(0, config.T, CHUNK):
            stop = min(start + CHUNK, config.T)
            for spikes in poisson_encode(image[None], torch.tensor([index]), start, stop, _key(config)):  # [1, 784]
                net(spikes)
                input_spikes += spikes[0]
    functional.reset_net(net)
    x, v, s = (torch.cat(recorded.records) for recorded in (currents, potentials, output_spikes))  # [T, 10]
    return Trace(
        index, int(data.test.labels[index]), image.view(28, 28).numpy(),
        input_spikes.long().view(28, 28).numpy(),
        x.numpy(), potentials_before_reset(net.spiking, x, v, v_start).numpy(), v.numpy(), s.numpy(),
    )  # fmt: skip


@torch.no_grad()
def potentials_before_reset(node: neuron.BaseNode, x: Tensor, v: Tensor, v_start: float) -> Tensor:
    """H [T, 10], which no monitor sees: the neuron's charge of V[t-1] with X[t], for all t at once."""
    node = copy.deepcopy(node)
    node.v = torch.cat([torch.full_like(v[:1], v_start), v[:-1]])
    node.neuronal_charge(x)
    return neuron.bounded(node.v)


def misclassified(net: SNN, data: Dataset, config: Config) -> Iterator[Trace]:
    """Traces of the test images that the network gets wrong, in order.

    They are searched 200 at a time. In a batch sums are rounded differently, so that a neuron just at the threshold may
    fire there and not in the trace of the single image: the trace decides.
    """
    engine = TorchEngine(net.cpu(), data.test.images)
    for index in torch.arange(len(data.test)).split(200):
        functional.set_step_mode(net, "m")  # trace_image sets "s"
        counts, _ = engine.firing_counts(index, [config.T], _key(config))
        for wrong in index[counts[:, 0].argmax(1) != data.test.labels[index]].tolist():
            trace = trace_image(net, data, wrong, config)
            if trace.prediction != trace.label:
                yield trace


def _key(config: Config) -> SpikeKey:
    return SpikeKey(config.seed, Stream.TRACE, 0)
