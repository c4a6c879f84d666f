"""IF and LIF over a whole sequence on a CUDA device: neuron.cu, forward and backward, one launch each.

The mathematics and the interface are those of cpu/neuron.py. Sequences are read and written in their own precision;
the membrane and the backward recurrence are in float32 also for half precision (11 bits would round away an input
that is 2000 times smaller than the threshold), in float64 for float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels import neuron as common
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.kernels.cuda.available import why_unavailable
from snn_mnist.kernels.neuron import NeuronSpec, coefficients

__all__ = ["multi_step", "why_unavailable"]

THREADS = 128  # of a block


def text(spec: NeuronSpec, dtype: torch.dtype, learning: bool) -> str:
    """Return the source of the variant for sequences of this type; learning: `backward`, else `forward`."""
    macros: dict[str, Any] = {
        "REAL": "double" if dtype == torch.float64 else "float",
        "HALF_IO": dtype == torch.float16,
        "HARD": spec.v_reset is not None,
        "THREADS": THREADS,
    }
    if learning:
        real = "float64" if dtype == torch.float64 else "float32"
        macros |= {"GRAD_THROUGH_RESET": not spec.detach_reset} | cuda.gradient_macro(spec, real)
    return cuda.source("neuron.cu", **macros)


def _launch(name: str, spec: NeuronSpec, x: Tensor, size: int, before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    if size == 0:
        return
    real = "float64" if x.dtype == torch.float64 else "float32"
    kernel = cuda.load(text(spec, x.dtype, name == "backward"), name, x.device)
    scalars = np.int64(len(x)), np.int64(size), *coefficients(spec, real)[:5]
    kernel((min((size + THREADS - 1) // THREADS, cuda.MAXIMUM_GRID),), THREADS, (*before, *scalars, *after))


def forward(
    x: Tensor, v: Tensor, spec: NeuronSpec, learning: bool, store_v_seq: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    spikes, last_v = torch.empty_like(x), torch.empty_like(v)
    overshoot = torch.empty_like(x, dtype=v.dtype) if learning else None
    v_seq = torch.empty_like(x) if store_v_seq else None
    _launch("forward", spec, x, v.numel(), (x, v), (spikes, last_v, overshoot, v_seq))
    return spikes, last_v, v_seq, overshoot


def backward(
    d_spikes: Tensor, d_v_seq: Tensor | None, d_last_v: Tensor, overshoot: Tensor, spec: NeuronSpec
) -> tuple[Tensor, Tensor]:
    d_x, d_v = torch.empty_like(d_spikes), torch.empty_like(d_last_v)
    _launch("backward", spec, d_spikes, d_v.numel(), (d_spikes, d_v_seq, d_last_v, overshoot), (d_x, d_v))
    return d_x, d_v


def multi_step(
    x_seq: Tensor, v: Tensor | float, spec: NeuronSpec, store_v_seq: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`multi_step` of kernels/neuron.py on a CUDA device."""
    half = () if store_v_seq else (torch.float16,)  # V of every step is kept in float32
    types = (*half, torch.float32, torch.float64)
    return common.multi_step(forward, backward, types, x_seq, v, spec, store_v_seq)
