"""Many training steps in one compiled call on the CPU: encode, layer, LIF over T, loss, gradient, optimiser.

The gradient of the loss at a sample needs the rates of that sample alone (see _compare). So a sample adds dL/drate
E (see fused.py) to the sum of its group at once, and no E is kept. Weights, sums and the optimiser's state are rows of
sixteen floats, in each block of neurons one row a pixel, from the first step to the last.

A step has two parts, after each of which the threads wait for each other: samples, then strips of pixels, where the
groups' sums are added and the optimiser steps. The order of a sum depends on the batch size alone: samples in order
within their group, groups as a binary tree. A worker adds those pairs of groups that are all its own, the strips the
rest: with two workers that is one pair, so little moves from core to core.

The optimiser computes as torch.optim does:

    Adam:  m = m + (1 - b1) (g - m)          SGD:  m = momentum m + g
           v = b2 v + (1 - b2) g g                 w = w - lr m
           w = w - (lr / c1) m / (sqrt(v) / sqrt(c2) + eps),    c1 = 1 - b1^n, c2 = 1 - b2^n at step n

    average = average + (1 - decay) (w - average)

Numbers of a step are computed in float64 and rounded once. Every operation on weights is rounded by itself (no fused
multiply-add), and none depends on the width of the processor's vectors, so every processor computes the same bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from snn_mnist.kernels.cpu import simd
from snn_mnist.kernels.cpu.fused import (
    ROW,
    add_gradient,
    count_spikes,
    lif_backward,
    lif_forward,
    new_scratch,
    sample_currents,
)
from snn_mnist.kernels.cpu.jit import expect, helper, kernel
from snn_mnist.kernels.cpu.spikes import kept_pixels
from snn_mnist.kernels.spikes import SpikeKey

MOST_GROUPS, MOST_SUMS = 32, 64  # sums: of groups and blocks
SGD, ADAM = 0, 1


class Batches(NamedTuple):
    """The batches of an epoch."""

    size: int
    order: np.ndarray  # [steps * size] int64, indices of images
    targets: np.ndarray  # [N, C] float32, of all images
    rates: np.ndarray  # [steps * size, C] float32 receives the rates of each batch, with the weights it met
    votes: int  # neurons per class, whose mean rate is the rate of the class
    scale: float  # the loss is the cross-entropy of scale times the rates; 0: the squared error


class Encoding(NamedTuple):
    """How pixels become input."""

    kind: int  # of fused.ENCODINGS
    key: SpikeKey  # of the spikes
    silent_below: int  # limit of `kept_pixels`, 0: no dropout
    dropout_key: SpikeKey


class Rows(NamedTuple):
    """What a step changes, in rows [blocks * (P + 1) * 16] float32, the last one of each block 0."""

    weights: np.ndarray
    used: np.ndarray  # the weights themselves, or those rounded to bfloat16
    moment: np.ndarray
    square: np.ndarray
    average: np.ndarray  # or []
    sums: np.ndarray  # of gradients, [groups * blocks * (P + 1) * 16]


class Update(NamedTuple):
    """The optimiser's settings for the steps of an epoch."""

    kind: int  # ADAM or SGD
    settings: np.ndarray  # [3] float64: Adam b1, b2, eps; SGD momentum
    learning_rates: np.ndarray  # [steps] float64
    fresh: np.ndarray  # [steps] float64, 1 - decay of the average, or []
    done: int  # steps before the first one of the epoch


def groups_of(batch: int, blocks: int) -> int:
    """Return the number of groups of samples whose gradients are summed apart: a power of two, of eight and more.

    Fewer for many blocks of neurons, whose sums would not fit into the cache.
    """
    return 1 << max(0, min(batch // 8, MOST_GROUPS, max(MOST_SUMS // blocks, 2)).bit_length() - 1)


# ---- gradient ------------------------------------------------------------------------------------------------------


@helper
def _owner(group, groups, workers):  # type: ignore[no-untyped-def]
    """Return the worker w whose groups w groups // workers .. (w + 1) groups // workers - 1 include this one."""
    return ((group + 1) * workers - 1) // groups


@helper
def _add_pairs(groups, workers, worker, first, last, sums):  # type: ignore[no-untyped-def]
    """The tree of sums over groups on the places first .. last - 1 of their rows: those pairs whose groups all belong
    to this worker, or, for worker -1, those of several workers. The sum of all ends in the rows of group 0."""
    length = sums.shape[0] // groups
    half = 1
    while half < groups:
        for a in range(0, groups, 2 * half):
            owner = _owner(a, groups, workers)
            if owner != _owner(a + 2 * half - 1, groups, workers):
                owner = -1
            if owner == worker:
                for at in range(a * length + first, a * length + last, ROW):
                    simd.store(sums, at, simd.add(simd.load(sums, at), simd.load(sums, at + half * length)))
        half *= 2


@helper
def _prefetch_image(n, images):  # type: ignore[no-untyped-def]
    """Active pixels lie in any order of images in tens of megabytes: waiting for them took 2 µs per image."""
    start, stop = images.offsets[n], images.offsets[n + 1]
    for j in range(start, stop + 32, 32):
        simd.prefetch(images.pixels, j)
    for j in range(start, stop + 64, 64):
        simd.prefetch(images.values, j)


@helper
def _compare(i, n, batches, steps, fired, delta):  # type: ignore[no-untyped-def]
    """Write the rates of image n at place i of the order, from the spike counts of its neurons, and dL/drate of each.

    squared error  2 (rate - target) / (B C votes)
    cross-entropy  scale (softmax(scale rate) - target) / (B votes)
    """
    outputs, votes, rates = batches.targets.shape[1], batches.votes, batches.rates
    factor, largest, total = np.float32(2.0 / (batches.size * outputs * votes)), np.float32(0), 0.0
    for c in range(outputs):
        count = np.float32(0)
        for at in range(c * votes, (c + 1) * votes):
            count += fired[at]
        rates[i, c] = count / np.float32(steps * votes)
        largest = max(largest, rates[i, c])
    if batches.scale > 0:
        factor = np.float32(batches.scale / (batches.size * votes))
        for c in range(outputs):
            total += math.exp(batches.scale * (rates[i, c] - largest))
    for c in range(outputs):
        output = rates[i, c]
        if batches.scale > 0:
            output = np.float32(math.exp(batches.scale * (rates[i, c] - largest)) / total)
        for at in range(c * votes, (c + 1) * votes):
            delta[at] = factor * (output - batches.targets[n, c])


@helper
def _learn_samples(first, last, images, batches, steps, encoding, neuron, gradient, rows, sums, scratch, small):  # type: ignore[no-untyped-def]
    """Write the rates of the images order[first : last]; set sums [blocks * (P + 1) * 16] to the sum of their dL/dW."""
    outputs, blocks = batches.targets.shape[1], small.shape[0] // (2 * ROW)
    length, size = sums.shape[0] // blocks, scratch.current.shape[0] // blocks
    fired, delta = small[: blocks * ROW], small[blocks * ROW :]
    readout_steps = np.full(1, steps, np.int64)
    sums[:] = 0
    for i in range(first, last):
        n = batches.order[i]
        if i + 2 < batches.order.shape[0]:
            _prefetch_image(batches.order[i + 1], images)
            simd.prefetch(images.offsets, batches.order[i + 2])
            simd.prefetch(batches.targets, batches.order[i + 2] * outputs)
        start, stop = images.offsets[n], images.offsets[n + 1]
        pixels, values = images.pixels[start:stop], images.values[start:stop]
        if encoding.silent_below != 0:
            key, limit = encoding.dropout_key, encoding.silent_below
            pixels, values = kept_pixels(
                pixels, values, np.uint32(n), key, limit, scratch.spikes, scratch.pixels, scratch.values
            )
        sample_currents(pixels, values, np.uint32(n), encoding.key, encoding.kind, steps, rows.used, scratch)
        for block in range(blocks):
            lif_forward(scratch.current[block * size :], steps, neuron, readout_steps, fired[block * ROW :])
        _compare(i, n, batches, steps, fired, delta)
        for block in range(blocks):
            current = scratch.current[block * size : (block + 1) * size]
            simd.call_elementwise(gradient, current, scratch.factor, steps * ROW)
            lif_backward(current, scratch.factor, steps, neuron)
            at = block * length
            add_gradient(
                pixels, values, encoding.kind, steps, simd.load(delta, block * ROW), sums[at : at + length], scratch
            )


# ---- optimiser -----------------------------------------------------------------------------------------------------


@helper
def step_numbers(update, step):  # type: ignore[no-untyped-def]
    """Return the float32 numbers of a step: Adam 1 - b1, b2, 1 - b2, lr / c1, sqrt(c2), eps; SGD momentum, lr."""
    learning_rate, settings = update.learning_rates[step], update.settings
    if update.kind == ADAM:
        n = update.done + step + 1
        b1, b2, eps = settings[0], settings[1], settings[2]
        rate = learning_rate / (1.0 - b1**n)  # numba multiplies here, which is the same on every machine
        root = np.sqrt(1.0 - b2**n)
        return (
            np.float32(1.0 - b1), np.float32(b2), np.float32(1.0 - b2),
            np.float32(rate), np.float32(root), np.float32(eps),
        )  # fmt: skip
    zero = np.float32(0)
    return np.float32(settings[0]), np.float32(learning_rate), zero, zero, zero, zero


@helper
def update_rows(kind, numbers, first, last, rows):  # type: ignore[no-untyped-def]
    """Update weights[first : last], multiples of 16, by the gradient at the same places of sums."""
    if kind == ADAM:
        fresh_m, keep_v, fresh_v = simd.splat(numbers[0]), simd.splat(numbers[1]), simd.splat(numbers[2])
        rate, root, eps = simd.splat(numbers[3]), simd.splat(numbers[4]), simd.splat(numbers[5])
        for at in range(first, last, simd.LANES):
            g, m, v = simd.load(rows.sums, at), simd.load(rows.moment, at), simd.load(rows.square, at)
            m = simd.add(m, simd.mul(fresh_m, simd.sub(g, m)))
            v = simd.add(simd.mul(keep_v, v), simd.mul(fresh_v, simd.mul(g, g)))
            scale = simd.add(simd.div(simd.sqrt(v), root), eps)
            step = simd.div(simd.mul(rate, m), scale)
            simd.store(rows.moment, at, m)
            simd.store(rows.square, at, v)
            simd.store(rows.weights, at, simd.sub(simd.load(rows.weights, at), step))
    else:
        momentum, rate = simd.splat(numbers[0]), simd.splat(numbers[1])
        for at in range(first, last, simd.LANES):
            m = simd.add(simd.mul(momentum, simd.load(rows.moment, at)), simd.load(rows.sums, at))
            simd.store(rows.moment, at, m)
            simd.store(rows.weights, at, simd.sub(simd.load(rows.weights, at), simd.mul(rate, m)))


@helper
def average_rows(fresh, first, last, weights, average):  # type: ignore[no-untyped-def]
    """average = lerp(average, weights, fresh), from the nearer end as torch's lerp does."""
    near = abs(fresh) < 0.5
    share = simd.splat(np.float32(fresh) if near else np.float32(1) - np.float32(fresh))
    for at in range(first, last, simd.LANES):
        a, w = simd.load(average, at), simd.load(weights, at)
        way = simd.mul(share, simd.sub(w, a))
        simd.store(average, at, simd.add(a, way) if near else simd.sub(w, way))


@helper
def round_to_bfloat16(first, last, weights, rounded):  # type: ignore[no-untyped-def]
    """rounded[first : last] = the weights rounded to bfloat16, ties to even; not-a-numbers stay."""
    source, target = weights.view(np.uint32), rounded.view(np.uint32)
    for i in range(first, last):
        b = source[i]
        even = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        nan = (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        target[i] = b if nan else even


# ---- steps ---------------------------------------------------------------------------------------------------------


@kernel("the training steps", seconds=3.5)
def train_steps(team, first, last, images, batches, steps, encoding, neuron, gradient, rows, update):  # type: ignore[no-untyped-def]
    """Training steps first .. last - 1 of an epoch, each over T = steps; gradient: the address of g over an array."""
    worker, workers, groups = team.worker, team.workers, rows.sums.shape[0] // rows.weights.shape[0]
    length = rows.weights.shape[0]
    low, high = worker * (length // ROW) // workers * ROW, (worker + 1) * (length // ROW) // workers * ROW
    rounded = rows.used.ctypes.data != rows.weights.ctypes.data
    blocks = (batches.targets.shape[1] * batches.votes + ROW - 1) // ROW
    scratch = new_scratch(length // (blocks * ROW) - 1, blocks, steps, True)
    small = simd.aligned(2 * blocks * ROW, np.float32)  # spike counts; dL/drate, 0 beyond the neurons
    small[:] = 0
    if rounded:
        round_to_bfloat16(low, high, rows.weights, rows.used)
        simd.wait_for_all(team)
    for step in range(first, last):
        for group in range(worker * groups // workers, (worker + 1) * groups // workers):
            begin, end = group * batches.size // groups, (group + 1) * batches.size // groups
            at = step * batches.size
            sums = rows.sums[group * length : (group + 1) * length]
            _learn_samples(
                at + begin, at + end, images, batches, steps, encoding, neuron, gradient, rows, sums, scratch, small
            )
        _add_pairs(groups, workers, worker, 0, length, rows.sums)
        simd.wait_for_all(team)
        _add_pairs(groups, workers, -1, low, high, rows.sums)
        update_rows(update.kind, step_numbers(update, step), low, high, rows)
        if rows.average.shape[0] != 0:
            average_rows(update.fresh[step], low, high, rows.weights, rows.average)
        if rounded:
            round_to_bfloat16(low, high, rows.weights, rows.used)
        simd.wait_for_all(team)


expect(count_spikes, train_steps)  # which a run compiles in this order, if it has to
