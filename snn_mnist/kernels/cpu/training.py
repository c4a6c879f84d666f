"""Many training steps in one compiled call on the CPU: encode, layer, LIF over T, loss, gradient, optimiser.

The gradient of the mean squared error at a sample needs the rates of that sample alone, dL/drate = 2 (rate - target) /
(B C). So a sample adds dL/drate E (see fused.py) to the sum of its group at once, and no E is kept. Weights, sums and
the optimiser's state are rows of sixteen floats, one row a pixel, from the first step to the last.

Two parallel regions a step, each over workers: samples, then strips of pixels, where the groups' sums are added and
the optimiser steps. The order of a sum depends on the batch size alone: samples in order within their group, groups
as a binary tree. A worker adds those pairs of groups that are all its own, the strips the rest: with two workers that
is one pair, so little moves from core to core.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from snn_mnist.kernels.cpu import simd
from snn_mnist.kernels.cpu.fused import (
    ROW,
    TABLE,
    eligibility_row,
    lif_backward,
    lif_forward,
    pack,
    sample_currents,
    step_sums,
)
from snn_mnist.kernels.cpu.jit import kernel
from snn_mnist.kernels.cpu.optimizer import average_rows, round_to_bfloat16, step_numbers, update_rows
from snn_mnist.kernels.cpu.spikes import SPAN, TIES
from snn_mnist.kernels.spikes import BLOCK

MOST_GROUPS = 32


def groups_of(batch: int) -> int:
    """Groups of samples whose gradients are summed apart, a power of two: of eight samples and more."""
    return 1 << max(0, min(batch // 8, MOST_GROUPS).bit_length() - 1)


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that begin at a cache line."""
    size = np.dtype(dtype).itemsize
    room = np.zeros(int(np.prod(shape)) + 64 // size, dtype)
    skip = -room.ctypes.data % 64 // size
    return room[skip : skip + int(np.prod(shape))].reshape(shape)


class Room(NamedTuple):
    """Scratch memory, the first axis is the worker's."""

    masks: np.ndarray  # [workers, spans, P, 2] uint64
    nibbles: np.ndarray  # [workers, groups of 4 pixels * SPAN] uint8
    words: np.ndarray  # the same memory as uint64
    sums: np.ndarray  # [workers, tables * TABLE] float32
    current: np.ndarray  # [workers, T * ROW]
    factor: np.ndarray  # [workers, T * ROW]
    small: np.ndarray  # [workers, 2 * ROW]: spike counts, dL/drate
    lane_step: np.ndarray  # and what else spike_masks needs
    lane_pixel: np.ndarray
    random: np.ndarray
    ties: np.ndarray
    tie_words: np.ndarray


def new_room(workers: int, pixels: int, steps: int) -> Room:
    """Scratch memory for images of this many pixels over T = steps."""
    padded = (steps + 15) // 16 * 16
    spans = (steps + SPAN - 1) // SPAN
    nibbles = aligned((workers, (pixels + 31) // 32 * 8 * SPAN), np.uint8)
    lanes = (pixels * (SPAN // BLOCK) + 31) // 16 * 16
    ties = (TIES + SPAN + 23) // 16 * 16
    return Room(
        aligned((workers, spans, (pixels + 3) // 4 * 4, 2), np.uint64),
        nibbles,
        nibbles.view(np.uint64),
        aligned((workers, max(8, padded // 4) * TABLE), np.float32),
        aligned((workers, padded * ROW), np.float32),
        aligned((workers, padded * ROW), np.float32),
        aligned((workers, 2 * ROW), np.float32),
        aligned((workers, lanes), np.uint32),
        aligned((workers, lanes), np.uint32),
        aligned((workers, lanes * 16 + SPAN), np.uint8),
        aligned((workers, 3, ties), np.uint32),
        aligned((workers, 4 * ties), np.uint32),
    )


@numba.njit
def _owner(group, groups, workers):  # type: ignore[no-untyped-def]
    """The worker w whose groups w groups // workers .. (w + 1) groups // workers - 1 include this one."""
    return ((group + 1) * workers - 1) // groups


@numba.njit
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


@numba.njit(error_model="numpy")
def _upstream(fired, steps, target, scale, rate, upstream):  # type: ignore[no-untyped-def]
    """rate = fired / T, upstream = dL/drate; upstream is 0 beyond the outputs."""
    for c in range(target.shape[0]):
        rate[c] = fired[c] / np.float32(steps)
        upstream[c] = scale * (rate[c] - target[c])


@numba.njit
def _prefetch_image(n, offsets, pixels, values):  # type: ignore[no-untyped-def]
    """Active pixels lie in any order of images in tens of megabytes: 2 us an image to wait for."""
    start, stop = offsets[n], offsets[n + 1]
    for j in range(start, stop + 32, 32):
        simd.prefetch(pixels, j)
    for j in range(start, stop + 64, 64):
        simd.prefetch(values, j)


@numba.njit
def _learn_sample(pixels, values, image, key, steps, neuron, gradient, readout_steps, target, scale, used, room, rate,
                  sums):  # type: ignore[no-untyped-def]  # fmt: skip
    """The firing rates of one image [C], and dL/dW of it added to sums [P * 16]."""
    masks, nibbles, words, tables, current, factor, small, lane_step, lane_pixel, random, ties, tie_words = room
    work = lane_step, lane_pixel, random, ties, tie_words
    sample_currents(pixels, values, image, key, steps, True, used, (masks, nibbles, words, tables, current, work))
    lif_forward(current, steps, neuron, readout_steps, small)
    _upstream(small, steps, target, scale, rate, small[ROW:])
    simd.call_elementwise(gradient, current, factor, steps * ROW)
    lif_backward(current, factor, steps, neuron)
    step_sums(factor, steps, tables)
    delta = simd.load(small, ROW)
    blocks = (steps + 15) // 16
    for j in range(pixels.shape[0]):
        at = np.int64(pixels[j]) * ROW
        simd.store(sums, at, simd.fma(eligibility_row(masks, j, blocks, tables), delta, simd.load(sums, at)))


@kernel(parallel=True, what="the training steps", seconds=10)
def train_steps(offsets, all_pixels, all_values, order, targets, first, last, batch, steps, epoch, seed, stream, neuron,
                gradient, rates, weights, used, moment, square, average, kind, settings, done, learning_rates, fresh,
                groups, sums, room, workers):  # type: ignore[no-untyped-def]  # fmt: skip
    """Steps first .. last - 1 of an epoch.

    order [steps * batch] int64 images; targets [N, C]; rates [steps * batch, C] receives each batch's rates with the
    weights it met; weights, used, moment, square [(P + 1) * 16], whose last row is 0, average the same or []: rows.
    used: the weights themselves, or room for them rounded to bfloat16. kind, settings, done: see optimizer.py.
    """
    length = sums.shape[0] // groups
    key = epoch, seed, stream
    scale = np.float32(2.0 / (batch * targets.shape[1]))
    readout_steps = np.full(1, steps, np.int64)
    rounded = used.ctypes.data != weights.ctypes.data
    bits = used.view(np.uint32)
    if rounded:
        round_to_bfloat16(0, length, weights, bits)
    masks, nibbles, words, tables, current, factor, small, lane_step, lane_pixel, random, ties, tie_words = room
    for step in range(first, last):
        for worker in numba.prange(workers):
            own = (
                masks[worker], nibbles[worker], words[worker], tables[worker], current[worker], factor[worker],
                small[worker], lane_step[worker], lane_pixel[worker], random[worker], ties[worker], tie_words[worker],
            )  # fmt: skip
            for group in range(worker * groups // workers, (worker + 1) * groups // workers):
                rows = sums[group * length : (group + 1) * length]
                rows[:] = 0
                begin = step * batch
                for i in range(begin + group * batch // groups, begin + (group + 1) * batch // groups):
                    n = order[i]
                    if i + 2 < order.shape[0]:
                        _prefetch_image(order[i + 1], offsets, all_pixels, all_values)
                        simd.prefetch(offsets, order[i + 2])
                        simd.prefetch(targets, order[i + 2] * targets.shape[1])
                    start, stop = offsets[n], offsets[n + 1]
                    _learn_sample(
                        all_pixels[start:stop], all_values[start:stop], np.uint32(n), key, steps, neuron, gradient,
                        readout_steps, targets[n], scale, used, own, rates[i], rows,
                    )  # fmt: skip
            _add_pairs(groups, workers, worker, 0, length, sums)
        numbers = step_numbers(kind, settings, learning_rates[step], done + step - first)
        for worker in numba.prange(workers):
            pixels = length // ROW
            low, high = worker * pixels // workers * ROW, (worker + 1) * pixels // workers * ROW
            _add_pairs(groups, workers, -1, low, high, sums)
            update_rows(kind, numbers, low, high, sums, weights, moment, square)
            if average.shape[0] != 0:
                average_rows(fresh[step], low, high, weights, average)
            if rounded:
                round_to_bfloat16(low, high, weights, bits)


@kernel()
def to_rows(matrix, rows):  # type: ignore[no-untyped-def]
    """matrix [C, P] -> rows [P * 16 …], whose other lanes stay as they are."""
    pack(matrix, rows)


@kernel()
def from_rows(rows, matrix):  # type: ignore[no-untyped-def]
    """The inverse of to_rows."""
    for c in range(matrix.shape[0]):
        for p in range(matrix.shape[1]):
            matrix[c, p] = rows[p * ROW + c]
