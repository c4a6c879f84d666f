"""A NIR file read back and run on the same input spikes as the network it was made of.

A plain Euler loop must give identical output spikes. The importers of other simulators, where they are installed, are
compared as well; docs/interop.md has the pitfalls of each. All of them step by forward Euler: a file for `exact`
importers is brought to Euler's tau first.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.metadata
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from snn_mnist.errors import reason
from snn_mnist.export import nir as nir_file
from snn_mnist.network.network import CLASSES, SavedNetwork
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
    neurons = [module for module in nir_file.layers(saved.net) if not isinstance(module, nn.Linear)]
    exact = not any(each.why_not_fused() or each.v_reset or not getattr(each, "decay_input", True) for each in neurons)
    exact = exact and all(math.frexp(getattr(each, "tau", 1.0))[0] == 0.5 for each in neurons)
    dtype: Any = np.float32 if exact else np.float64

    def agreement(runner: Runner) -> Agreement:
        pairs, key = [], SpikeKey(config.seed, Stream.EVAL, 0)
        for index in torch.arange(len(images)).split(max(1, BATCH // config.T)):
            encoded = encode(config.encoding, images[index], index, 0, config.T, config.T, key)
            given = encoded.expand(config.T, -1, -1).numpy()
            fired = reference(saved, given, dtype).reshape(*given.shape[:2], CLASSES, -1)
            pairs.append((fired.sum(3), np.rint(runner(given) * fired.shape[3])))
        return Agreement.of(*(np.concatenate(each, 1) for each in zip(*pairs, strict=True)))

    loop = agreement(lambda given: nir_file.simulate(graph, given, dt, discretization, dtype))
    found: dict[str, Agreement | str] = {f"plain {discretization} loop in {np.dtype(dtype).name}": loop}
    for package, make in IMPORTERS.items():
        label = package
        try:
            label += f" {importlib.metadata.version(package)}"
            for_euler = nir_file.read(path)
            for leaky in (node for node in for_euler.nodes.values() if hasattr(node, "tau")):
                leaky.tau = dt / nir_file.gain_of(leaky, dt, discretization)
            with quiet():
                found[label] = agreement(make(for_euler, dt))
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
        except Exception as error:  # whatever another package raises is its result
            found[label] = f"can't run it ({type(error).__name__}: {reason(error)})"
    return found


def reference(saved: SavedNetwork, spikes: np.ndarray, dtype: Any) -> np.ndarray:
    """Return the spikes [T, N, 10 votes] of this program's last neurons for an input [T, N, 784].

    The weighted sums are float64, rounded to `dtype`, in which v is kept, as in `nir.simulate`.
    """
    x = spikes.astype(dtype)
    for module in copy.deepcopy(nir_file.layers(saved.net)):
        if isinstance(module, nn.Linear):
            x = nir_file.currents(x, dtype, *nir_file.parameters(module))
            continue
        module.to(torch.from_numpy(x)).requires_grad_(False)
        module.reset()
        module.step_mode, module.backend = "m", "torch"
        for name in ("v_threshold", "v_reset", "v"):  # numbers are float32, as in the kernels
            if isinstance(value := getattr(module, name), float):
                setattr(module, name, float(np.float32(value)))
        x = module(torch.from_numpy(x)).numpy()
    return x > 0


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
    for node in (node for node in graph.nodes.values() if hasattr(node, "tau")):
        node.tau = node.tau * (1e-4 / dt)  # the importer's dt is 1e-4 and can't be chosen
    net = importer.import_from_nir(graph)
    leaky = [module for module in net.modules() if isinstance(module, snntorch.Leaky)]

    def step(x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        for module in leaky if state is None else ():
            module.reset_mem()
        out = net(x)
        return (out[0] if isinstance(out, tuple) else out), True

    return _stepwise(step)


def from_norse(graph: Any, dt: float) -> Runner:
    return _stepwise(importlib.import_module("norse.torch").from_nir(graph, ignore_warnings=True, dt=dt))


IMPORTERS = {"spikingjelly": from_spikingjelly, "snntorch": from_snntorch, "norse": from_norse}
