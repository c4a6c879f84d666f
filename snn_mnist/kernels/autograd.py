"""The fused kernels as differentiable functions: the same autograd functions for every backend.

A backend's modules (backends.py) give the numbers, forward and backward; what is kept in between lies here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snn_mnist.kernels.neuron_spec import NeuronSpec
from snn_mnist.kernels.spikes import SpikeKey


class _FiringRate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, kernels: Any, active: Any, index: Tensor, steps: int, key: SpikeKey, spec: NeuronSpec,
        precision: torch.dtype,
    ) -> Tensor:  # fmt: skip
        rate = torch.empty(len(index), len(weight), device=weight.device)
        eligibility = kernels.new_eligibility(active, len(index), weight.shape)
        kernels.learn(weight, active, index, steps, key, spec, precision, rate, eligibility)
        ctx.kernels, ctx.saved = kernels, (active, index, eligibility, spec, steps)
        ctx.shape, ctx.dtype = weight.shape, weight.dtype
        return rate

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.saved is None:
            raise RuntimeError("the fused pass was already differentiated; run the forward pass again")
        active, index, eligibility, spec, steps = ctx.saved
        gradient = torch.empty(ctx.shape, device=upstream.device)
        ctx.kernels.weight_gradient(active, index, upstream, eligibility, spec, steps, gradient)
        ctx.saved = None
        return gradient.to(ctx.dtype), None, None, None, None, None, None, None


def firing_rate(
    kernels: Any, weight: Tensor, active: Any, index: Tensor, steps: int, key: SpikeKey, spec: NeuronSpec,
    precision: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Firing rates [N, C] over `steps` time steps of the images `index` [N] int64, differentiable in weight [C, P].

    kernels: the module of a fused pass; active: its `active_pixels` of the images. precision: the weights are rounded
    to this type; sums and membrane stay in float32, because float16 has 11 bits: a sum of a hundred small weights would
    lose the last ones, and a membrane near its threshold would fire wrongly.
    """
    return _FiringRate.apply(weight, kernels, active, index, steps, key, spec, precision)


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
    @once_differentiable
    def backward(ctx: Any, d_spikes: Tensor, d_last_v: Tensor, d_v_seq: Tensor) -> tuple[Tensor | None, ...]:
        (overshoot,) = ctx.saved_tensors
        later = d_v_seq.contiguous() if ctx.stored else None
        d_x, d_v = ctx.backward_kernel(d_spikes.contiguous(), later, d_last_v.contiguous(), overshoot, ctx.spec)
        return d_x, d_v, None, None, None, None


def multi_step(
    forward: Forward, backward: Backward, types: tuple[torch.dtype, ...], x_seq: Tensor, v: Tensor | float,
    spec: NeuronSpec, store_v_seq: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """(spikes [T, N, *], the last V [N, *], V of every step or None) for x_seq [T, N, *], differentiable.

    v is a number or [N, *]. Sequences of these types are taken as they are, others by way of float32; V is float64 for
    float64 and else float32.
    """
    dtype = x_seq.dtype
    taken = dtype if dtype in types else torch.float32
    real = torch.float64 if taken == torch.float64 else torch.float32
    if isinstance(v, Tensor):
        start = v.to(x_seq.device, real)
    else:
        start = torch.full(x_seq.shape[1:], float(v), dtype=real, device=x_seq.device)
    if start.shape != x_seq.shape[1:]:
        raise ValueError(f"v has shape {list(start.shape)}, a step of x_seq {list(x_seq.shape[1:])}; give v that shape")
    spikes, last_v, v_seq = _MultiStep.apply(x_seq.to(taken), start, forward, backward, spec, store_v_seq)
    return spikes.to(dtype), last_v, v_seq if store_v_seq else None
