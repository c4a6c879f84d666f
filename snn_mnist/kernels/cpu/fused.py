"""One pass of an image through the network on the CPU: forward, and what its backward pass consists of.

For each sample: spikes as bits, the linear layer, LIF over T, and, when training, the loss-independent factor of the
backward pass. Nothing of size [T, N] is kept, only the rows of the sample that a thread is at. It rests on this:

    the readout is a mean over T, so dL/dS[t] = dL/drate / T is the same at every step, and the backward recurrence
        dH[t] = dS g(x[t]) + dV/dH[t] (1 - 1/tau) dH[t+1],      x = H - V_threshold
    is linear in it. With dS = 1/T it gives F[t] = dX[t], and
        E[p, c] = sum_t S[p, t] F[t, c],        dL/dW[c, p] = sum_n dL/drate[n, c] E_n[p, c]
    so the backward pass is one small contraction of [active pixels, 16] tables.

A vector holds sixteen neurons; more neurons are several blocks of sixteen, which share the spikes of the sample. The
currents X and the table E of each encoding, for a pixel p of value k:

    poisson   products.py
    constant  X[t] = sum_p k_p W_p / 255     E[p] = k_p sum_t F[t] / 255     the gain of the neuron contains 1/255
    latency   X[t] = sum of W_p of those p that fire at t                     E[p] = F[step at which p fires]
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels.cpu import simd
from snn_mnist.kernels.cpu.jit import get_threads, helper, inlined_helper, kernel, on_threads, why_unavailable
from snn_mnist.kernels.cpu.products import ROW, TABLE, currents, eligibility_row, step_sums
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

POISSON, CONSTANT, LATENCY = range(3)
ENCODINGS = {"poisson": POISSON, "constant": CONSTANT, "latency": LATENCY}


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
def _fixed_currents(pixels, values, encoding, steps, rows, current):  # type: ignore[no-untyped-def]
    """current[t] = X[t] of a block of neurons for an encoding without random numbers; constant: 255 X[t]."""
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
            _fixed_currents(pixels, values, encoding, steps, block_rows, current)
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
            currents(pixels, block_rows, scratch.words, scratch.sums, count, scratch.current[at:])
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
