"""Neurons for fused kernels: their parameters as numbers, and IF and LIF over a whole sequence as autograd functions.

The equations are in core/neuron.py; cpu/neuron.py and cuda/fused.py compute them forward and backward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class NeuronSpec:
    """One IF or LIF neuron; hashable, so it can be the key of a cache."""

    tau: float | None  # membrane time constant in steps, > 1; None: IF, no leak
    decay_input: bool  # LIF only: X is divided by tau too
    v_threshold: float
    v_reset: float | None  # None: soft reset
    detach_reset: bool
    surrogate: str  # a key of formulas.FORMULAS
    parameters: tuple[tuple[str, float], ...]  # of the surrogate, e.g. (('alpha', 2.0),)


class Coefficients(NamedTuple):
    """The numbers in H[t] = decay V[t-1] + gain X[t] + offset, fire and reset, rounded to a kernel's type."""

    decay: Any
    gain: Any
    offset: Any
    threshold: Any
    reset: Any  # 0 for soft reset
    hard_reset: Any  # 1 for hard reset
    grad_through_reset: Any  # 1 where the gradient passes through the reset


@functools.cache
def coefficients(spec: NeuronSpec, dtype: str = "float32") -> Coefficients:
    """Return the coefficients of a neuron as numbers of this type, the same for every backend."""
    real = np.dtype(dtype).type
    decay = real(1.0 if spec.tau is None else 1.0 - 1.0 / spec.tau)
    gain = real(1.0 / spec.tau if spec.tau is not None and spec.decay_input else 1.0)
    reset = real(spec.v_reset or 0.0)
    offset = reset * (real(1) - decay)
    hard_reset, grad_through_reset = real(spec.v_reset is not None), real(not spec.detach_reset)
    return Coefficients(decay, gain, offset, real(spec.v_threshold), reset, hard_reset, grad_through_reset)


Forward = Callable[[Tensor, Tensor, NeuronSpec, bool, bool], tuple[Tensor, Tensor, Tensor | None, Tensor | None]]
"""(x [T, N, *], first v [N, *], spec, learning, store_v_seq) -> spikes, last v, v of every step or None, and while
learning H - V_threshold [T, N, *]."""
Backward = Callable[[Tensor, Tensor | None, Tensor, Tensor, NeuronSpec], tuple[Tensor, Tensor]]
"""(gradients of spikes, of v of every step or None, of the last v; H - V_threshold, spec) -> those of x and of the
first v. All tensors are contiguous."""


class _MultiStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_seq: Tensor, v: Tensor, forward: Forward, backward: Backward, spec: NeuronSpec, store_v_seq: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        learning = any(ctx.needs_input_grad)
        x, first_v = x_seq.detach().contiguous(), v.detach().contiguous()
        spikes, last_v, v_seq, overshoot = forward(x, first_v, spec, learning, store_v_seq)
        ctx.backward_kernel, ctx.spec, ctx.stored = backward, spec, store_v_seq
        if overshoot is not None:
            ctx.save_for_backward(overshoot)
        return spikes, last_v, x.new_empty((0, *v.shape)) if v_seq is None else v_seq

    @staticmethod
    def backward(ctx: Any, d_spikes: Tensor, d_last_v: Tensor, d_v_seq: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True; the gradients below would count as constants
            raise RuntimeError(
                "the fused neurons have no second derivatives, which create_graph=True asks for; "
                "use functional.set_backend(net, 'torch')"
            )
        (overshoot,) = ctx.saved_tensors
        later = d_v_seq.contiguous() if ctx.stored else None
        d_x, d_v = ctx.backward_kernel(d_spikes.contiguous(), later, d_last_v.contiguous(), overshoot, ctx.spec)
        return d_x, d_v, None, None, None, None


def multi_step(
    forward: Forward, backward: Backward, types: tuple[torch.dtype, ...], x_seq: Tensor, v: Tensor,
    spec: NeuronSpec, store_v_seq: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Return (spikes [T, N, *], the last V [N, *], V of every step or None) for x_seq [T, N, *], differentiable.

    v is [N, *]. Sequences of these types are passed to the kernels, others converted to float32; V is
    float64 for float64, else float32.
    """
    dtype = x_seq.dtype
    taken = dtype if dtype in types else torch.float32
    real = torch.float64 if taken == torch.float64 else torch.float32
    start = v.to(x_seq.device, real)
    spikes, last_v, v_seq = _MultiStep.apply(x_seq.to(taken), start, forward, backward, spec, store_v_seq)
    return spikes.to(dtype), last_v, v_seq if store_v_seq else None
