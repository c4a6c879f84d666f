"""Predictions for single pictures, and when not to trust them, measured on test images whose labels are known.

A prediction is doubtful where the winner's margin (its firing rate minus the next) is below that of 90 % of the test
images that the network classifies correctly, or the winner's rate below that of 99 % of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from snn_mnist.data.datasets import Split
from snn_mnist.network.device import choose_runtime
from snn_mnist.network.engine import TorchEngine
from snn_mnist.network.network import vote
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.network.scoring import Score, score_split
from snn_mnist.settings.config import Config, cores

MARGIN_SHARE, RATE_SHARE = 0.10, 0.01  # at most this share of the correctly classified images lies below the limits
ROUNDING = 1e-6  # rates are multiples of 1 / (T votes)


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


def measure(net: Any, test: Split, config: Config) -> Reliability | None:
    """Return the limits of a network on the CPU, from one encoding of a test split; None if it reads no image right."""
    runtime = choose_runtime("cpu", "auto", cores(), config)
    (found,), _ = score_split(net, test, runtime, [config.T], [SpikeKey(config.seed, Stream.EVAL, 0)])
    return limits(found)


def limits(found: Score) -> Reliability | None:
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
