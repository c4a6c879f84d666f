"""One pass from pixels to firing rates and the weight gradient, on the CPU.

For each sample: spikes as bits, the linear layer, LIF over T, and, when training, the loss-independent factor of the
backward pass. Nothing of size [T, N] is kept, only the rows of the sample that a thread is at. It rests on this:

    the readout is a mean over T, so dL/dS[t] = dL/drate / T is the same at every step, and the backward recurrence
        dH[t] = dS g(x[t]) + dV/dH[t] (1 - 1/tau) dH[t+1],      x = H - V_threshold
    is linear in it. With dS = 1/T it gives F[t] = dX[t], and
        E[p, c] = sum_t S[p, t] F[t, c],        dL/dW[c, p] = sum_n dL/drate[n, c] E_n[p, c]
    so the backward pass is one small contraction of [active pixels, 16] tables.

Both products of spikes with rows of 16 floats (X = S W and E = S^T F) go by fours: the 16 subset sums of four rows
are computed first, and four bits of spikes choose one. Per image of MNIST with T = 100 that is 3,800 vector additions a
product. Adding one row a flip (a spike, or a silence of a pixel above one half) needs only 2,100, but the branch at
the end of each pixel's bits was mispredicted: 4.3 and 4.2 us an image on one core, where the tables take 1.1 and 1.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels.cpu import simd
from snn_mnist.kernels.cpu.gradient import gradient_function
from snn_mnist.kernels.cpu.jit import kernel, why_unavailable
from snn_mnist.kernels.cpu.spikes import SPAN, ActivePixels, active_pixels, padded_nibbles, scratch, spike_masks
from snn_mnist.kernels.neuron_spec import NeuronSpec, coefficients
from snn_mnist.kernels.spikes import SpikeKey

__all__ = ["active_pixels", "firing_counts", "learn", "new_eligibility", "weight_gradient", "why_unavailable"]

ROW = simd.LANES  # outputs are padded to one vector; at most this many neurons
GROUPS = 4  # of samples, see _contract
TABLE = 16 * ROW  # the subset sums of four rows


@numba.njit
def pack(weight, rows):  # type: ignore[no-untyped-def]
    """weight [C, P] -> rows [P * 16], whose lanes from C on stay as they are."""
    for c in range(weight.shape[0]):
        for p in range(weight.shape[1]):
            rows[p * ROW + c] = weight[c, p]


@numba.njit(inline="always")
def _subset_sums(a, b, c, d, table, first):  # type: ignore[no-untyped-def]
    """table[first + 16 n :] = the sum of those of a, b, c, d whose bit is set in n, for n = 0 .. 15."""
    ab, cd = simd.add(a, b), simd.add(c, d)
    simd.store(table, first, simd.splat(np.float32(0)))
    simd.store(table, first + 16, a)
    simd.store(table, first + 32, b)
    simd.store(table, first + 48, ab)
    simd.store(table, first + 64, c)
    simd.store(table, first + 80, simd.add(a, c))
    simd.store(table, first + 96, simd.add(b, c))
    simd.store(table, first + 112, simd.add(ab, c))
    simd.store(table, first + 128, d)
    simd.store(table, first + 144, simd.add(a, d))
    simd.store(table, first + 160, simd.add(b, d))
    simd.store(table, first + 176, simd.add(ab, d))
    simd.store(table, first + 192, cd)
    simd.store(table, first + 208, simd.add(a, cd))
    simd.store(table, first + 224, simd.add(b, cd))
    simd.store(table, first + 240, simd.add(ab, cd))


@numba.njit
def _currents(pixels, rows, words, sums, steps, current):  # type: ignore[no-untyped-def]
    """current[t] = X[t]. words: the nibbles by eights of steps. 32 pixels at a time, whose tables (8 KB) stay in the
    first-level cache; those of all pixels at once did not, and took 4.5 us an image to write instead of 0.3."""
    low, silent = np.uint64(255), rows.shape[0] - ROW
    for chunk in range((pixels.shape[0] + 31) // 32):
        for g in range(8):
            j = 32 * chunk + 4 * g
            _subset_sums(
                simd.load(rows, _place(pixels, j, silent)), simd.load(rows, _place(pixels, j + 1, silent)),
                simd.load(rows, _place(pixels, j + 2, silent)), simd.load(rows, _place(pixels, j + 3, silent)),
                sums, TABLE * g,
            )  # fmt: skip
        for e in range((steps + 7) // 8):
            at = 8 * e * ROW
            a, b, c, d = _load_four(current, at, chunk)
            p, q, r, s = _load_four(current, at + 64, chunk)
            for g in range(8):
                word = words[(8 * chunk + g) * (SPAN // 8) + e]
                first = TABLE * g
                a = simd.add(a, simd.load(sums, first + np.int64(word & low)))
                b = simd.add(b, simd.load(sums, first + np.int64((word >> np.uint64(8)) & low)))
                c = simd.add(c, simd.load(sums, first + np.int64((word >> np.uint64(16)) & low)))
                d = simd.add(d, simd.load(sums, first + np.int64((word >> np.uint64(24)) & low)))
                p = simd.add(p, simd.load(sums, first + np.int64((word >> np.uint64(32)) & low)))
                q = simd.add(q, simd.load(sums, first + np.int64((word >> np.uint64(40)) & low)))
                r = simd.add(r, simd.load(sums, first + np.int64((word >> np.uint64(48)) & low)))
                s = simd.add(s, simd.load(sums, first + np.int64(word >> np.uint64(56))))
            _store_four(current, at, a, b, c, d)
            _store_four(current, at + 64, p, q, r, s)
    if pixels.shape[0] == 0:
        current[: steps * ROW] = 0


@numba.njit
def _place(pixels, j, silent):  # type: ignore[no-untyped-def]
    return np.int64(pixels[j]) * ROW if j < pixels.shape[0] else silent


@numba.njit(inline="always")
def _load_four(current, at, chunk):  # type: ignore[no-untyped-def]
    if chunk == 0:
        zero = simd.splat(np.float32(0))
        return zero, zero, zero, zero
    return (
        simd.load(current, at), simd.load(current, at + 16), simd.load(current, at + 32), simd.load(current, at + 48)
    )  # fmt: skip


@numba.njit(inline="always")
def _store_four(current, at, a, b, c, d):  # type: ignore[no-untyped-def]
    simd.store(current, at, a)
    simd.store(current, at + 16, b)
    simd.store(current, at + 32, c)
    simd.store(current, at + 48, d)


@numba.njit
def step_sums(factor, steps, sums):  # type: ignore[no-untyped-def]
    """Subset sums of factor[t] of each four steps; factor is 0 beyond T, up to a multiple of 16 steps."""
    for t in range(steps, (steps + 15) // 16 * 16):
        simd.store(factor, t * ROW, simd.splat(np.float32(0)))
    for g in range((steps + 15) // 16 * 4):
        at = 4 * g * ROW
        _subset_sums(
            simd.load(factor, at), simd.load(factor, at + 16), simd.load(factor, at + 32),
            simd.load(factor, at + 48), sums, TABLE * g,
        )  # fmt: skip


@numba.njit(inline="always")
def eligibility_row(masks, j, blocks, sums):  # type: ignore[no-untyped-def]
    """E[j] = sum over the steps at which pixel j fires of factor[t]; sums: those of step_sums."""
    nibble = np.uint64(240)
    zero = simd.splat(np.float32(0))
    a, b, c, d = zero, zero, zero, zero  # four sums hide the latency of the addition
    for block in range(blocks):
        word = masks[block >> 3, j, (block >> 2) & 1] >> np.uint64(16 * (block & 3))
        at = 4 * TABLE * block
        a = simd.add(a, simd.load(sums, at + np.int64((word << np.uint64(4)) & nibble)))
        b = simd.add(b, simd.load(sums, at + TABLE + np.int64(word & nibble)))
        c = simd.add(c, simd.load(sums, at + 2 * TABLE + np.int64((word >> np.uint64(4)) & nibble)))
        d = simd.add(d, simd.load(sums, at + 3 * TABLE + np.int64((word >> np.uint64(8)) & nibble)))
    return simd.add(simd.add(a, b), simd.add(c, d))


@numba.njit
def _eligibility(active, masks, steps, sums, table, first):  # type: ignore[no-untyped-def]
    """table[first + j] = E[j] of each active pixel."""
    blocks = (steps + 15) // 16
    for j in range(active):
        simd.store(table, (first + j) * ROW, eligibility_row(masks, j, blocks, sums))


@numba.njit
def lif_forward(current, steps, neuron, readout_steps, counts):  # type: ignore[no-untyped-def]
    """Charge, fire, reset over T; current becomes H - V_threshold; counts[m] = spikes of the first readout_steps[m]."""
    decay, gain, offset, threshold, reset, hard_reset = neuron[:6]
    decay_v, gain_v, threshold_v = simd.splat(decay), simd.splat(gain), simd.splat(threshold)
    reset_v, offset_v = simd.splat(reset), simd.splat(offset)
    one, fired = simd.splat(np.float32(1)), simd.splat(np.float32(0))
    v = reset_v
    t = 0
    for m in range(readout_steps.shape[0]):
        while t < readout_steps[m]:
            charge = simd.fma(simd.load(current, t * ROW), gain_v, offset_v)
            h = simd.fma(v, decay_v, charge)
            x = simd.sub(h, threshold_v)
            simd.store(current, t * ROW, x)
            spike = simd.greater_equal(h, threshold_v)
            v = simd.select(spike, reset_v if hard_reset != 0 else x, h)
            fired = simd.select(spike, simd.add(fired, one), fired)
            t += 1
        simd.store(counts, m * ROW, fired)


@numba.njit
def lif_backward(x_over_t, factor, steps, neuron):  # type: ignore[no-untyped-def]
    """The backward recurrence for dS = 1/T: factor holds g(x) and becomes dX."""
    decay, gain, _, threshold, reset, hard_reset, grad_through_reset = neuron
    decay_v, scale = simd.splat(decay), simd.splat(gain / np.float32(steps))
    zero, one = simd.splat(np.float32(0)), simd.splat(np.float32(1))
    jump = simd.splat(reset - threshold)  # V_reset - H = (V_reset - V_threshold) - x
    grad_through_reset_v, threshold_v = simd.splat(grad_through_reset), simd.splat(threshold)
    d = zero
    for back in range(steps):
        at = (steps - 1 - back) * ROW
        g, x = simd.load(factor, at), simd.load(x_over_t, at)
        through = simd.mul(grad_through_reset_v, g)
        if hard_reset != 0:
            passed = simd.select(simd.greater_equal(x, zero), zero, one)
            passed = simd.fma(simd.sub(jump, x), through, passed)
        else:
            passed = simd.sub(one, simd.mul(threshold_v, through))
        d = simd.fma(simd.mul(passed, decay_v), d, g)
        simd.store(factor, at, simd.mul(d, scale))


@numba.njit
def sample_currents(pixels, values, image, key, steps, keep_masks, rows, room):  # type: ignore[no-untyped-def]
    """current[t] = X[t] of one image; returns its number of input spikes. room: (masks [spans or 1, P, 2], which keeps
    the spikes of all spans or of the last one, nibbles, words (the same memory), sums, current, work of spike_masks);
    key: epoch, seed, stream."""
    masks, nibbles, words, sums, current, work = room
    epoch, seed, stream = key
    spikes = 0
    for s in range((steps + SPAN - 1) // SPAN):
        bits = masks[s if keep_masks else 0]
        first = s * SPAN
        count = min(SPAN, steps - first)
        spike_masks(pixels, values, image, epoch, seed, stream, first, count, bits, nibbles, work)
        for j in range(pixels.shape[0]):
            spikes += simd.population_count(bits[j, 0]) + simd.population_count(bits[j, 1])
        _currents(pixels, rows, words, sums, count, current[first * ROW :])
    return spikes


@kernel(parallel=True, what="the network", seconds=10)
def _fused(offsets, all_pixels, all_values, index, weight, steps, epoch, seed, stream, neuron, gradient, readout_steps,
           workers, counts, input_spikes, table, places):  # type: ignore[no-untyped-def]  # fmt: skip
    """counts [B, M, C]; input_spikes [B]: how many each sample had. gradient: address of g over an array, or 0 for
    the forward pass alone; else table [rows, 16] receives E of each sample from row places[i] on."""
    size = weight.shape[1]
    spans, padded = (steps + SPAN - 1) // SPAN, (steps + 15) // 16 * 16
    learning = gradient != 0
    key = epoch, seed, stream
    if learning:
        row = 0
        for i in range(index.shape[0]):
            places[i] = row
            row += offsets[index[i] + 1] - offsets[index[i]]
    for worker in numba.prange(workers):
        rows = simd.aligned((size + 1) * ROW, np.float32)  # the last stays 0, for the silent pixels of a last group
        rows[:] = 0
        pack(weight, rows)
        current = simd.aligned(padded * ROW, np.float32)
        factor = simd.aligned(padded * ROW if learning else 1, np.float32)
        masks = np.empty((spans if learning else 1, size, 2), np.uint64)
        nibbles = simd.aligned(padded_nibbles(size), np.uint8)
        sums = simd.aligned(max(8, padded // 4 if learning else 0) * TABLE, np.float32)
        fired = simd.aligned(readout_steps.shape[0] * ROW, np.float32)
        room = masks, nibbles, nibbles.view(np.uint64), sums, current, scratch(size)
        for i in range(worker, index.shape[0], workers):
            n = index[i]
            start, stop = offsets[n], offsets[n + 1]
            pixels, values = all_pixels[start:stop], all_values[start:stop]
            active = stop - start
            input_spikes[i] = sample_currents(pixels, values, np.uint32(n), key, steps, learning, rows, room)
            lif_forward(current, steps, neuron, readout_steps, fired)
            for m in range(readout_steps.shape[0]):
                for c in range(weight.shape[0]):
                    counts[i, m, c] = fired[m * ROW + c]
            if learning:
                simd.call_elementwise(gradient, current, factor, steps * ROW)
                lif_backward(current, factor, steps, neuron)
                step_sums(factor, steps, sums)
                _eligibility(active, masks, steps, sums, table, places[i])


@kernel(parallel=True)
def _contract(offsets, all_pixels, index, places, table, upstream, workers, gradient):  # type: ignore[no-untyped-def]
    """gradient [C, P] = sum_n upstream[n, c] E_n[p, c], summed in an order that no number of threads changes: each of
    four groups of samples by itself, then the groups. With 1, 2 or 4 workers a group is summed by the thread whose
    cache holds its E; a sum by strips of pixels read half of it from the other core, and cost 130 us more a step."""
    outputs, size = gradient.shape
    sums = simd.aligned(GROUPS * size * ROW, np.float32)
    for worker in numba.prange(workers):
        padded = simd.aligned(ROW, np.float32)
        padded[:] = 0
        for group in range(worker, GROUPS, workers):
            rows = sums[group * size * ROW : (group + 1) * size * ROW]
            rows[:] = 0
            for i in range(group, index.shape[0], GROUPS):
                for c in range(outputs):
                    padded[c] = upstream[i, c]
                delta = simd.load(padded, 0)
                start = offsets[index[i]]
                for j in range(start, offsets[index[i] + 1]):
                    at = np.int64(all_pixels[j]) * ROW
                    e = simd.load(table, (places[i] + j - start) * ROW)
                    simd.store(rows, at, simd.fma(e, delta, simd.load(rows, at)))
    total = simd.aligned(ROW, np.float32)
    group_size = size * ROW
    for p in range(size):
        row = p * ROW
        first = simd.add(simd.load(sums, row), simd.load(sums, row + group_size))
        second = simd.add(simd.load(sums, row + 2 * group_size), simd.load(sums, row + 3 * group_size))
        simd.store(total, 0, simd.add(first, second))
        for c in range(outputs):
            gradient[c, p] = total[c]


class Eligibility(NamedTuple):
    """E of each sample of a batch, at its active pixels."""

    table: np.ndarray  # [rows * 16]
    places: np.ndarray  # [B] int64, the first row of each sample


_NO_TABLE = Eligibility(np.empty(0, np.float32), np.empty(0, np.int64))


def new_eligibility(active: ActivePixels, batch: int, shape: Sequence[int]) -> Eligibility:
    """Room for the E of any `batch` samples; shape [C, P] is the weight's."""
    return Eligibility(simd.aligned_array(batch * active.most * ROW, np.float32), np.empty(batch, np.int64))


def _launch(
    weight: Tensor, active: ActivePixels, index: Tensor, readout_steps: list[int], key: SpikeKey, spec: NeuronSpec,
    precision: torch.dtype, gradient: int, counts: Tensor, eligibility: Eligibility,
) -> Tensor:  # fmt: skip
    """Fills counts [N, M, C], and the eligibility when there is a gradient; returns the input spikes [N]."""
    if weight.shape[0] > ROW:
        raise ValueError(f"the fused CPU kernel takes at most {ROW} neurons, not {weight.shape[0]}; use -backend torch")
    input_spikes = torch.empty(len(index), dtype=torch.int64)
    weights = weight.detach().to(precision).to(torch.float32).contiguous().numpy()
    _fused(
        active.offsets, active.pixels, active.values, index.numpy(), weights, readout_steps[-1],
        np.uint32(key.epoch), np.uint32(key.seed), np.uint32(key.stream),
        tuple(coefficients(spec)), gradient, np.asarray(readout_steps, np.int64),
        min(numba.get_num_threads(), len(index)),
        counts.numpy(), input_spikes.numpy(), *eligibility,
    )  # fmt: skip
    return input_spikes


def firing_counts(
    weight: Tensor, active: ActivePixels, index: Tensor, readout_steps: list[int], key: SpikeKey, spec: NeuronSpec,
    precision: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Forward pass alone, memory independent of the batch: output spikes in the first readout_steps[m] steps [N, M, C]
    float32 (readout_steps ascend) and the number of input spikes [N] int64. precision: the weights are rounded to this
    type."""
    counts = torch.empty(len(index), len(readout_steps), len(weight))
    return counts, _launch(weight, active, index, readout_steps, key, spec, precision, 0, counts, _NO_TABLE)


def learn(
    weight: Tensor, active: ActivePixels, index: Tensor, steps: int, key: SpikeKey, spec: NeuronSpec,
    precision: torch.dtype, rate: Tensor, eligibility: Eligibility,
) -> None:  # fmt: skip
    """Firing rates [N, C] and E of the images `index` [N] over `steps` time steps, into the tensors given."""
    gradient = gradient_function(spec.surrogate, spec.parameters).address
    _launch(weight, active, index, [steps], key, spec, precision, gradient, rate.unsqueeze(1), eligibility)
    rate.div_(steps)


def weight_gradient(
    active: ActivePixels, index: Tensor, upstream: Tensor, eligibility: Eligibility, spec: NeuronSpec, steps: int,
    out: Tensor,
) -> None:  # fmt: skip
    """out = dL/dW [C, P] float32 from dL/drate [N, C] and the E of `learn`, called with the same settings."""
    upstream = upstream.to(torch.float32).contiguous()
    workers = min(numba.get_num_threads(), GROUPS)
    table, places = eligibility
    _contract(active.offsets, active.pixels, index.numpy(), places, table, upstream.numpy(), workers, out.numpy())
