"""The fused kernels on a CUDA device: fused.cu, neuron.cu and their launches.

The interface and the mathematics are those of cpu/fused.py (one pass from pixels to firing rates and the weight
gradient) and cpu/neuron.py (`multi_step`). `learn` and `weight_gradient` are the two halves of a training step without
autograd, on tensors of the caller: a CUDA graph can capture them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels import neuron
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.kernels.cuda.launch import why_unavailable as why_unavailable
from snn_mnist.kernels.neuron import NeuronSpec, coefficients
from snn_mnist.kernels.spikes import SpikeKey

THREADS_LEARNING = 512  # with a small batch each multiprocessor runs a single block
THREADS_COUNTING = 256
THREADS_NEURONS = 128
COUNTING_SPAN = 128  # steps held at a time by a forward pass, for any T
CONTRACT_LANES, CONTRACT_SLICES = 32, 8  # pixels per block of `contract`, and partial sums per pixel
TIES = 512  # listed per block; any further tie is resolved at once
LIMIT_OUTPUTS = 128


class ActivePixels(NamedTuple):
    """A data set on the device, with its non-zero pixels listed image after image in ascending order."""

    images: Tensor  # [N, P] uint8
    offsets: Tensor  # [N + 1] int64, where each image begins in sites
    sites: Tensor  # [offsets[-1]] int32, pixel | value << 16
    stride: int  # active pixels of any image at most, rounded up to a multiple of 32


def active_pixels(images: Tensor) -> ActivePixels:
    """List the non-zero pixels of images [N, P] uint8, P <= 32704. Waits for the device once."""
    images = images.contiguous()
    counts = (images != 0).sum(1)
    offsets = torch.zeros(len(images) + 1, dtype=torch.int64, device=images.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    flat = images.flatten()
    at = flat.nonzero().flatten()
    sites = (at % images.shape[1]).int() | flat[at].int() << 16
    most = int(counts.max()) if len(images) else 0
    return ActivePixels(images, offsets, sites, max(32, (most + 31) // 32 * 32))


class Plan(NamedTuple):
    """How a variant of fused.cu is built and launched, a block per sample."""

    text: str
    threads: int
    shared_bytes: int
    global_bytes: int  # a block's working memory in global memory, if shared memory is too small

    def global_work(self, blocks: int, device: torch.device) -> Tensor | None:
        return torch.empty(blocks * self.global_bytes, dtype=torch.uint8, device=device) if self.global_bytes else None


def plan_launch(weight_shape: Sequence[int], stride: int, spec: NeuronSpec, steps: int | None, limit: int) -> Plan:
    """Return the variant for these settings; steps=None: the forward pass, for any T. limit: bytes of shared memory."""
    outputs, pixels = weight_shape
    learning = steps is not None
    span = COUNTING_SPAN if steps is None else (steps + 31) // 32 * 32
    arrays = 16 * ((outputs + 3) // 4) * (stride + span * (1 + learning)), 8 * (TIES + 1), 4 * (span // 32 + 1) * stride
    size = sum(arrays) + 8  # of a block's working memory, as laid out in fused.cu
    global_work = size > limit
    threads = THREADS_LEARNING if learning else THREADS_COUNTING
    macros: dict[str, Any] = {"PIXELS": pixels, "OUTPUTS": outputs, "THREADS": threads, "SPAN": span}
    macros |= {"HARD": spec.v_reset is not None, "GLOBAL_WORK": global_work, "LEARNING": learning}
    macros |= {"TIES": TIES, "LANES": CONTRACT_LANES, "SLICES": CONTRACT_SLICES}
    if learning:
        macros |= {"STEPS": steps, "GRAD_THROUGH_RESET": not spec.detach_reset} | cuda.gradient_macro(spec)
    text = cuda.source("fused.cu", **macros)
    return Plan(text, threads, 0 if global_work else size, (size + 15) // 16 * 16 if global_work else 0)


def work_memory(weight_shape: Sequence[int], active: ActivePixels, spec: NeuronSpec, steps: int, samples: int) -> int:
    """Return the bytes of global memory that a training pass over so many samples works in; 0 if they fit on chip."""
    limit = cuda.shared_limit(active.images.device)
    return samples * plan_launch(weight_shape, active.stride, spec, steps, limit).global_bytes


def _key_arguments(key: SpikeKey) -> tuple[cuda.Argument, ...]:
    """Return epoch_at, epoch, seed, stream; an epoch that is a tensor [1] int32 is read when the kernel runs."""
    at = key.epoch if isinstance(key.epoch, Tensor) else None
    return at, np.uint32(0 if at is not None else key.epoch), np.uint32(key.seed), np.uint32(key.stream)


def _fused(
    weight: Tensor, active: ActivePixels, index: Tensor, key: SpikeKey, spec: NeuronSpec, steps: int | None,
    precision: torch.dtype, readout_steps: Tensor | None, out: Tensor, eligibility: Tensor | None,
    input_spikes: Tensor | None,
) -> None:  # fmt: skip
    if weight.ndim != 2 or weight.shape[0] > LIMIT_OUTPUTS or weight.shape[1] != active.images.shape[1]:
        raise ValueError(
            f"the fused CUDA kernel takes a weight [C, {active.images.shape[1]}] with C at most {LIMIT_OUTPUTS}, "
            f"not {list(weight.shape)}; use -backend torch"
        )
    device, samples, half = active.images.device, len(index), precision == torch.float16
    if not half:  # the kernel itself rounds to float16, which saves a copy of the weight
        weight = weight.to(precision)
    weight, index = weight.detach().to(device, torch.float32).contiguous(), index.to(device, torch.int64).contiguous()
    plan = plan_launch(weight.shape, active.stride, spec, steps, cuda.shared_limit(device))
    inputs = active.offsets, active.sites, index, weight, *_key_arguments(key), *coefficients(spec)[:5]
    readout = readout_steps, np.int32(0 if readout_steps is None else len(readout_steps))
    outputs = out, eligibility, input_spikes, plan.global_work(samples, device)
    arguments = *inputs, np.int32(half), np.int32(active.stride), *readout, *outputs
    cuda.load(plan.text, "fused", device)((samples,), plan.threads, arguments, plan.shared_bytes)


@functools.lru_cache(maxsize=256)
def _on_device(readout_steps: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(readout_steps, dtype=torch.int32, device=device)


def firing_counts(
    weight: Tensor, active: ActivePixels, index: Tensor, readout_steps: list[int], key: SpikeKey, spec: NeuronSpec,
    precision: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the output spikes in the first readout_steps[m] steps [N, M, C] float32 (readout_steps ascend) and the
    number of input spikes [N] int64. Memory is independent of T. precision: weights are rounded to this type."""
    device = active.images.device
    counts = torch.empty(len(index), len(readout_steps), len(weight), device=device)
    inputs = torch.empty(len(index), dtype=torch.int64, device=device)
    on_device = _on_device(tuple(readout_steps), device)
    _fused(weight, active, index, key, spec, None, precision, on_device, counts, None, inputs)
    return counts, inputs


def learn(
    weight: Tensor, active: ActivePixels, index: Tensor, steps: int, key: SpikeKey, spec: NeuronSpec,
    precision: torch.dtype, rate: Tensor, eligibility: Tensor,
) -> None:  # fmt: skip
    """Write the firing rates [N, C], and E [N, C, P] of active pixels, to `rate` and `eligibility`. steps <= 2**20."""
    _fused(weight, active, index, key, spec, steps, precision, None, rate, eligibility, None)


def weight_gradient(
    active: ActivePixels, index: Tensor, upstream: Tensor, eligibility: Tensor, spec: NeuronSpec, steps: int,
    out: Tensor,
) -> None:  # fmt: skip
    """Set out to dL/dW [C, P] float32, from dL/drate [N, C] and the E of `learn`, called with the same settings."""
    (samples, outputs, pixels), device = eligibility.shape, active.images.device
    plan = plan_launch((outputs, pixels), active.stride, spec, steps, cuda.shared_limit(device))
    grid = (pixels + CONTRACT_LANES - 1) // CONTRACT_LANES, outputs
    index, upstream = index.to(device, torch.int64).contiguous(), upstream.float().contiguous()
    arguments = active.images, index, upstream, eligibility, np.int32(samples), out
    cuda.load(plan.text, "contract", device)(grid, CONTRACT_LANES * CONTRACT_SLICES, arguments)


def encode(active: ActivePixels, index: Tensor, start: int, stop: int, key: SpikeKey) -> Tensor:
    """Return spikes [stop - start, N, P] float32 of steps start .. stop - 1, as `spikes.encode`; start % 16 = 0."""
    device, pixels = active.images.device, active.images.shape[1]
    index = index.to(device, torch.int64).contiguous()
    spikes = torch.zeros(stop - start, len(index), pixels, device=device)
    any_neuron = NeuronSpec(None, False, 1.0, 0.0, False, "atan", ())
    plan = plan_launch((1, pixels), active.stride, any_neuron, None, cuda.shared_limit(device))
    inputs = active.offsets, active.sites, index, *_key_arguments(key)[1:], np.int32(active.stride)
    outputs = spikes, plan.global_work(len(index), device)
    arguments = *inputs, np.int32(start), np.int32(stop - start), *outputs
    cuda.load(plan.text, "encode_spikes", device)((len(index),), plan.threads, arguments, plan.shared_bytes)
    return spikes


# ---- neurons over a whole sequence ----------------------------------------------------------------------------------


def neuron_source(spec: NeuronSpec, dtype: torch.dtype, learning: bool) -> str:
    """Return the source of the variant for sequences of this type; learning: `backward`, else `forward`."""
    double = dtype == torch.float64
    macros: dict[str, Any] = {"REAL": "double" if double else "float", "HALF_IO": dtype == torch.float16}
    macros |= {"HARD": spec.v_reset is not None, "THREADS": THREADS_NEURONS}
    if learning:
        gradient = cuda.gradient_macro(spec, "float64" if double else "float32")
        macros |= {"GRAD_THROUGH_RESET": not spec.detach_reset} | gradient
    return cuda.source("neuron.cu", **macros)


def _launch_neuron(name: str, spec: NeuronSpec, x: Tensor, size: int, before: Sequence, after: Sequence) -> None:
    if size == 0:
        return
    real = "float64" if x.dtype == torch.float64 else "float32"
    kernel = cuda.load(neuron_source(spec, x.dtype, name == "backward"), name, x.device)
    scalars = np.int64(len(x)), np.int64(size), *coefficients(spec, real)[:5]
    kernel(((size + THREADS_NEURONS - 1) // THREADS_NEURONS,), THREADS_NEURONS, (*before, *scalars, *after))


def neuron_forward(
    x: Tensor, v: Tensor, spec: NeuronSpec, learning: bool, store_v_seq: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    spikes, last_v = torch.empty_like(x), torch.empty_like(v)
    overshoot = torch.empty_like(x, dtype=v.dtype) if learning else None
    v_seq = torch.empty_like(x) if store_v_seq else None
    _launch_neuron("forward", spec, x, v.numel(), (x, v), (spikes, last_v, overshoot, v_seq))
    return spikes, last_v, v_seq, overshoot


def neuron_backward(
    d_spikes: Tensor, d_v_seq: Tensor | None, d_last_v: Tensor, overshoot: Tensor, spec: NeuronSpec
) -> tuple[Tensor, Tensor]:
    d_x, d_v = torch.empty_like(d_spikes), torch.empty_like(d_last_v)
    _launch_neuron("backward", spec, d_spikes, d_v.numel(), (d_spikes, d_v_seq, d_last_v, overshoot), (d_x, d_v))
    return d_x, d_v


def multi_step(x_seq: Tensor, v: Tensor, spec: NeuronSpec, store_v_seq: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run `multi_step` of kernels/neuron.py on a CUDA device, one launch forward and one backward.

    Half precision is read and written, but the membrane and the backward recurrence are in float32.
    """
    half = () if store_v_seq else (torch.float16,)  # V of every step is kept in float32
    types = (*half, torch.float32, torch.float64)
    return neuron.multi_step(neuron_forward, neuron_backward, types, x_seq, v, spec, store_v_seq)
