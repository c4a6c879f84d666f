"""Scores of a network on a split; predictions for single pictures, and when not to trust them.

A prediction is doubtful where the winner's margin (its firing rate minus the next) is below that of 90 % of the test
images that the network classifies correctly, or the winner's rate below that of 99 % of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_mnist.data.datasets import Split
from snn_mnist.network.engine import Engine, Runtime, TorchEngine, choose_runtime
from snn_mnist.network.network import CLASSES, SNN, vote
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.network.training_steps import MSE, Loss
from snn_mnist.settings.config import Config, cores

MARGIN_SHARE, RATE_SHARE = 0.10, 0.01  # at most this share of the correctly classified images lies below the limits
ROUNDING = 1e-6  # rates are multiples of 1 / (T votes)


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


@dataclass(frozen=True)
class Reliability:
    """The limits, and how often the test images are doubtful by them."""

    margin: float
    rate: float
    right: float  # share of the correctly classified images that are doubtful
    wrong: float | None  # share of the misclassified ones; None when there are none


@dataclass(frozen=True)
class Prediction:
    """The firing rates for one picture."""

    rates: list[float]  # output spikes per step of each of the ten neurons; of several per class their mean
    neurons: list[list[float]] | None = None  # [10][votes], those of single neurons, where a class has several

    @property
    def ranking(self) -> list[int]:
        """Classes from the highest rate down; the lower class comes first in a tie."""
        return sorted(range(len(self.rates)), key=lambda c: (-self.rates[c], c))

    @property
    def margin(self) -> float:
        """The highest rate minus the next."""
        first, second = sorted(self.rates, reverse=True)[:2]
        return first - second

    @property
    def silent(self) -> bool:
        return not any(self.rates)

    def sentence(self, names: tuple[str, ...]) -> str:
        """Return the prediction in words."""
        first, second = self.ranking[:2]
        rate, next_rate = self.rates[first], self.rates[second]
        if self.silent:
            return "no prediction: no neuron fired; try a larger -T"
        if self.margin == 0:
            return f"undecided between {names[first]} and {names[second]} (rate {rate:.2f} both)"
        nothing = f"no other {'class' if self.neurons else 'neuron'} fired"
        rest = f"next {names[second]} with {next_rate:.2f}" if next_rate else nothing
        return f"{names[first]}  (rate {rate:.2f}, margin {self.margin:.2f}; {rest})"


def predict(net: Any, pixels: np.ndarray, steps: int, seed: int) -> Prediction:
    """Return the rates for prepared pixels [784] uint8, encoded as image 0 of the stream PREDICT."""
    engine = TorchEngine(net, torch.from_numpy(pixels)[None])
    counts, _ = engine.firing_counts(torch.tensor([0]), [steps], SpikeKey(seed, Stream.PREDICT, 0))
    each = counts[0, -1].double() / steps
    return Prediction(vote(each).tolist(), each.view(-1, net.votes).tolist() if net.votes > 1 else None)


def doubts(prediction: Prediction, objects: int, limits: Reliability | None) -> dict[str, str]:
    """Return reasons not to trust a prediction from a picture with this number of objects: name → part of a message."""
    found = {}
    if objects > 1:
        found["several objects"] = f"{objects} separate objects are seen; give one digit per picture"
    if limits is None or prediction.silent:
        return found
    rate, margin = prediction.rates[prediction.ranking[0]], prediction.margin
    if rate < limits.rate - ROUNDING:
        why = f"99 % of the correctly classified test images have a rate of {limits.rate:.2f} or more"
        found["nearly silent"] = f"the network is nearly silent at rate {rate:.2f}; {why}"
    elif margin < limits.margin - ROUNDING:
        wrong = "" if limits.wrong is None else f" and {100 * limits.wrong:.0f} % of the wrong"
        alike = f"{100 * limits.right:.0f} % of the correct{wrong} predictions on the test images"
        found["low margin"] = f"the margin {margin:.2f} is below {limits.margin:.2f}, as for {alike}"
    return found


def measure_reliability(net: Any, test: Split, config: Config) -> Reliability | None:
    """Return the limits of a network on the CPU, from one encoding of a test split; None if it reads no image right."""
    runtime = choose_runtime("cpu", "auto", cores(), config)
    (found,), _ = score_split(net, test, runtime, [config.T], [SpikeKey(config.seed, Stream.EVAL, 0)])
    return reliability_of(found)


def reliability_of(found: Score) -> Reliability | None:
    """Return the limits that the rates of a split give. An image for which no neuron fires counts as wrong."""
    rates = found.counts[:, -1].double() / (found.readout_steps[-1] * found.votes)  # [N, 10]
    highest, order = rates.sort(dim=1, descending=True, stable=True)
    rate, margin = highest[:, 0], highest[:, 0] - highest[:, 1]
    right = (order[:, 0] == found.labels) & (rate > 0)
    if not right.any():
        return None

    def quantile(values: torch.Tensor, share: float) -> float:
        """Return the smallest value below which at most this share of the correctly classified images lies."""
        return values[right].sort().values[int(share * right.sum())].item()

    cut = Reliability(quantile(margin, MARGIN_SHARE), quantile(rate, RATE_SHARE), 0.0, None)
    doubtful = (margin < cut.margin - ROUNDING) | (rate < cut.rate - ROUNDING)
    wrong = None if right.all() else doubtful[~right].double().mean().item()
    return replace(cut, right=doubtful[right].double().mean().item(), wrong=wrong)
