"""IF and LIF over a whole sequence on the CPU: charge, fire and reset of all T steps in one pass, and back.

The equations are those of core/neuron.py; `decay` and `gain` stand for 1 - 1/tau and 1/tau (1 and 1 for IF):
    H[t] = decay V[t-1] + gain X[t] + (1 - decay) V_reset,   S[t] = H[t] >= V_threshold
Neurons are cut into blocks that fit the cache and go to the threads; each neuron is summed by one thread alone, so
results don't depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snn_mnist.kernels.cpu.gradient import gradient_function
from snn_mnist.kernels.cpu.jit import kernel, why_not_after_fork
from snn_mnist.kernels.neuron_spec import NeuronSpec, coefficients

LIMIT = 2.0**64  # H stays within +-LIMIT, as in core/neuron.py: an infinite input leaves a finite V; NaN stays NaN
BLOCK = 1024  # neurons a block: v and a row of x stay in the first-level cache


def why_unavailable(device: Any = None) -> str | None:
    """None, or why these kernels can't run on tensors of this device."""
    if device is not None and torch.device(device).type != "cpu":
        return f"backend 'numba' runs on the CPU, the tensors are on {device}; use 'cupy' or 'torch' there"
    return None


@kernel(parallel=True)
def _forward(x_seq, v, decay, gain, offset, threshold, reset, hard_reset, spikes, overshoot, v_seq):  # type: ignore[no-untyped-def]
    """x_seq [T, M] -> spikes [T, M], overshoot = H - V_threshold [T, M] and v_seq [T, M] (each may have 0 rows);
    v [M] is updated in place."""
    steps, size = x_seq.shape
    limit = x_seq.dtype.type(LIMIT)
    for block in numba.prange((size + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min(size, (block + 1) * BLOCK)
        for t in range(steps):
            for m in range(start, stop):
                h = decay * v[m] + (gain * x_seq[t, m] + offset)
                h = limit if h > limit else (-limit if h < -limit else h)
                fired = h >= threshold
                spikes[t, m] = fired
                v[m] = (reset if hard_reset else h - threshold) if fired else h
                if overshoot.shape[0]:
                    overshoot[t, m] = h - threshold
                if v_seq.shape[0]:
                    v_seq[t, m] = v[m]


@kernel(parallel=True)
def _backward(d_spikes, d_v_seq, d_v, overshoot, slope, decay, gain, threshold, reset, hard_reset, grad_through_reset):  # type: ignore[no-untyped-def]
    """slope = g(overshoot) [T, M] becomes dX; d_v [M], the gradient of the last V, becomes that of the first."""
    steps, size = overshoot.shape
    one = decay / decay
    for block in numba.prange((size + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min(size, (block + 1) * BLOCK)
        for back in range(steps):
            t = steps - 1 - back
            for m in range(start, stop):
                g, x = slope[t, m], overshoot[t, m]
                if hard_reset:
                    through = (reset - threshold - x) * g * grad_through_reset
                    passed = through if x >= 0 else through + one
                else:
                    passed = one - threshold * g * grad_through_reset
                d_after = d_v[m]
                if d_v_seq.shape[0]:
                    d_after += d_v_seq[t, m]
                d_h = d_spikes[t, m] * g + d_after * passed
                slope[t, m] = d_h * gain
                d_v[m] = d_h * decay


class _MultiStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_seq: Tensor, v: Tensor, spec: NeuronSpec, store_v_seq: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x_seq.detach().contiguous().view(len(x_seq), -1).numpy()
        c = coefficients(spec, x.dtype.name)
        learning = any(ctx.needs_input_grad)
        nothing = np.empty((0, x.shape[1]), x.dtype)
        spikes = np.empty_like(x)
        overshoot = np.empty_like(x) if learning else nothing
        v_seq = np.empty_like(x) if store_v_seq else nothing
        v_last = v.detach().clone(memory_format=torch.contiguous_format)
        _forward(
            x, v_last.view(-1).numpy(), c.decay, c.gain, c.offset, c.threshold, c.reset, c.hard_reset,
            spikes, overshoot, v_seq,
        )  # fmt: skip
        ctx.spec, ctx.stored = spec, store_v_seq
        if learning:
            ctx.save_for_backward(torch.from_numpy(overshoot))
        shape = x_seq.shape if store_v_seq else (0, *v.shape)
        return torch.from_numpy(spikes).view(x_seq.shape), v_last, torch.from_numpy(v_seq).view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_spikes: Tensor, d_v: Tensor, d_v_seq: Tensor) -> tuple[Tensor | None, ...]:
        (saved,) = ctx.saved_tensors
        overshoot = saved.numpy()
        c = coefficients(ctx.spec, overshoot.dtype.name)
        slope = np.empty_like(overshoot)
        address = gradient_function(ctx.spec.surrogate, ctx.spec.parameters, str(overshoot.dtype)).ctypes
        address(
            *(a.ctypes.data_as(t) for a, t in zip((overshoot, slope), address.argtypes[:2], strict=True)),
            overshoot.size,
        )
        d_first = d_v.clone(memory_format=torch.contiguous_format)
        later = d_v_seq.contiguous().view(len(overshoot), -1).numpy() if ctx.stored else overshoot[:0]
        _backward(
            d_spikes.contiguous().view(len(overshoot), -1).numpy(), later, d_first.view(-1).numpy(), overshoot, slope,
            c.decay, c.gain, c.threshold, c.reset, c.hard_reset, c.grad_through_reset,
        )  # fmt: skip
        return torch.from_numpy(slope).view(d_spikes.shape), d_first, None, None


def multi_step(
    x_seq: Tensor, v: Tensor | float, spec: NeuronSpec, store_v_seq: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(spikes [T, N, *], the last V [N, *], V of every step or None) for x_seq [T, N, *] on the CPU, differentiable.

    v is a number or [N, *]. Half precision is computed in float32; its spikes are returned as it came, V in float32.
    """
    why_not = why_not_after_fork()
    if why_not is not None:
        raise RuntimeError(f"backend 'numba' cannot run here: {why_not}")
    dtype = x_seq.dtype
    real = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    start = v.to(real) if isinstance(v, Tensor) else torch.full(x_seq.shape[1:], float(v), dtype=real)
    spikes, v_last, v_seq = _MultiStep.apply(x_seq.to(real), start, spec, store_v_seq)
    return spikes.to(dtype), v_last, v_seq if store_v_seq else None
