"""The backends: one line in the table and one or two modules each.

A fused pass is a module with `why_unavailable(device)`, `active_pixels(images)`, `firing_counts`, and the two halves of
a training step, `learn` and `weight_gradient`, on an eligibility from `new_eligibility`; one with a start-up check also
has `encode`. Multi-step neurons are a module with `why_unavailable(device)` and `multi_step`. cpu/fused.py and
cpu/neuron.py are such modules. This file imports neither torch nor numpy: the command line reads the names.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Backend:
    """An implementation of firing rates, gradients and neurons."""

    name: str
    device: str | None  # the type of device it runs on; None: any
    fused: str | None  # module of the pass from pixels to rates and the weight gradient; None: the modules of `core`
    neuron: str | None  # module of the multi-step neurons; None: the loop over T in `core`
    test_batch: int = 10_000  # images of a forward pass without gradient
    start_check: bool = False  # used only if a small batch gives on the device what the CPU gives
    compiled_steps: bool = False  # many training steps are one call, the optimiser included; same bits for all threads
    graphs: bool = False  # training steps are captured in CUDA graphs, in the first two epochs

    def fused_pass(self) -> Any:
        """The module of the fused pass, or None."""
        return importlib.import_module(self.fused) if self.fused else None


def _modules(room: str) -> tuple[str, str]:
    return f"snn_mnist.kernels.{room}.fused", f"snn_mnist.kernels.{room}.neuron"


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("torch", None, None, None, test_batch=500),  # keeps its spikes as floats
        Backend("numba", "cpu", *_modules("cpu"), compiled_steps=True),
        Backend("cupy", "cuda", *_modules("cuda"), start_check=True, graphs=True),
    )
}
