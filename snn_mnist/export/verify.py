"""A NIR file read back and run on the same input spikes as the network it was made of.

A plain Euler loop must give identical output spikes. The importers of other simulators, where they are installed, are
compared as well; docs/interop.md has the pitfalls of each. All of them step by forward Euler: a file for `exact`
importers is brought to Euler's tau first.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snn_mnist.errors import reason
from snn_mnist.export import nir as nir_file
from snn_mnist.network.network import CLASSES, SNN, SavedNetwork
from snn_mnist.network.poisson import SpikeKey, Stream, encode

BATCH = 10_000  # images x steps at a time: 31 MB of spikes
Runner = Callable[[np.ndarray], np.ndarray]  # input [T, N, 784] to output spikes, or shares of the votes, [T, N, 10]


@dataclass(frozen=True)
class Agreement:
    """Equality of the output spikes, counted by class, of two programs on the same input."""

    images: int
    identical: int  # images whose T x 10 output spikes are all equal
    spikes: int  # of our network
    different: int  # that one of them has more or less, over all steps and classes
    predictions: int  # images with the same argmax of the counts

    @classmethod
    def of(cls, ours: np.ndarray, theirs: np.ndarray) -> Agreement:
        """Compare output spikes by step and class, both whole numbers [T, N, 10]."""
        differs, same = np.abs(ours * 1 - theirs), ours.sum(0).argmax(1) == theirs.sum(0).argmax(1)
        return cls(len(same), *map(int, ((~differs.any((0, 2))).sum(), ours.sum(), differs.sum(), same.sum())))

    def __str__(self) -> str:
        images, spikes = f"{self.identical:,} of {self.images:,}", f"{self.different:,} of {self.spikes:,}"
        return f"{images} images identical, {spikes} output spikes differ, {self.predictions:,} equal predictions"


def compare(
    path: Path, saved: SavedNetwork, images: torch.Tensor, dt: float, discretization: str
) -> dict[str, Agreement | str]:
    """Run a NIR file on the spikes of `images` [N, 784]: name of a program → its agreement, or why it can't run it.

    The first is a plain loop: in float32 where both programs round alike, that is, where τ is a power of two (or IF)
    and v is not shifted; else in float64: x / τ and (dt / tau) x are rounded differently, but by 1e-16, too little to
    change a spike. The others are the simulators that are installed.
    """
    config, graph = saved.config, nir_file.read(path)
    *_, neurons, votes = nir_file.parts(graph, path)
    gain = nir_file.gain_of(neurons, dt, discretization)[0] if config.neuron == "lif" else 0.5
    exact = math.frexp(float(np.float32(gain)))[0] == 0.5 and not config.v_reset
    dtype: Any = np.float32 if exact else np.float64

    def agreement(runner: Runner) -> Agreement:
        pairs, key = [], SpikeKey(config.seed, Stream.EVAL, 0)
        for index in torch.arange(len(images)).split(max(1, BATCH // config.T)):
            encoded = encode(config.encoding, images[index], index, 0, config.T, config.T, key)
            given = encoded.expand(config.T, -1, -1).numpy()
            fired = reference(saved, given, dtype).reshape(*given.shape[:2], CLASSES, votes)
            pairs.append((fired.sum(3), np.rint(runner(given) * votes)))
        return Agreement.of(*(np.concatenate(each, 1) for each in zip(*pairs, strict=True)))

    shares = nir_file.vote_weight(votes).T
    loop = agreement(lambda given: nir_file.simulate(graph, given, dt, discretization, dtype)[0] @ shares)
    found: dict[str, Agreement | str] = {f"plain {discretization} loop in {np.dtype(dtype).name}": loop}
    for package, make in IMPORTERS.items():
        label = package
        try:
            label += f" {importlib.metadata.version(package)}"
            for_euler = nir_file.read(path)
            if hasattr(leaky := nir_file.parts(for_euler)[2], "tau"):
                leaky.tau = dt / nir_file.gain_of(leaky, dt, discretization)
            with quiet():
                found[label] = agreement(make(for_euler, dt))
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
        except Exception as error:  # whatever another package raises is its result
            found[label] = f"can't run it ({type(error).__name__}: {reason(error)})"
    return found


def reference(saved: SavedNetwork, spikes: np.ndarray, dtype: Any) -> np.ndarray:
    """Return the spikes [T, N, 10 votes] of this program's neurons for an input [T, N, 784].

    The weighted sums are float64, rounded to `dtype`, in which v is kept, as in `nir.simulate`.
    """
    config = saved.config
    threshold = float(np.float32(config.v_threshold))  # as in the kernels
    reset = None if config.v_reset is None else float(np.float32(config.v_reset))
    neuron = SNN.from_config(replace(config, step_mode="s", v_threshold=threshold, v_reset=reset)).spiking
    weight = saved.net.weight.detach().cpu().numpy().astype(np.float64)
    currents = ((step.astype(np.float64) @ weight.T).astype(dtype) for step in spikes)
    with torch.no_grad():
        return np.stack([neuron(torch.from_numpy(current)).numpy() > 0 for current in currents])


# ---------------------------------------------------------------------------- other simulators


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the importers' prints, log lines and warnings."""
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        yield
    logging.disable(logging.NOTSET)


def _stepwise(step: Callable[[torch.Tensor, Any], tuple[torch.Tensor, Any]]) -> Runner:
    def run(spikes: np.ndarray) -> np.ndarray:
        state, fired = None, []
        with torch.no_grad():
            for x in torch.from_numpy(spikes):
                out, state = step(x, state)
                fired.append(out.numpy())
        return np.stack(fired)

    return run


def from_spikingjelly(graph: Any, dt: float) -> Runner:
    """Return a runner of a graph with Euler's tau, as the next two do."""
    exchange = importlib.import_module("spikingjelly.activation_based.nir_exchange")
    return _stepwise(exchange.import_from_nir(graph, dt=dt))


def from_snntorch(graph: Any, dt: float) -> Runner:
    snntorch = importlib.import_module("snntorch")
    importer = importlib.import_module("snntorch.import_nir")
    neurons = nir_file.parts(graph)[2]
    if hasattr(neurons, "tau"):
        neurons.tau = neurons.tau * (1e-4 / dt)  # the importer's dt is 1e-4 and can't be chosen
    net = importer.import_from_nir(graph)
    leaky = [module for module in net.modules() if isinstance(module, snntorch.Leaky)]

    def step(x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        for module in leaky if state is None else ():
            module.reset_mem()
        out = net(x)
        return (out[0] if isinstance(out, tuple) else out), True

    return _stepwise(step)


def from_norse(graph: Any, dt: float) -> Runner:
    norse = importlib.import_module("norse.torch")
    return _stepwise(norse.from_nir(graph, ignore_warnings=True, dt=dt))


IMPORTERS = {"spikingjelly": from_spikingjelly, "snntorch": from_snntorch, "norse": from_norse}
