"""One image through a network, every time step of it recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from snn_mnist.core import functional, neuron
from snn_mnist.data.datasets import Dataset
from snn_mnist.errors import SNNError
from snn_mnist.network.engine import TorchEngine
from snn_mnist.network.network import CLASSES, vote
from snn_mnist.network.own import OwnNetwork
from snn_mnist.network.poisson import SpikeKey, Stream, encode
from snn_mnist.settings.config import Config

CHUNK = 1024  # steps encoded at a time, a multiple of 16


@dataclass(frozen=True)
class Trace:
    """The neurons, M = 10 votes, while one image is shown for T steps."""

    index: int  # of the image in the test split
    label: int
    image: np.ndarray  # [28, 28] uint8
    input_spikes: np.ndarray  # [28, 28] int64, number of spikes of each pixel; of a constant current 0
    x: np.ndarray  # [T, M] float32, input current
    h: np.ndarray  # [T, M] float32, membrane potential before the reset
    v: np.ndarray  # [T, M] float32, membrane potential after the reset
    s: np.ndarray  # [T, M] float32, output spikes
    encoding: str = "poisson"

    @property
    def votes(self) -> int:
        return self.s.shape[1] // CLASSES

    @property
    def rates(self) -> np.ndarray:
        """Firing rates [10], of several neurons per class their mean"""
        return self.s.sum(0).reshape(CLASSES, -1).sum(1) / (len(self.s) * self.votes)

    @property
    def prediction(self) -> int:
        """The class with the highest firing rate; the lowest class wins a tie."""
        return int(np.argmax(self.rates))

    @property
    def rival(self) -> int:
        """The label if the prediction is another class, else the class with the next highest firing rate."""
        second = int(np.argsort(-self.rates, kind="stable")[1])
        return second if self.prediction == self.label else self.label

    def typical(self, number: int) -> int:
        """Return the neuron of a class whose firing rate is nearest to the class's."""
        rates = self.s.mean(0).reshape(CLASSES, -1)[number]
        return number * self.votes + int(np.argmin(np.abs(rates - self.rates[number])))

    def shown(self, most: int) -> list[int]:
        """Return the neurons of a figure: all ten, or `most` of rival and prediction, from few spikes to many."""
        if self.votes == 1:
            return [*range(CLASSES)]
        order = self.s.sum(0).reshape(CLASSES, -1).argsort(1, kind="stable")
        ranks = np.linspace(0, self.votes - 1, min(most, self.votes)).round().astype(int)
        return [n * self.votes + int(each) for n in (self.rival, self.prediction) for each in order[n, ranks]]


@torch.no_grad()
def trace_image(net: Any, data: Dataset, index: int, config: Config) -> Trace:
    """Show test image `index` to a network on the CPU for config.T steps; SNNError where its output is no neurons'."""
    image, node, seen = data.test.images[index], net.eval().spiking, []
    span = config.T if isinstance(net, OwnNetwork) else CHUNK
    input_spikes = torch.zeros(len(image), dtype=torch.int64)
    if node and node.step_mode == "m":
        node.backend, node.store_v_seq = "torch", True
        hook = node.register_forward_hook(lambda _, given, spikes: seen.append((given[0], node.v_seq, spikes)))
        for start in range(0, config.T, span):
            stop = min(start + span, config.T)
            given = encode(net.encoding, image[None], torch.tensor([index]), start, stop, config.T, _key(config))
            output = net.respond(given, stop - start)
            input_spikes += 0 if net.encoding == "constant" else given.sum((0, 1)).long()
        hook.remove()
        functional.reset_net(net)
    if sum(len(each[2]) for each in seen) != config.T or not torch.equal(seen[-1][2], output):
        wanted = "the spikes of a last layer of core.neuron in step mode 'm'"
        raise SNNError(f"{config.net}: a trace shows output neurons, but its output is not {wanted}")
    x, v, s = (torch.cat(each)[:, 0] for each in zip(*seen, strict=True))  # [T, 10 votes]
    node.v = torch.cat([torch.full_like(v[:1], node.v), v[:-1]])
    node.neuronal_charge(x)  # of V[t-1] with X[t], for all t at once
    h = neuron.bounded(node.v)
    node.reset()
    pictures = image.view(28, 28).numpy(), input_spikes.view(28, 28).numpy()
    neurons = x.numpy(), h.numpy(), v.numpy(), s.numpy()
    return Trace(index, int(data.test.labels[index]), *pictures, *neurons, net.encoding)


def misclassified(net: Any, data: Dataset, config: Config) -> Iterator[Trace]:
    """Yield the traces of the test images that the network misclassifies, in order.

    They are searched 200 at a time. In a batch sums are rounded differently, so that a neuron just at the threshold may
    fire there and not in the trace of the single image: the trace decides.
    """
    engine = TorchEngine(net, data.test.images)
    for index in torch.arange(len(data.test)).split(200):
        counts, _ = engine.firing_counts(index, [config.T], _key(config))
        for wrong in index[vote(counts[:, 0]).argmax(1) != data.test.labels[index]].tolist():
            trace = trace_image(net, data, wrong, config)
            if trace.prediction != trace.label:
                yield trace


def _key(config: Config) -> SpikeKey:
    return SpikeKey(config.seed, Stream.TRACE, 0)
