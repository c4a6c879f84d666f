"""IF and LIF over a whole sequence on a CUDA device: neuron.cu, forward and backward, one launch each.

The mathematics and the interface are those of neuron_cpu.py. Sequences are read and written in their own precision;
the membrane and the backward recurrence are in float32 also for half precision (11 bits would round away an input
that is 2000 times smaller than the threshold), in float64 for float64.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.kernels.neuron_spec import NeuronSpec

THREADS = 128  # of a block

why_unavailable = cuda.why_unavailable


def text(spec: NeuronSpec, dtype: torch.dtype, learning: bool) -> str:
    """The source of the variant for sequences of this type; learning: `backward`, else `forward`."""
    macros: dict[str, Any] = {
        "REAL": "double" if dtype == torch.float64 else "float",
        "HALF_IO": dtype == torch.float16,
        "HARD": spec.v_reset is not None,
        "THREADS": THREADS,
    }
    if learning:
        real = "float64" if dtype == torch.float64 else "float32"
        macros |= {"GRAD_THROUGH_RESET": not spec.detach_reset} | cuda.gradient_macro(spec, real)
    return _text(tuple(macros.items()))


@functools.cache
def _text(macros: tuple[tuple[str, Any], ...]) -> str:
    return cuda.source("neuron.cu", **dict(macros))


def _launch(name: str, spec: NeuronSpec, x: Tensor, size: int, before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    if size == 0:
        return
    real = np.float64 if x.dtype == torch.float64 else np.float32
    kernel = cuda.load(text(spec, x.dtype, name == "backward"), name, x.device)
    scalars = np.int64(len(x)), np.int64(size), *cuda.neuron_arguments(spec, real)
    kernel((min((size + THREADS - 1) // THREADS, cuda.MAXIMUM_GRID),), THREADS, (*before, *scalars, *after))


class _MultiStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_seq: Tensor, v: Tensor, spec: NeuronSpec, store_v_seq: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x_seq.detach().contiguous()
        learning = any(ctx.needs_input_grad)
        first_v = v.detach().contiguous()
        spikes, last_v = torch.empty_like(x), torch.empty_like(first_v)
        over = torch.empty_like(x, dtype=v.dtype) if learning else None
        v_seq = torch.empty_like(x) if store_v_seq else None
        _launch("forward", spec, x, v.numel(), (x, first_v), (spikes, last_v, over, v_seq))
        ctx.spec, ctx.stored = spec, store_v_seq
        if over is not None:
            ctx.save_for_backward(over)
        return spikes, last_v, x.new_empty((0, *v.shape)) if v_seq is None else v_seq

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_spikes: Tensor, d_last_v: Tensor, d_v_seq: Tensor) -> tuple[Tensor | None, ...]:
        (over,) = ctx.saved_tensors
        d_spikes, d_last_v = d_spikes.contiguous(), d_last_v.contiguous()
        later = d_v_seq.contiguous() if ctx.stored else None
        d_x, d_v = torch.empty_like(d_spikes), torch.empty_like(d_last_v)
        _launch("backward", ctx.spec, d_spikes, d_v.numel(), (d_spikes, later, d_last_v, over), (d_x, d_v))
        return d_x, d_v, None, None


def multi_step(
    x_seq: Tensor, v: Tensor | float, spec: NeuronSpec, store_v_seq: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(spikes [T, N, *], the last V [N, *], V of every step or None) for x_seq [T, N, *], differentiable.

    v is a number or [N, *]. float16, float32 and float64 are taken as they are; other types, and float16 where V of
    every step is kept, go by way of float32. V comes in float32, in float64 for float64.
    """
    dtype = x_seq.dtype
    as_they_are = (torch.float32, torch.float64) if store_v_seq else (torch.float16, torch.float32, torch.float64)
    taken = dtype if dtype in as_they_are else torch.float32
    real = torch.float64 if taken == torch.float64 else torch.float32
    if isinstance(v, Tensor):
        start = v.to(x_seq.device, real)
    else:
        start = torch.full(x_seq.shape[1:], float(v), dtype=real, device=x_seq.device)
    if start.shape != x_seq.shape[1:]:
        raise ValueError(f"v has shape {list(start.shape)}, a step of x_seq {list(x_seq.shape[1:])}; give v that shape")
    spikes, v_last, v_seq = _MultiStep.apply(x_seq.to(taken), start, spec, store_v_seq)
    return spikes.to(dtype), v_last, v_seq if store_v_seq else None
