"""When not to trust a prediction, measured on test images whose labels are known.

A prediction is doubtful where the winner's margin (its firing rate minus the next) is below that of 90 % of the test
images that the network reads right, or the winner's rate below that of 99 % of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from snn_mnist.data.datasets import Split
from snn_mnist.network.device import choose_backend
from snn_mnist.network.engine import make_engine
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.network.scoring import Score, score

MARGIN_SHARE, RATE_SHARE = 0.10, 0.01  # of the images read right that lie below the limits, at most
ROUNDING = 1e-6  # rates are multiples of 1 / T


@dataclass(frozen=True)
class Reliability:
    """The limits, and how often the test images are doubtful by them."""

    margin: float
    rate: float
    right: float  # share of the images read right that are doubtful
    wrong: float | None  # share of those read wrong; None when there are none

    def weak(self, rate: Any) -> Any:
        """Whether a rate, or each of a tensor of rates, is below the limit."""
        return rate < self.rate - ROUNDING

    def close(self, margin: Any) -> Any:
        return margin < self.margin - ROUNDING

    def words(self) -> str:
        """How often it is doubtful, to follow 'doubtful like'."""
        wrong = "" if self.wrong is None else f" and {100 * self.wrong:.0f} % of those read wrong"
        return f"{100 * self.right:.0f} % of the test images read right{wrong}"


def measure(net: SNN, test: Split, steps: int, seed: int) -> Reliability | None:
    """The limits of a network on the CPU, from one encoding of a test split; None if it reads no image right."""
    mode, net.spiking.step_mode = net.spiking.step_mode, "m"
    engine = make_engine(choose_backend("auto", torch.device("cpu"))[0], net, test.images)
    key = SpikeKey(seed, Stream.EVAL, 0)
    found = score(engine, torch.arange(len(test)), test.labels, [steps], key)
    net.spiking.step_mode = mode
    return limits(found)


def limits(found: Score) -> Reliability | None:
    """The limits that the rates of a split give. An image for which no neuron fires counts as wrong."""
    rates = found.counts[:, -1].double() / found.readout_steps[-1]  # [N, 10]
    highest, order = rates.sort(dim=1, descending=True, stable=True)
    rate, margin = highest[:, 0], highest[:, 0] - highest[:, 1]
    right = (order[:, 0] == found.labels) & (rate > 0)
    if not right.any():
        return None
    cut = Reliability(_quantile(margin[right], MARGIN_SHARE), _quantile(rate[right], RATE_SHARE), 0.0, None)
    doubtful = cut.close(margin) | cut.weak(rate)
    wrong = None if right.all() else doubtful[~right].double().mean().item()
    return replace(cut, right=doubtful[right].double().mean().item(), wrong=wrong)


def _quantile(values: torch.Tensor, share: float) -> float:
    """The smallest value that at most this share of the values lies below."""
    return values.sort().values[int(share * len(values))].item()
