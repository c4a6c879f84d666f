"""One pass of an image through the network on the CPU: forward, and what its backward pass consists of.

For each sample: spikes as bits, the linear layer, LIF over T, and, when training, the loss-independent factor of the
backward pass. Nothing of size [T, N] is kept, only the rows of the sample that a thread is at. It rests on this:

    the readout is a mean over T, so dL/dS[t] = dL/drate / T is the same at every step, and the backward recurrence
        dH[t] = dS g(x[t]) + dV/dH[t] (1 - 1/tau) dH[t+1],      x = H - V_threshold
    is linear in it. With dS = 1/T it gives F[t] = dX[t], and
        E[p, c] = sum_t S[p, t] F[t, c],        dL/dW[c, p] = sum_n dL/drate[n, c] E_n[p, c]
    so the backward pass is one small contraction of [active pixels, 16] tables.

A vector holds sixteen neurons. More than these are blocks of sixteen, which share the spikes of the sample. Other codes
than Poisson spikes fill the currents and E more simply: a constant current X = sum_p k_p W_p at every t, E[p] = k_p
sum_t F[t]; a pixel that fires once, at t_p, adds W_p to X[t_p], E[p] = F[t_p]. 1/255 is a factor of the neuron's gain.

Both products of spikes with rows of 16 floats (X = S W and E = S^T F) go by fours: the 16 subset sums of four rows
are computed first, and four bits of spikes choose one. Per image of MNIST with T = 100 that is 3,800 vector additions a
product. Adding one row a flip (a spike, or a silence of a pixel above one half) needs only 2,100, but the branch at
the end of each pixel's bits was mispredicted: 4.3 and 4.2 us an image on one core, where the tables take 1.1 and 1.5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels.cpu import simd
from snn_mnist.kernels.cpu.jit import get_threads, helper, inlined_helper, kernel, on_threads, why_unavailable
from snn_mnist.kernels.cpu.spikes import (
    SPAN,
    ActivePixels,
    active_pixels,
    key_words,
    latency_step,
    padded_nibbles,
    scratch,
    spike_masks,
)
from snn_mnist.kernels.neuron import Coefficients, NeuronSpec, coefficients
from snn_mnist.kernels.spikes import SpikeKey

__all__ = ["active_pixels", "firing_counts", "why_unavailable"]

ROW = simd.LANES  # neurons of a block; the last block is padded
POISSON, CONSTANT, LATENCY = range(3)
ENCODINGS = {"poisson": POISSON, "constant": CONSTANT, "latency": LATENCY}
TABLE = 16 * ROW  # the subset sums of four rows


class Scratch(NamedTuple):
    """Scratch memory of a thread."""

    masks: np.ndarray  # [spans, P, 2] uint64, the spikes of all spans, or of the last one
    nibbles: np.ndarray  # [groups of 4 pixels * SPAN] uint8
    words: np.ndarray  # the same memory as uint64
    sums: np.ndarray  # [tables * TABLE] float32
    current: np.ndarray  # [blocks * T * ROW], T rounded up to a multiple of 16
    factor: np.ndarray  # [T * ROW], the same T
    spikes: tuple  # type: ignore[type-arg]  # what spike_masks needs
    pixels: np.ndarray  # [P] uint16, those that dropout keeps
    values: np.ndarray  # [P] uint8


@helper
def new_scratch(pixels, blocks, steps, learning):  # type: ignore[no-untyped-def]
    """Return scratch memory for images of this many pixels and blocks of neurons over T = steps."""
    spans, padded = (steps + SPAN - 1) // SPAN, (steps + 15) // 16 * 16
    masks = np.empty((spans if learning else 1, pixels, 2), np.uint64)
    nibbles = simd.aligned(padded_nibbles(pixels), np.uint8)
    sums = simd.aligned(max(8, padded // 4 if learning else 0) * TABLE, np.float32)
    current = simd.aligned(blocks * padded * ROW, np.float32)
    factor = simd.aligned(padded * ROW if learning else ROW, np.float32)
    kept = np.empty(pixels, np.uint16), np.empty(pixels, np.uint8)
    return Scratch(masks, nibbles, nibbles.view(np.uint64), sums, current, factor, scratch(pixels), kept[0], kept[1])


@inlined_helper
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


@helper
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


@helper
def _place(pixels, j, silent):  # type: ignore[no-untyped-def]
    return np.int64(pixels[j]) * ROW if j < pixels.shape[0] else silent


@inlined_helper
def _load_four(current, at, chunk):  # type: ignore[no-untyped-def]
    if chunk == 0:
        zero = simd.splat(np.float32(0))
        return zero, zero, zero, zero
    return (
        simd.load(current, at), simd.load(current, at + 16), simd.load(current, at + 32), simd.load(current, at + 48)
    )  # fmt: skip


@inlined_helper
def _store_four(current, at, a, b, c, d):  # type: ignore[no-untyped-def]
    simd.store(current, at, a)
    simd.store(current, at + 16, b)
    simd.store(current, at + 32, c)
    simd.store(current, at + 48, d)


@helper
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


@inlined_helper
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


@helper
def lif_forward(current, steps, neuron, readout_steps, counts):  # type: ignore[no-untyped-def]
    """Charge, fire, reset over T; current becomes H - V_threshold; counts[m] = spikes of the first readout_steps[m]."""
    decay, gain, offset, threshold, reset, hard_reset, _ = neuron
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


@helper
def lif_backward(x_over_t, factor, steps, neuron):  # type: ignore[no-untyped-def]
    """Run the backward recurrence for dS = 1/T: factor holds g(x) and becomes dX."""
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


@inlined_helper
def add_gradient(pixels, values, encoding, steps, delta, sums, scratch):  # type: ignore[no-untyped-def]
    """Add delta E of one image and a block of neurons to sums [(P + 1) * 16]; scratch.factor holds F."""
    factor = scratch.factor
    if encoding == POISSON:
        words, masks, table = (steps + 15) // 16, scratch.masks, scratch.sums
        step_sums(factor, steps, table)
        for j in range(pixels.shape[0]):
            at = np.int64(pixels[j]) * ROW
            row = eligibility_row(masks, j, words, table)
            simd.store(sums, at, simd.fma(row, delta, simd.load(sums, at)))
    elif encoding == CONSTANT:
        total = simd.splat(np.float32(0))
        for t in range(steps):
            total = simd.add(total, simd.load(factor, t * ROW))
        total = simd.mul(total, delta)
        for j in range(pixels.shape[0]):
            at = np.int64(pixels[j]) * ROW
            simd.store(sums, at, simd.fma(simd.splat(np.float32(values[j])), total, simd.load(sums, at)))
    else:
        for j in range(pixels.shape[0]):
            at = np.int64(pixels[j]) * ROW
            row = simd.load(factor, latency_step(np.int64(values[j]), steps) * ROW)
            simd.store(sums, at, simd.fma(row, delta, simd.load(sums, at)))


@helper
def _code_currents(pixels, values, encoding, steps, rows, current):  # type: ignore[no-untyped-def]
    """current[t] = X[t] of a block of neurons for a code without random numbers; of a constant one 255 X[t]."""
    zero = simd.splat(np.float32(0))
    a, b = zero, zero
    if encoding == CONSTANT:
        for j in range(0, pixels.shape[0] - 1, 2):
            a = simd.fma(simd.splat(np.float32(values[j])), simd.load(rows, np.int64(pixels[j]) * ROW), a)
            b = simd.fma(simd.splat(np.float32(values[j + 1])), simd.load(rows, np.int64(pixels[j + 1]) * ROW), b)
        if pixels.shape[0] % 2:
            j = pixels.shape[0] - 1
            a = simd.fma(simd.splat(np.float32(values[j])), simd.load(rows, np.int64(pixels[j]) * ROW), a)
    for t in range(steps):
        simd.store(current, t * ROW, simd.add(a, b))
    if encoding == LATENCY:
        for j in range(pixels.shape[0]):
            at = latency_step(np.int64(values[j]), steps) * ROW
            simd.store(current, at, simd.add(simd.load(current, at), simd.load(rows, np.int64(pixels[j]) * ROW)))


@helper
def sample_currents(pixels, values, image, key, encoding, steps, rows, scratch):  # type: ignore[no-untyped-def]
    """current[t] = X[t] of one image of the scratch memory; return its number of input spikes, or active pixels."""
    spikes, keep_masks = 0, scratch.masks.shape[0] > 1
    size = (steps + 15) // 16 * 16 * ROW
    blocks = scratch.current.shape[0] // size
    length = rows.shape[0] // blocks
    if encoding != POISSON:
        for block in range(blocks):
            block_rows, current = rows[block * length : (block + 1) * length], scratch.current[block * size :]
            _code_currents(pixels, values, encoding, steps, block_rows, current)
        return pixels.shape[0]
    for s in range((steps + SPAN - 1) // SPAN):
        bits = scratch.masks[s if keep_masks else 0]
        first = s * SPAN
        count = min(SPAN, steps - first)
        spike_masks(pixels, values, image, key, first, count, bits, scratch.nibbles, scratch.spikes)
        for j in range(pixels.shape[0]):
            spikes += simd.population_count(bits[j, 0]) + simd.population_count(bits[j, 1])
        for block in range(blocks):
            block_rows, at = rows[block * length : (block + 1) * length], block * size + first * ROW
            _currents(pixels, block_rows, scratch.words, scratch.sums, count, scratch.current[at:])
    return spikes


@kernel("the network", seconds=4)
def count_spikes(team, images, index, rows, key, encoding, neuron, readout_steps, counts, input_spikes):  # type: ignore[no-untyped-def]
    """counts [B, M, C]; input_spikes [B]: how many each sample had."""
    steps, blocks = readout_steps[-1], (counts.shape[2] + ROW - 1) // ROW
    scratch = new_scratch(rows.shape[0] // (blocks * ROW) - 1, blocks, steps, False)
    fired = simd.aligned(readout_steps.shape[0] * ROW, np.float32)
    for i in range(team.worker, index.shape[0], team.workers):
        n = index[i]
        start, stop = images.offsets[n], images.offsets[n + 1]
        pixels, values = images.pixels[start:stop], images.values[start:stop]
        input_spikes[i] = sample_currents(pixels, values, np.uint32(n), key, encoding, steps, rows, scratch)
        for block in range(blocks):
            current = scratch.current[block * (scratch.current.shape[0] // blocks) :]
            lif_forward(current, steps, neuron, readout_steps, fired)
            for m in range(readout_steps.shape[0]):
                for c in range(block * ROW, min((block + 1) * ROW, counts.shape[2])):
                    counts[i, m, c] = fired[m * ROW + c - block * ROW]


def new_rows(outputs: int, pixels: int) -> np.ndarray:
    """Return zeros for a matrix [C, P] as rows of 16 neurons: [blocks * (P + 1) * 16], in a block one row a pixel.

    The last row of a block stays 0, for silent pixels.
    """
    rows = simd.aligned_array((outputs + ROW - 1) // ROW * (pixels + 1) * ROW, np.float32)
    rows[:] = 0
    return rows


def copy_to_rows(matrix: Tensor, rows: np.ndarray) -> None:
    """Write a matrix [C, P] into its rows."""
    _, pixels = matrix.shape
    for block, part in enumerate(matrix.detach().split(ROW)):
        rows.reshape(-1, pixels + 1, ROW)[block, :pixels, : len(part)] = part.numpy().T


def copy_from_rows(rows: np.ndarray, matrix: Tensor) -> None:
    """Invert copy_to_rows."""
    _, pixels = matrix.shape
    for block, part in enumerate(matrix.detach().split(ROW)):
        part.numpy()[:] = rows.reshape(-1, pixels + 1, ROW)[block, :pixels, : len(part)].T


def input_coefficients(spec: NeuronSpec, encoding: str, dropout: float = 0.0) -> Coefficients:
    """Return the neuron's numbers; its gain takes in by how much an input is larger than what the kernels count."""
    numbers = coefficients(spec)
    factor = (1 / 255 if encoding == "constant" else 1.0) / (1 - dropout)
    return numbers._replace(gain=np.float32(float(numbers.gain) * factor))


def firing_counts(
    weight: Tensor, active: ActivePixels, index: Tensor, readout_steps: list[int], key: SpikeKey, spec: NeuronSpec,
    precision: torch.dtype = torch.float32, encoding: str = "poisson",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Forward pass alone, memory independent of the batch: output spikes in the first readout_steps[m] steps [N, M, C]
    float32 (readout_steps ascend) and the number of input spikes [N] int64. precision: the weights are rounded to this
    type."""
    rows = new_rows(*weight.shape)
    copy_to_rows(weight.to(precision).to(torch.float32), rows)
    counts = torch.empty(len(index), len(readout_steps), len(weight))
    input_spikes = torch.empty(len(index), dtype=torch.int64)
    on_threads(
        count_spikes, active, index.numpy(), rows, key_words(key), ENCODINGS[encoding],
        input_coefficients(spec, encoding), np.asarray(readout_steps, np.int64), counts.numpy(), input_spikes.numpy(),
        workers=max(1, min(get_threads(), len(index))),
    )  # fmt: skip
    return counts, input_spikes
