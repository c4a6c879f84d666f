"""A training run of the network's ANN, whose every checkpoint holds the network that the ANN converts to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from snn_mnist.errors import UsageError
from snn_mnist.network.ann import AnnRuntime, scale_of
from snn_mnist.network.device import choose_runtime
from snn_mnist.settings.config import Config
from snn_mnist.storage.checkpoint import WEIGHT
from snn_mnist.storage.runs import run_name

DEFAULT_MODE = "99.9%"


@dataclass(frozen=True)
class Conversion:
    """mode: of core.conversion.Converter; None, that of the resumed run, else the default."""

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
        runtime = choose_runtime(config.device, "torch", threads=1)
        return AnnRuntime(runtime.device, "torch", "trains an ANN", runtime.threads)

    def entries(self, weight: Tensor, images: Tensor) -> dict[str, Any]:
        """Return the entries of a checkpoint for the ANN's weight [10, 784]: `net` is W / s, `ann` what made it.

        images: [N, 784] uint8, learned ones, on which the scale s is measured.
        """
        assert self.mode is not None
        scale = scale_of(weight.to(images.device), images, self.mode)
        return {"net": {WEIGHT: weight / scale}, "ann": {"weight": weight, "scale": scale, "mode": self.mode}}
