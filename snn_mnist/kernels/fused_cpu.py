"""One pass from pixels to firing rates and the weight gradient, on the CPU.

For each sample: spikes as bits, the linear layer as one 16-float row added per flip, LIF over T, and, when training,
the loss-independent factor of the backward pass. Nothing is kept that grows with T:

    the readout is a mean over T, so dL/dS[t] = dL/drate / T is the same at every step, and the backward recurrence
        dH[t] = dS g(x[t]) + dV/dH[t] (1 - 1/tau) dH[t+1],      x = H - V_threshold
    is linear in it. With dS = 1/T it gives F[t] = dX[t], and
        E[p, c] = sum_t S[p, t] F[t, c],        dL/dW[c, p] = sum_n dL/drate[n, c] E_n[p, c]
    so the backward pass is one small contraction of [live pixels, 16] tables.

A pixel above one half fires more often than not: its row is added at every step and taken away at the flips.
Flips are 14 % of (live pixel, step) pairs in MNIST; both uses of a spike cost one vector load and one addition.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snn_mnist.kernels import simd
from snn_mnist.kernels.gradient_cpu import gradient_function
from snn_mnist.kernels.jit import kernel
from snn_mnist.kernels.spec import NeuronSpec
from snn_mnist.kernels.spikes import SPAN, Draw, LivePixels, scratch, spike_masks

ROW = simd.LANES  # outputs are padded to one vector; at most this many neurons


@numba.njit
def _pack(weight, rows):  # type: ignore[no-untyped-def]
    """weight [C, P] -> rows [P * 16], zero-padded."""
    for c in range(weight.shape[0]):
        for p in range(weight.shape[1]):
            rows[p * ROW + c] = weight[c, p]


@numba.njit
def _currents(pixels, values, masks, steps, rows, base, current):  # type: ignore[no-untyped-def]
    """current[t] = sum of the rows of the pixels that fire at t. Turns masks into flips in place."""
    for t in range(steps):
        simd.store(current, t * ROW, base)
    minus_one = simd.splat(np.float32(-1))
    for j in range(pixels.shape[0]):
        row = simd.load(rows, np.int64(pixels[j]) * ROW)
        if values[j] >= 128:
            row = simd.mul(row, minus_one)
        for w in range(2):
            flips = masks[j, w]
            if values[j] >= 128:
                rest = steps - 64 * w
                valid = np.uint64(0)
                if rest >= 64:
                    valid = ~np.uint64(0)
                elif rest > 0:
                    valid = (np.uint64(1) << np.uint64(rest)) - np.uint64(1)
                flips = ~flips & valid
                masks[j, w] = flips
            first = 64 * w * ROW
            while flips != 0:
                at = first + simd.trailing_zeros(flips) * ROW
                simd.store(current, at, simd.add(simd.load(current, at), row))
                flips &= flips - np.uint64(1)


@numba.njit
def _flip_sums(live, masks, spans, values, factor, total, table, first):  # type: ignore[no-untyped-def]
    """table[first + j] = sum over the steps at which pixel j fires of factor[t]."""
    zero = simd.splat(np.float32(0))
    for j in range(live):
        even, odd = zero, zero  # two sums hide the latency of the addition
        for s in range(spans):
            for w in range(2):
                flips = masks[s, j, w]
                start = (SPAN * s + 64 * w) * ROW
                while flips != 0:
                    even = simd.add(even, simd.load(factor, start + simd.trailing_zeros(flips) * ROW))
                    flips &= flips - np.uint64(1)
                    if flips == 0:
                        break
                    odd = simd.add(odd, simd.load(factor, start + simd.trailing_zeros(flips) * ROW))
                    flips &= flips - np.uint64(1)
        both = simd.add(even, odd)
        if values[j] >= 128:
            both = simd.sub(total, both)
        simd.store(table, (first + j) * ROW, both)


@numba.njit
def _scan(current, steps, neuron, marks, counts):  # type: ignore[no-untyped-def]
    """Charge, fire, reset over T; current becomes H - V_threshold; counts[m] = spikes of the first marks[m] steps."""
    keep, gain, threshold, reset, hard = neuron[:5]
    keep_v, gain_v, threshold_v = simd.splat(keep), simd.splat(gain), simd.splat(threshold)
    reset_v, leak_v = simd.splat(reset), simd.splat(reset * (np.float32(1) - keep))
    one, fired = simd.splat(np.float32(1)), simd.splat(np.float32(0))
    v = reset_v
    t = 0
    for m in range(marks.shape[0]):
        while t < marks[m]:
            charge = simd.fma(simd.load(current, t * ROW), gain_v, leak_v)
            h = simd.fma(v, keep_v, charge)
            x = simd.sub(h, threshold_v)
            simd.store(current, t * ROW, x)
            spike = simd.greater_equal(h, threshold_v)
            v = simd.select(spike, reset_v if hard != 0 else x, h)
            fired = simd.select(spike, simd.add(fired, one), fired)
            t += 1
        simd.store(counts, m * ROW, fired)


@numba.njit
def _unscan(x_over_t, factor, steps, neuron):  # type: ignore[no-untyped-def]
    """The backward recurrence for dS = 1/T: factor holds g(x) and becomes dX; returns the sum of dX over T."""
    keep, gain, threshold, reset, hard, attached = neuron
    keep_v, scale = simd.splat(keep), simd.splat(gain / np.float32(steps))
    zero, one = simd.splat(np.float32(0)), simd.splat(np.float32(1))
    jump = simd.splat(reset - threshold)  # V_reset - H = (V_reset - V_threshold) - x
    attached_v, threshold_v = simd.splat(attached), simd.splat(threshold)
    d, total = zero, zero
    for back in range(steps):
        at = (steps - 1 - back) * ROW
        g, x = simd.load(factor, at), simd.load(x_over_t, at)
        through = simd.mul(attached_v, g)
        if hard != 0:
            passed = simd.select(simd.greater_equal(x, zero), zero, one)
            passed = simd.fma(simd.sub(jump, x), through, passed)
        else:
            passed = simd.sub(one, simd.mul(threshold_v, through))
        d = simd.fma(simd.mul(passed, keep_v), d, g)
        dx = simd.mul(d, scale)
        simd.store(factor, at, dx)
        total = simd.add(total, dx)
    return total


@kernel(parallel=True)
def _fused(offsets, all_pixels, all_values, index, weight, steps, epoch, seed, stream, neuron, gradient, marks,
           workers, counts, places, table, input_spikes):  # type: ignore[no-untyped-def]  # fmt: skip
    """counts [B, M, 16]; gradient: address of g over an array, or 0 for the forward pass alone; then places [B]
    and table [rows, 16] receive E; input_spikes [B] the number of input spikes of each sample."""
    size = weight.shape[1]
    rows = np.zeros(size * ROW, np.float32)
    _pack(weight, rows)
    spans = (steps + SPAN - 1) // SPAN
    for worker in numba.prange(workers):
        work = scratch(size)
        current = np.empty(steps * ROW, np.float32)
        factor = np.empty(steps * ROW if gradient != 0 else 1, np.float32)
        masks = np.empty((spans if gradient != 0 else 1, size, 2), np.uint64)
        for i in range(worker, index.shape[0], workers):
            n = index[i]
            start, stop = offsets[n, 0], offsets[n, -1]
            pixels, values = all_pixels[start:stop], all_values[start:stop]
            base = simd.splat(np.float32(0))
            for j in range(stop - start):
                if values[j] >= 128:
                    base = simd.add(base, simd.load(rows, np.int64(pixels[j]) * ROW))
            spikes = 0
            for s in range(spans):
                flips = masks[s if gradient != 0 else 0]
                first = s * SPAN
                count = min(SPAN, steps - first)
                spike_masks(pixels, values, np.uint32(n), epoch, seed, stream, first, count, flips, work)
                for j in range(stop - start):
                    spikes += simd.population_count(flips[j, 0]) + simd.population_count(flips[j, 1])
                _currents(pixels, values, flips, count, rows, base, current[first * ROW :])
            input_spikes[i] = spikes
            _scan(current, steps, neuron, marks, counts[i])
            if gradient != 0:
                simd.call_elementwise(gradient, current, factor, steps * ROW)
                total = _unscan(current, factor, steps, neuron)
                _flip_sums(stop - start, masks, spans, values, factor, total, table, places[i])


@kernel(parallel=True)
def _contract(offsets, all_pixels, index, places, table, upstream, gradient):  # type: ignore[no-untyped-def]
    """gradient [C, P] = sum_n upstream[n, c] E_n[p, c], in the order of the batch for any number of threads:
    a strip of pixels belongs to one thread."""
    outputs, size = gradient.shape
    strips = offsets.shape[1] - 1
    width = (size + strips - 1) // strips
    for s in numba.prange(strips):
        rows = np.zeros(width * ROW, np.float32)
        padded = np.zeros(ROW, np.float32)
        for i in range(index.shape[0]):
            n = index[i]
            padded[:outputs] = upstream[i]
            delta = simd.load(padded, 0)
            place = places[i] - offsets[n, 0]
            for j in range(offsets[n, s], offsets[n, s + 1]):
                at = (np.int64(all_pixels[j]) - s * width) * ROW
                simd.store(rows, at, simd.fma(simd.load(table, (place + j) * ROW), delta, simd.load(rows, at)))
        for p in range(s * width, min(size, (s + 1) * width)):
            for c in range(outputs):
                gradient[c, p] = rows[(p - s * width) * ROW + c]


def neuron_record(spec: NeuronSpec) -> tuple[np.float32, ...]:
    """(keep, gain, threshold, reset, hard, attached): H = keep V + gain X + (1 - keep) reset, with reset 0 if soft."""
    keep = 1.0 if spec.tau is None else 1.0 - 1.0 / spec.tau
    gain = 1.0 / spec.tau if spec.tau is not None and spec.decay_input else 1.0
    hard = spec.v_reset is not None
    record = (keep, gain, spec.v_threshold, spec.v_reset or 0.0, hard, not spec.detach_reset)
    return tuple(np.float32(value) for value in record)


def _launch(
    weight: Tensor, live: LivePixels, index: np.ndarray, marks: list[int], draw: Draw, spec: NeuronSpec,
    gradient: int, places: np.ndarray, table: np.ndarray,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if weight.shape[0] > ROW:
        raise ValueError(f"the fused CPU kernel takes at most {ROW} neurons, not {weight.shape[0]}; use -backend torch")
    counts = np.empty((len(index), len(marks), ROW), np.float32)
    input_spikes = np.empty(len(index), np.int64)
    _fused(
        *live, index, weight.detach().float().contiguous().numpy(), marks[-1],
        np.uint32(draw.epoch), np.uint32(draw.seed), np.uint32(draw.stream),
        neuron_record(spec), gradient, np.asarray(marks, np.int64), min(numba.get_num_threads(), len(index)),
        counts, places, table, input_spikes,
    )  # fmt: skip
    return torch.from_numpy(counts)[..., : weight.shape[0]], torch.from_numpy(input_spikes)


def firing_counts(
    weight: Tensor, live: LivePixels, index: Tensor, marks: list[int], draw: Draw, spec: NeuronSpec
) -> tuple[Tensor, Tensor]:
    """Forward pass alone, memory independent of the batch: output spikes in the first marks[m] steps
    [N, M, C] float32 (marks ascending) and the number of input spikes [N] int64."""
    nothing = np.empty(0, np.int64)
    return _launch(weight, live, index.numpy(), marks, draw, spec, 0, nothing, np.empty(0, np.float32))


_tables: list[np.ndarray] = []  # tables whose backward pass is done; a fresh 0.6 MB would be page-faulted in each step


def _table(rows: int) -> np.ndarray:
    table = _tables.pop() if _tables else np.empty(0, np.float32)
    return table if len(table) >= rows * ROW else np.empty(rows * ROW * 5 // 4, np.float32)


class _FiringRate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, live: LivePixels, index: Tensor, steps: int, draw: Draw, spec: NeuronSpec
    ) -> Tensor:
        samples = index.numpy()
        ends = np.cumsum(live.offsets[samples, -1] - live.offsets[samples, 0])
        places = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        table = _table(int(ends[-1]))
        gradient = gradient_function(spec.surrogate, spec.parameters).address
        counts, _ = _launch(weight, live, samples, [steps], draw, spec, gradient, places, table)
        ctx.pass_data = live, samples, places, table
        ctx.shape, ctx.dtype = weight.shape, weight.dtype
        return counts[:, 0] / steps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.pass_data is None:
            raise RuntimeError("the fused pass was already differentiated; run the forward pass again")
        live, samples, places, table = ctx.pass_data
        gradient = np.empty(ctx.shape, np.float32)
        _contract(
            live.offsets, live.pixels, samples, places, table, upstream.float().contiguous().numpy(), gradient
        )
        ctx.pass_data = None
        _tables.append(table)
        return torch.from_numpy(gradient).to(ctx.dtype), None, None, None, None, None


def firing_rate(
    weight: Tensor, live: LivePixels, index: Tensor, steps: int, draw: Draw, spec: NeuronSpec
) -> Tensor:
    """Firing rates [N, C] over `steps` time steps of the images `index` [N] int64, differentiable in weight [C, P]."""
    return _FiringRate.apply(weight, live, index, steps, draw, spec)
