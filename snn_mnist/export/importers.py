"""NIR files in other simulators, with a correction for what each importer does differently.

- SpikingJelly: `import_from_nir(dt=…)`, default 1e-4. Fires at >=, so with the next float32 below the
  threshold it differs only when v is exactly that number. r must be 1 or tau/dt (IF: 1/dt). The net returns
  its state, which the caller passes to the next step.
- snnTorch: dt is 1e-4 and can't be chosen, so tau is rescaled to it. The input is not scaled by dt/tau; the
  threshold is divided by it instead, so its potentials are tau/dt times ours. Refuses IF with r = 1/dt.
- Norse: `from_nir(dt=…)`, default 1e-3, ten times too long. Takes r as 1 and v_reset as 0, whatever they are.
All three step by forward Euler: a file for `exact` importers is brought to Euler's tau first.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snn_mnist.export import nir as nir_file

Runner = Callable[[np.ndarray], np.ndarray]  # input spikes [T, N, 784] to output spikes [T, N, 10]


@dataclass(frozen=True)
class Importer:
    package: str
    make: Callable[[Any, float], Runner]  # graph with Euler's tau, dt

    def load(self, path: Path, dt: float, discretization: str) -> tuple[str, Runner | str]:
        """('Norse 1.1.0', its runner), or the reason why there is none."""
        try:
            label = f"{self.package} {importlib.metadata.version(self.package)}"
        except importlib.metadata.PackageNotFoundError:
            return self.package, "not installed"
        try:
            with quiet():
                return label, self.make(_for_euler(nir_file.read(path), dt, discretization), dt)
        except Exception as error:  # whatever another package raises is its result
            return label, f"can't import it ({type(error).__name__}: {' '.join(str(error).split())[:120]})"


def _for_euler(graph: Any, dt: float, discretization: str) -> Any:
    _, _, neurons = nir_file.parts(graph)
    if discretization == "exact" and hasattr(neurons, "tau"):
        neurons.tau = dt / -np.expm1(-dt / neurons.tau)
    return graph


@contextlib.contextmanager
def quiet():  # type: ignore[no-untyped-def]
    """Suppresses the importers' prints, log lines and warnings."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.root.setLevel(level)


def _stepwise(step: Callable[[torch.Tensor, Any], tuple[torch.Tensor, Any]]) -> Runner:
    def run(spikes: np.ndarray) -> np.ndarray:
        state, fired = None, []
        with torch.no_grad(), quiet():
            for x in torch.from_numpy(spikes):
                out, state = step(x, state)
                fired.append(out.numpy() > 0)
        return np.stack(fired)

    return run


def from_spikingjelly(graph: Any, dt: float) -> Runner:
    exchange = importlib.import_module("spikingjelly.activation_based.nir_exchange")
    net = exchange.import_from_nir(graph, dt=dt)
    return _stepwise(lambda x, state: net(x, state))


def from_snntorch(graph: Any, dt: float) -> Runner:
    snntorch = importlib.import_module("snntorch")
    importer = importlib.import_module("snntorch.import_nir")
    _, _, neurons = nir_file.parts(graph)
    if hasattr(neurons, "tau"):
        neurons.tau = neurons.tau * (1e-4 / dt)
    net = importer.import_from_nir(graph)
    leaky = [module for module in net.modules() if isinstance(module, snntorch.Leaky)]

    def step(x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        if state is None:
            for module in leaky:
                module.reset_mem()
        out = net(x)
        return (out[0] if isinstance(out, tuple) else out), True

    return _stepwise(step)


def from_norse(graph: Any, dt: float) -> Runner:
    norse = importlib.import_module("norse.torch")
    net = norse.from_nir(graph, ignore_warnings=True, dt=dt)
    return _stepwise(lambda x, state: net(x, state))


IMPORTERS = (
    Importer("spikingjelly", from_spikingjelly),
    Importer("snntorch", from_snntorch),
    Importer("norse", from_norse),
)
