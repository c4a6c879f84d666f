"""The network as an ANN, with a ReLU in place of the neurons, its training run, and its conversion into the network.

    image x = k/255 → a = ReLU(W x)      becomes      x → X[t] = (W / s) x → IF, soft reset → rate = a / s up to 1/T

x comes as Poisson spikes, or as a constant current; s is the scale of core/conversion.py.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from snn_mnist.core.conversion import Converter
from snn_mnist.data.datasets import Split
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.network.engine import Runtime, TorchEngine, choose_runtime
from snn_mnist.network.network import CLASSES, PIXELS, SNN
from snn_mnist.network.poisson import SpikeKey
from snn_mnist.network.scoring import Score, score
from snn_mnist.settings.config import Config
from snn_mnist.storage.checkpoint import WEIGHT
from snn_mnist.storage.runs import run_name

DEFAULT_MODE = "99.9%"
CALIBRATION = 10_000  # images at most that the scale is measured on


class WakingReLU(torch.autograd.Function):
    """ReLU; its backward pass also lets through gradients that raise an activation from below 0.

    With the derivative alone a unit that is silent for all images of its class never learns again: after 5 epochs of
    MNIST with the defaults 3 of the 10 were, and 62 % of the test images right instead of 91 %. Of the squared error
    from the targets 0 and 1 the gradient is then that of a convex loss, max(a, 0)² for the target 0, and for the target
    1 (a - 1)² from 0 up and its tangent 1 - 2a below, a = W x.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return a.relu()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (a,) = ctx.saved_tensors
        return grad * ((a > 0) | (grad < 0))


class AnnEngine(TorchEngine):
    """An engine whose rates are the ANN's activations a, whatever T and the spikes' key; of the net the weight only."""

    def firing_rate(self, index: Tensor, steps: int, key: SpikeKey, dropout: float = 0.0) -> Tensor:
        image = self.images[index.to(self.images.device)]
        return WakingReLU.apply(linear(image.float() / 255, self.net.weight)).float()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def firing_counts(self, index: Tensor, readout_steps: list[int], key: SpikeKey) -> tuple[Tensor, Tensor]:
        """Return a times the steps [N, M, 10], and no input spikes."""
        activation = self.firing_rate(index, readout_steps[-1], key)
        steps = torch.tensor(readout_steps, device=activation.device)
        return activation[:, None] * steps[:, None], torch.zeros(len(index), dtype=torch.int64)


@dataclass(frozen=True)
class AnnRuntime(Runtime):
    """The device and threads of an ANN; PyTorch computes."""

    def engine(self, net: SNN, images: Tensor) -> AnnEngine:
        return AnnEngine(net, images.to(self.device))


@dataclass(frozen=True)
class Conversion:
    """A training run of the ANN, whose every checkpoint holds the network that the ANN converts to.

    mode: of core.conversion.Converter; None, that of the resumed run, else the default.
    """

    mode: str | float | None = None

    def resumed(self, state: dict[str, Any], source: str | None) -> Conversion:
        """Return the conversion with the mode of the checkpoint that it resumes, {} for none."""
        if state and "ann" not in state:
            raise UsageError(f"{source} was not written by `convert`; name one that was, or use train -resume")
        mode = state["ann"]["mode"] if state else self.mode or DEFAULT_MODE
        if self.mode not in (None, mode):
            raise UsageError(f"can't resume {source}: mode {mode} → {self.mode} changes the result; start a new run")
        return Conversion(mode)

    def run_name(self, config: Config) -> str:
        """Return the name of a run directory, without the neurons, which are always the same."""
        return "converted_" + run_name(replace(config, neuron="lif", v_reset=0.0))

    def runtime(self, config: Config) -> AnnRuntime:
        """Return one thread: a batch of 64 is too small for more, and so no bit depends on their number."""
        return AnnRuntime(choose_runtime(config.device, "torch", threads=1).device, "torch", "trains an ANN", 1)

    def entries(self, weight: Tensor, images: Tensor) -> dict[str, Any]:
        """Return the entries of a checkpoint for the ANN's weight [10, 784]: `net` is W / s, `ann` what made it.

        images: [N, 784] uint8, learned ones, on which the scale s is measured.
        """
        assert self.mode is not None
        scale = scale_of(weight.to(images.device), images, self.mode)
        return {"net": {WEIGHT: weight / scale}, "ann": {"weight": weight, "scale": scale, "mode": self.mode}}


def scale_of(weight: Tensor, images: Tensor, mode: str | float) -> float:
    """Return the scale s of the ANN with this weight [10, 784] on images [N, 784] uint8; SNNError if it has none."""
    ann = nn.Sequential(nn.Linear(PIXELS, CLASSES, bias=False), nn.ReLU())
    ann[0].weight = nn.Parameter(weight)
    try:
        snn = Converter([images.float() / 255], mode=mode)(ann)
    except ValueError as error:
        raise SNNError(
            f"-mode {mode} takes the scale from activations that are 0 or not finite; start again with -mode 99.9%, "
            "or a smaller -lr"
        ) from error
    return snn.get_buffer("snn tailor.0.2.scale").item()


def ann_accuracy(weight: Tensor, split: Split) -> float:
    """Return the share of images with the highest ReLU(W x) at their label; the lower class wins a tie."""
    activation = (split.images.float() / 255 @ weight.T).relu()
    return (activation.argmax(1) == split.labels).double().mean().item()


def constant_current_score(net: SNN, split: Split, readout_steps: list[int]) -> Score:
    """Return the score of a network with the pixels' values as input in each step."""
    net = copy.deepcopy(net)
    net.spiking.reset()
    net.encoding = "constant"
    engine = TorchEngine(net, split.images)
    return score(engine, torch.arange(len(split)), split.labels, readout_steps, SpikeKey(0, 0, 0))
