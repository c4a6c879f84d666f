"""`export -format nir -verify`: the file read back and run on the same spikes.

A plain Euler loop must give identical output spikes; the importers of other simulators, where they are
installed, are compared as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snn_mnist.data.datasets import load_dataset
from snn_mnist.errors import SNNError
from snn_mnist.export import importers
from snn_mnist.export import nir as nir_file
from snn_mnist.model.network import SNN
from snn_mnist.model.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.model.saved_network import SavedNetwork
from snn_mnist.runs.config import Config

BATCH = 10_000  # images x steps at a time: 31 MB of spikes


@dataclass
class Agreement:
    """Output spikes of two programs on the same input, summed over batches."""

    images: int = 0
    identical: int = 0  # images whose T x 10 output spikes are all equal
    spikes: int = 0  # of ours
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
            f"{self.spikes:,} output spikes differ, {self.predictions:,} equal verdicts"
        )


def precision(config: Config, gain: float) -> Any:
    """float32 where its roundings are the same in both programs: τ a power of two (or IF) and no shift of v.

    Elsewhere x / τ and (dt / tau) x round differently; in float64 by 1e-16, which no spike train notices.
    """
    exact = config.neuron == "if" or math.frexp(float(np.float32(gain)))[0] == 0.5
    return np.float32 if exact and not config.v_reset else np.float64


def reference(loaded: SavedNetwork, spikes: np.ndarray, dtype: Any) -> np.ndarray:
    """Output spikes [T, N, 10] of our own neurons for input spikes [T, N, 784].

    The weighted sums are float64, rounded to `dtype`, in which v is kept, as in `nir.simulate`.
    """
    config = loaded.config
    threshold = float(np.float32(config.v_threshold))  # as the kernels have them
    reset = None if config.v_reset is None else float(np.float32(config.v_reset))
    neuron = SNN.from_config(replace(config, step_mode="s", v_threshold=threshold, v_reset=reset)).spiking
    weight = loaded.net.weight.detach().cpu().numpy().astype(np.float64)
    fired = []
    with torch.no_grad():
        for step in spikes:
            current = (step.astype(np.float64) @ weight.T).astype(dtype)
            fired.append(neuron(torch.from_numpy(current)).numpy() > 0)
    return np.stack(fired)


def run(
    path: Path, loaded: SavedNetwork, data_dir: str, count: int, dt: float, discretization: str, allow_lossy: bool
) -> None:
    """Compares on `count` test images and prints; SNNError when the Euler loop's spikes are not ours, unless
    allow_lossy."""
    config = loaded.config
    images = load_dataset(config.dataset, data_dir).test.images[:count]
    own, found = compare(path, loaded, images, dt, discretization)
    print(f"verified on {len(images):,} test images x {config.T} steps:")
    print(f"  plain {discretization} loop in {own[0]}: {own[1]}")
    for name, result in found.items():
        print(f"  {name}: {result}")
    if own[1].different and not allow_lossy:
        raise SNNError(f"{path} does not give this network's spikes: {own[1]}; {own[2]}; please report this")


def compare(
    path: Path, loaded: SavedNetwork, images: torch.Tensor, dt: float, discretization: str
) -> tuple[tuple[str, Agreement, str], dict[str, Agreement | str]]:
    """Of the plain loop (arithmetic, agreement, first difference); of each importer agreement or a reason."""
    config, graph = loaded.config, nir_file.read(path)
    _, _, neurons = nir_file.parts(graph, path)
    gain = 1.0
    if config.neuron == "lif":
        ratio = dt / float(neurons.tau[0])
        gain = ratio if discretization == "euler" else -math.expm1(-ratio)
    dtype = precision(config, gain)
    own, where = Agreement(), ""
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
        ours = reference(loaded, spikes, dtype)
        theirs, potential = nir_file.simulate(graph, spikes, dt, discretization, dtype)
        own.add(ours, theirs)
        if not where and (ours != theirs).any():
            t, n, c = (int(x[0]) for x in (ours != theirs).nonzero())
            where = (
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
    return (np.dtype(dtype).name, own, where), found
