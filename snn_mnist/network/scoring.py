"""Scores of a network on a split: loss, accuracy and spike counts of a forward pass."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from snn_mnist.data.datasets import Split
from snn_mnist.network.device import Runtime
from snn_mnist.network.engine import Engine
from snn_mnist.network.network import CLASSES, SNN
from snn_mnist.network.poisson import SpikeKey
from snn_mnist.network.training_steps import MSE, Loss


@dataclass(frozen=True)
class Score:
    """The result of one encoding of a split. `counts` are output spikes in the first `readout_steps[m]` steps."""

    readout_steps: list[int]
    counts: Tensor  # [N, M, 10] float32 on the CPU, of all neurons of a class
    input_spikes: Tensor  # [N] int64; of a constant current the active pixels, whose product with W is computed once
    labels: Tensor  # [N] int64
    each: Tensor | None = None  # [N, 10 votes], counts of single neurons in T steps, where a class has several

    @property
    def neuron_counts(self) -> Tensor:
        """The output spikes of each neuron in T steps [N, 10 votes]."""
        return self.counts[:, -1] if self.each is None else self.each

    @property
    def votes(self) -> int:
        return self.neuron_counts.shape[1] // CLASSES

    def rates(self, m: int = -1) -> Tensor:
        """Return the scores [N, 10] over readout_steps[m] steps: the mean firing rate of the neurons of a class."""
        return self.counts[:, m] / (self.readout_steps[m] * self.votes)

    @cached_property
    def predictions(self) -> Tensor:
        """The class with the highest rate [N, M]; the lower class wins a tie."""
        return self.counts.max(2).indices  # of all steps at once: argmax of a single step takes four times as long

    def accuracy(self, m: int = -1) -> float:
        """Return the share of images whose highest rate is their label's."""
        return (self.predictions[:, m] == self.labels).double().mean().item()

    def loss(self, loss: Loss = MSE) -> float:
        """Return the mean loss, as in training."""
        return mean_loss(self.rates(), self.labels, loss)

    def at_chance(self) -> bool:
        """Return whether the accuracy is that of always naming the most frequent label, within 3 standard errors."""
        share = self.labels.bincount().max().item() / len(self.labels)
        return self.accuracy() <= share + 3 * math.sqrt(share * (1 - share) / len(self.labels))

    def confusion(self) -> Tensor:
        """Return [10, 10] int64: row the label, column the prediction."""
        cells = self.labels * CLASSES + self.predictions[:, -1]
        return torch.bincount(cells, minlength=CLASSES * CLASSES).view(CLASSES, CLASSES)


def default_readout_steps(steps: int) -> list[int]:
    """Return 1, 2, 3, 5, 7, 10, 15, 20, … up to and including T."""
    decades = [m * 10**e for e in range(len(str(steps))) for m in (1, 1.5, 2, 3, 5, 7)]
    return sorted({int(step) for step in decades if step < steps and step == int(step)} | {steps})


def mean_loss(scores: Tensor, labels: Tensor, loss: Loss) -> float:
    """Return the mean loss of scores [N, 10] with labels [N]."""
    return loss(scores.double(), torch.nn.functional.one_hot(labels, CLASSES).double()).item()


def score(
    engine: Engine,
    index: Tensor,
    labels: Tensor,
    readout_steps: list[int],
    key: SpikeKey,
    batch: int = 10_000,
    before_each: Callable[[], None] = lambda: None,
    after_each: Callable[[int], object] = lambda images: None,
) -> Score:
    """Return the score of the images `index` [N] with their labels [N], `batch` at a time.

    `before_each` is called before each batch, and may raise to stop; `after_each` gets the size of each that is done.
    """
    parts = []
    for part in index.split(batch):
        before_each()
        counts, inputs = engine.firing_counts(part, readout_steps, key)
        parts.append((counts.unflatten(2, (CLASSES, -1)).sum(3), inputs, counts[:, -1].clone()))
        after_each(len(part))
    counts, inputs, each = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
    return Score(readout_steps, counts, inputs, labels.cpu(), each if each.shape[1] > CLASSES else None)


def score_split(
    net: Any,
    split: Split,
    runtime: Runtime,
    readout_steps: list[int],
    keys: Iterable[SpikeKey],
    after_each: Callable[[int], object] = lambda images: None,
) -> tuple[list[Score], float]:
    """Return the scores of a network on a split, one for each key, and the seconds they took without compilation."""
    if isinstance(net.to(runtime.device), SNN):
        net.spiking.step_mode = "m"
    engine = runtime.engine(net, split.images)
    index = torch.arange(len(split))
    engine.firing_counts(index[:1], readout_steps, SpikeKey(0, 0, 0))  # compiles
    started = time.perf_counter()
    size = runtime.test_batch
    scores = [score(engine, index, split.labels, readout_steps, key, size, after_each=after_each) for key in keys]
    return scores, time.perf_counter() - started
