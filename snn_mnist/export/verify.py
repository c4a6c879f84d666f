"""A NIR file read back and run on the same input spikes as the network it was made of.

A plain Euler loop must give identical output spikes; the importers of other simulators, where they are installed, are
compared as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snn_mnist.export import importers
from snn_mnist.export import nir as nir_file
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.network.saved_network import SavedNetwork
from snn_mnist.settings.config import Config

BATCH = 10_000  # images x steps at a time: 31 MB of spikes


@dataclass
class Agreement:
    """Output spikes of two programs on the same input, summed over batches."""

    images: int = 0
    identical: int = 0  # images whose T x 10 output spikes are all equal
    spikes: int = 0  # of our network
    different: int = 0  # (step, neuron) pairs at which one fires and the other does not
    predictions: int = 0  # images with the same argmax of the counts

    def add(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Both [T, N, 10] bool."""
        differs = ours != theirs
        self.images += ours.shape[1]
        self.identical += int((~differs.any((0, 2))).sum())
        self.spikes += int(ours.sum())
        self.different += int(differs.sum())
        self.predictions += int((ours.sum(0).argmax(1) == theirs.sum(0).argmax(1)).sum())

    def __str__(self) -> str:
        return (
            f"{self.identical:,} of {self.images:,} images identical, {self.different:,} of "
            f"{self.spikes:,} output spikes differ, {self.predictions:,} equal predictions"
        )


@dataclass(frozen=True)
class Comparison:
    """The output spikes of a NIR file against those of our network."""

    arithmetic: str  # 'plain euler loop in float32'
    loop: Agreement
    first_difference: str  # of the loop, '' for none
    simulators: dict[str, Agreement | str]  # the reason for one that can't be run

    def __str__(self) -> str:
        results = {self.arithmetic: self.loop} | self.simulators
        return "\n".join(f"  {name}: {result}" for name, result in results.items())


def precision(config: Config, gain: float) -> Any:
    """float32 where both programs round alike: τ is a power of two (or IF) and v is not shifted. Else float64:
    x / τ and (dt / tau) x are rounded differently, but by 1e-16, too little to change a spike."""
    exact = config.neuron == "if" or math.frexp(float(np.float32(gain)))[0] == 0.5
    return np.float32 if exact and not config.v_reset else np.float64


def reference(saved: SavedNetwork, spikes: np.ndarray, dtype: Any) -> np.ndarray:
    """Output spikes [T, N, 10] of this program's neurons for input spikes [T, N, 784].

    The weighted sums are float64, rounded to `dtype`, in which v is kept, as in `nir.simulate`.
    """
    config = saved.config
    threshold = float(np.float32(config.v_threshold))  # as in the kernels
    reset = None if config.v_reset is None else float(np.float32(config.v_reset))
    neuron = SNN.from_config(replace(config, step_mode="s", v_threshold=threshold, v_reset=reset)).spiking
    weight = saved.net.weight.detach().cpu().numpy().astype(np.float64)
    fired = []
    with torch.no_grad():
        for step in spikes:
            current = (step.astype(np.float64) @ weight.T).astype(dtype)
            fired.append(neuron(torch.from_numpy(current)).numpy() > 0)
    return np.stack(fired)


def compare(path: Path, saved: SavedNetwork, images: torch.Tensor, dt: float, discretization: str) -> Comparison:
    """Runs a NIR file on the spikes of `images` [N, 784] in a plain loop and in every simulator installed."""
    config, graph = saved.config, nir_file.read(path)
    _, _, neurons = nir_file.parts(graph, path)
    gain = 1.0
    if config.neuron == "lif":
        ratio = dt / float(neurons.tau[0])
        gain = ratio if discretization == "euler" else -math.expm1(-ratio)
    dtype = precision(config, gain)
    loop, first_difference = Agreement(), ""
    runners: dict[str, Any] = {}
    found: dict[str, Agreement | str] = {}
    for importer in importers.IMPORTERS:
        name, runner = importer.load(path, dt, discretization)
        if callable(runner):
            runners[name], found[name] = runner, Agreement()
        else:
            found[name] = runner
    batch = max(1, BATCH // config.T)
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        key = SpikeKey(config.seed, Stream.EVAL, 0)
        spikes = poisson_encode(part, torch.arange(start, start + len(part)), 0, config.T, key).numpy()
        ours = reference(saved, spikes, dtype)
        theirs, potential = nir_file.simulate(graph, spikes, dt, discretization, dtype)
        loop.add(ours, theirs)
        if not first_difference and (ours != theirs).any():
            t, n, c = (int(x[0]) for x in (ours != theirs).nonzero())
            first_difference = (
                f"the first at image {start + n}, step {t}, neuron {c}: v {float(potential[t, n, c])!r}, "
                f"threshold {float(neurons.v_threshold[c])!r}"
            )
        for name, runner in list(runners.items()):
            try:
                agreement = found[name]
                assert isinstance(agreement, Agreement)
                agreement.add(ours, runner(spikes))
            except Exception as error:  # whatever another package raises is its result
                found[name] = f"fails with {type(error).__name__}: {' '.join(str(error).split())[:120]}"
                del runners[name]
    return Comparison(f"plain {discretization} loop in {np.dtype(dtype).name}", loop, first_difference, found)
