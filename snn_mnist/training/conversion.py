"""A training run of the network's ANN, whose every checkpoint holds the network that the ANN converts to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from snn_mnist.network.ann import CALIBRATION, AnnRuntime, scale_of
from snn_mnist.network.device import choose_runtime
from snn_mnist.settings.config import Config
from snn_mnist.storage.checkpoint import WEIGHT
from snn_mnist.training.data import TrainingData

DEFAULT_MODE = "99.9%"


@dataclass(frozen=True)
class Conversion:
    """mode: of core.conversion.Converter; None, that of the resumed run, else the default."""

    mode: str | float | None = None

    def runtime(self, config: Config) -> AnnRuntime:
        """One thread: a batch of 64 is too small for more, and so no bit depends on their number."""
        chosen = choose_runtime(config.device, "torch", threads=1)
        return AnnRuntime(chosen.device, "torch", "trains an ANN", chosen.threads)

    def checkpoint(self, weight: Tensor, data: TrainingData) -> dict[str, Any]:
        """The entries of a checkpoint for the ANN's weight [10, 784]: `net` is W / s, `ann` what it was made of.

        s is measured on learned images, the first 10,000 at most.
        """
        assert self.mode is not None
        images = data.dataset.train.images[data.learned[:CALIBRATION]]
        scale = scale_of(weight.to(images.device), images, self.mode)
        return {"net": {WEIGHT: weight / scale}, "ann": {"weight": weight, "scale": scale, "mode": self.mode}}
