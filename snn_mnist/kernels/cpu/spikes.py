"""The spikes of ../spikes.py on the CPU by numba: as floats, or as the bits that the fused pass reads."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels import philox
from snn_mnist.kernels.cpu import simd
from snn_mnist.kernels.cpu.jit import kernel
from snn_mnist.kernels.spikes import BLOCK, DIGITS, TIE, SpikeKey

SPAN = 128  # steps worked on at once: two 64-bit words of spikes a pixel
TIES = 1024  # ties are resolved in groups of at least this many

philox_words = numba.njit(philox.philox)


class ActivePixels(NamedTuple):
    """The non-zero pixels of a data set, image after image, in ascending order, made once for all epochs."""

    offsets: np.ndarray  # [N + 1] int64, where each image begins
    pixels: np.ndarray  # [offsets[-1]] uint16
    values: np.ndarray  # [offsets[-1]] uint8
    most: int  # of any one image


@kernel()
def _list_active(images, offsets, pixels, values):  # type: ignore[no-untyped-def]
    j = 0
    for n in range(images.shape[0]):
        offsets[n] = j
        for p in range(images.shape[1]):
            if images[n, p] != 0:
                pixels[j], values[j] = p, images[n, p]
                j += 1
    offsets[-1] = j


def active_pixels(images: Tensor) -> ActivePixels:
    """Lists the non-zero pixels of images [N, P] uint8 on the CPU, P <= 65536."""
    count = int(images.count_nonzero())
    offsets = np.empty(len(images) + 1, np.int64)
    pixels, values = np.empty(count, np.uint16), np.empty(count, np.uint8)
    _list_active(images.contiguous().numpy(), offsets, pixels, values)
    return ActivePixels(offsets, pixels, values, int(np.diff(offsets).max(initial=0)))


@numba.njit
def scratch(pixels):  # type: ignore[no-untyped-def]
    """Work space of `spike_masks` for images with at most this many active pixels."""
    lanes = pixels * (SPAN // BLOCK) + 16
    steps = simd.aligned(lanes, np.uint32)
    sites = simd.aligned(lanes, np.uint32)
    random = simd.aligned(lanes * 16 + SPAN, np.uint8)
    ties = np.empty((3, TIES + SPAN + 8), np.uint32)
    words = np.empty((TIES + SPAN + 8) * 4, np.uint32)
    return steps, sites, random, ties, words


@numba.njit
def _later_digits_less(words, first, counter, key, digits):  # type: ignore[no-untyped-def]
    """Compares the digits after the first word's; draws further attempts in the 2**-128 case that four words tie."""
    for w in range(1, 4):
        word = np.int64(words[first + w])
        if word != digits:
            return word < digits
    step, pixel, image, epoch = counter
    attempt = 1
    while True:
        for word in philox_words((step, pixel | (attempt << 16), image, epoch), key):
            if word != digits:
                return word < digits
        attempt += 1


@numba.njit
def _resolve_ties(count, work, image, epoch, seed, stream, values, start, masks, nibbles):  # type: ignore[no-untyped-def]
    _, _, _, ties, words = work
    for i in range(count, (count + 7) // 8 * 8):
        ties[0, i], ties[1, i] = 0, 0
    for i in range(0, count, 8):
        simd.philox8(words, 4 * i, ties[0], ties[1], i, image, epoch, seed, stream)
    for i in range(count):
        j = np.int64(ties[2, i])
        digits, word = np.int64(values[j]) * DIGITS, np.int64(words[4 * i])
        fires = word < digits
        if word == digits:  # once in 2**32
            counter = np.int64(ties[0, i]), np.int64(ties[1, i]), np.int64(image), np.int64(epoch)
            fires = _later_digits_less(words, 4 * i, counter, (np.int64(seed), np.int64(stream)), digits)
        t = np.int64(ties[0, i]) - TIE - start
        masks[j, t >> 6] |= np.uint64(fires) << np.uint64(t & 63)  # no branch, which would be mispredicted
        nibbles[(j >> 2) * SPAN + t] |= np.uint8(np.uint64(fires) << np.uint64(4 + (j & 3)))


@numba.njit
def padded_nibbles(active):  # type: ignore[no-untyped-def]
    """Bytes of the nibbles of this many pixels: by eights of groups of four, those added at the end silent."""
    return (active + 31) // 32 * 8 * SPAN


@numba.njit
def first_bits(count):  # type: ignore[no-untyped-def]
    """A word with the lowest `count` bits set, none for a negative count, all from 64 on."""
    if count <= 0:
        return np.uint64(0)
    return ~np.uint64(0) >> np.uint64(64 - min(count, 64))


@numba.njit
def spike_masks(pixels, values, image, epoch, seed, stream, start, steps, masks, nibbles, work):  # type: ignore[no-untyped-def]
    """Spikes of one image's active pixels for steps start .. start + steps - 1, in two forms:

    masks [active, 2] uint64         bit t of pixel j in masks[j, t // 64]
    nibbles [padded_nibbles] uint8   pixels 4g .. 4g + 3 at step t are bits 4 .. 7 of nibbles[128 g + t]

    start is a multiple of 16, steps at most 128 (the nibbles of later steps are undefined); image, epoch, seed and
    stream are uint32.
    """
    lane_step, lane_pixel, random, ties, _ = work
    active = pixels.shape[0]
    blocks = (steps + BLOCK - 1) // BLOCK
    lanes = 0
    for j in range(active):
        if values[j] != 255:
            simd.store_lanes(lane_step, lanes, np.uint32(start // BLOCK), np.uint32(1))
            simd.store_lanes(lane_pixel, lanes, np.uint32(pixels[j]), np.uint32(0))
            lanes += blocks  # at most 8; what was written beyond is overwritten
    for lane in range(lanes, (lanes + 7) // 8 * 8):
        lane_step[lane], lane_pixel[lane] = 0, 0
    for lane in range(0, lanes, 8):
        simd.philox8(random, 16 * lane, lane_step, lane_pixel, lane, image, epoch, seed, stream)

    valid_0, valid_1 = first_bits(steps), first_bits(steps - 64)
    nibbles[: padded_nibbles(active)] = 0
    undecided, owner = lane_step.view(np.uint64), lane_pixel  # the lanes are no longer needed
    position, words, often = 0, 0, steps > 2 * BLOCK
    for j in range(active):
        row, flag = (j >> 2) * SPAN, np.uint8(16 << (j & 3))
        if values[j] == 255:
            masks[j, 0], masks[j, 1] = valid_0, valid_1
            for t in range(steps):
                nibbles[row + t] |= flag
            continue
        masks[j, 1] = 0
        for w in range((steps + 63) // 64):
            valid = valid_1 if w else valid_0
            less, equal = simd.compare_bytes(random, position + 64 * w, values[j], nibbles, row + 64 * w, flag)
            masks[j, w] = less & valid
            equal &= valid
            if often or equal != 0:  # where ties are frequent, a branch on them is mispredicted
                undecided[words], owner[words] = equal, 2 * j + w
                words += 1 if equal != 0 else 0
        position += 16 * blocks

    tied = 0
    for i in range(words):
        equal, pixel = undecided[i], np.int64(owner[i] >> np.uint32(1))
        first = start + 64 * np.int64(owner[i] & np.uint32(1))
        while equal != 0:
            ties[0, tied] = np.uint32(TIE | (first + simd.trailing_zeros(equal)))
            ties[1, tied], ties[2, tied] = np.uint32(pixels[pixel]), np.uint32(pixel)
            tied += 1
            equal &= equal - np.uint64(1)
        if tied >= TIES:
            _resolve_ties(tied, work, image, epoch, seed, stream, values, start, masks, nibbles)
            tied = 0
    _resolve_ties(tied, work, image, epoch, seed, stream, values, start, masks, nibbles)


@kernel(parallel=True, what="the spikes", seconds=5)
def _encode(images, index, start, epoch, seed, stream, out):  # type: ignore[no-untyped-def]
    steps, batch = out.shape[:2]
    for i in numba.prange(batch):
        pixels = np.flatnonzero(images[i]).astype(np.uint16)
        values = images[i][pixels]
        active = pixels.shape[0]
        masks = np.empty((active, 2), np.uint64)
        nibbles = simd.aligned(padded_nibbles(active), np.uint8)
        work = scratch(active)
        for first in range(0, steps, SPAN):
            count = min(SPAN, steps - first)
            n = np.uint32(index[i])
            spike_masks(pixels, values, n, epoch, seed, stream, start + first, count, masks, nibbles, work)
            for t in range(count):
                row = out[first + t, i]
                row[:] = 0
                for j in range(active):
                    row[pixels[j]] = np.float32((masks[j, t >> 6] >> np.uint64(t & 63)) & np.uint64(1))


def encode(images: Tensor, index: Tensor, start: int, stop: int, spike_key: SpikeKey) -> Tensor:
    """What `spikes.encode` gives for images on the CPU, many times faster."""
    out = torch.empty(stop - start, *images.shape)
    words = (np.uint32(w) for w in (spike_key.epoch, spike_key.seed, spike_key.stream))
    _encode(images.contiguous().numpy(), index.long().numpy(), start, *words, out.numpy())
    return out
