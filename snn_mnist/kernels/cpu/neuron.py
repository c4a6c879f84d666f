"""IF and LIF over a whole sequence on the CPU: charge, fire and reset of all T steps in one pass, and back.

The equations are those of core/neuron.py; `decay` and `gain` stand for 1 - 1/tau and 1/tau (1 and 1 for IF):
    H[t] = decay V[t-1] + gain X[t] + (1 - decay) V_reset,   S[t] = H[t] >= V_threshold
Threads take blocks of neurons that fit the first-level cache; each neuron is computed by one thread alone, so results
don't depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels import neuron as common
from snn_mnist.kernels.cpu.jit import get_threads, gradient_function, kernel, on_threads
from snn_mnist.kernels.cpu.jit import why_unavailable as why_unavailable
from snn_mnist.kernels.neuron import NeuronSpec, coefficients

LIMIT = 2.0**64  # H stays within +-LIMIT, as in core/neuron.py: an infinite input leaves a finite V; NaN stays NaN
BLOCK = 1024  # neurons a block: v and a row of x stay in the first-level cache
THREADED = 1 << 17  # neurons times steps from which threads are worth their start, about 100 µs


@kernel()
def _forward_kernel(team, x_seq, v, neuron, spikes, overshoot, v_seq):  # type: ignore[no-untyped-def]
    """x_seq [T, M] -> spikes [T, M], overshoot = H - V_threshold [T, M] and v_seq [T, M] (each may have 0 rows);
    v [M] is updated in place."""
    steps, size = x_seq.shape
    decay, gain, offset, threshold, reset, hard_reset, _ = neuron
    limit = x_seq.dtype.type(LIMIT)
    for block in range(team.worker, (size + BLOCK - 1) // BLOCK, team.workers):
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


@kernel()
def _backward_kernel(team, d_spikes, d_v_seq, d_v, overshoot, slope, neuron):  # type: ignore[no-untyped-def]
    """slope = g(overshoot) [T, M] becomes dX; d_v [M], the gradient of the last V, becomes that of the first."""
    steps, size = overshoot.shape
    decay, gain, _, threshold, reset, hard_reset, grad_through_reset = neuron
    one = decay / decay
    for block in range(team.worker, (size + BLOCK - 1) // BLOCK, team.workers):
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


def _run(kernel: Callable[..., Any], steps: int, size: int, *arguments: Any) -> None:
    blocks = (size + BLOCK - 1) // BLOCK
    on_threads(kernel, *arguments, workers=min(get_threads(), blocks) if steps * size >= THREADED else 1)


def forward(
    x: Tensor, v: Tensor, spec: NeuronSpec, learning: bool, store_v_seq: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    c = coefficients(spec, str(x.dtype).removeprefix("torch."))
    spikes, last_v = torch.empty_like(x), v.clone()
    overshoot = torch.empty_like(x) if learning else None
    v_seq = torch.empty_like(x) if store_v_seq else None
    rows = len(x), v.numel()
    potentials = last_v.view(-1).numpy()
    outputs = spikes.view(rows).numpy(), _rows(overshoot, x, rows), _rows(v_seq, x, rows)
    _run(_forward_kernel, *rows, x.view(rows).numpy(), potentials, c, *outputs)
    return spikes, last_v, v_seq, overshoot


def backward(
    d_spikes: Tensor, d_v_seq: Tensor | None, d_last_v: Tensor, overshoot: Tensor, spec: NeuronSpec
) -> tuple[Tensor, Tensor]:
    dtype = str(overshoot.dtype).removeprefix("torch.")
    d_x, d_v = torch.empty_like(overshoot), d_last_v.clone()
    gradient = gradient_function(spec.surrogate, spec.parameters, dtype).ctypes
    pointers = (ctypes.cast(a.data_ptr(), t) for a, t in zip((overshoot, d_x), gradient.argtypes[:2], strict=True))
    gradient(*pointers, overshoot.numel())  # d_x = g(overshoot)
    rows = len(overshoot), d_v.numel()
    inputs = d_spikes.view(rows).numpy(), _rows(d_v_seq, d_spikes, rows), d_v.view(-1).numpy()
    slope = d_x.view(rows).numpy()
    _run(_backward_kernel, *rows, *inputs, overshoot.view(rows).numpy(), slope, coefficients(spec, dtype))
    return d_x, d_v


def _rows(tensor: Tensor | None, model: Tensor, rows: tuple[int, int]) -> np.ndarray:
    """Return a tensor as the kernels take it, [T, M]; no rows for None."""
    return model.new_empty(0, rows[1]).numpy() if tensor is None else tensor.view(rows).numpy()


# (x_seq, v, spec, store_v_seq) as in kernels/neuron.py; half precision is computed in float32
multi_step = functools.partial(common.multi_step, forward, backward, (torch.float32, torch.float64))
