"""The spikes of ../spikes.py on the CPU by numba: as floats, or as the bits that the fused pass reads."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels.cpu import simd
from snn_mnist.kernels.cpu.jit import helper, kernel, on_threads
from snn_mnist.kernels.spikes import BLOCK, DIGITS, TIE, SpikeKey, philox
from snn_mnist.kernels.spikes import latency_step as latency_step_of

SPAN = 128  # steps worked on at once: two 64-bit words of spikes a pixel
TIES = 1024  # ties are resolved in groups of at least this many

philox_words = numba.njit(philox)
latency_step = helper(latency_step_of)


class ActivePixels(NamedTuple):
    """The non-zero pixels of a data set, image after image, in ascending order, made once for all epochs."""

    offsets: np.ndarray  # [N + 1] int64, where each image begins
    pixels: np.ndarray  # [offsets[-1]] uint16
    values: np.ndarray  # [offsets[-1]] uint8


@kernel()
def _list_active(team, images, offsets, pixels, values):  # type: ignore[no-untyped-def]
    """Without pixels: offsets[n + 1] = the number of active pixels of image n. Else lists them from offsets[n] on."""
    for n in range(len(images) * team.worker // team.workers, len(images) * (team.worker + 1) // team.workers):
        image = images[n]
        if pixels.shape[0] == 0:
            offsets[n + 1] = (image != 0).sum()
            continue
        j, stop, p = offsets[n], offsets[n + 1], 0
        while j < stop:
            pixels[j], values[j] = p, image[p]  # no branch, which would be mispredicted: a silent pixel is overwritten
            j += image[p] != 0
            p += 1


def active_pixels(images: Tensor) -> ActivePixels:
    """List the non-zero pixels of images [N, P] uint8 on the CPU, P <= 65536."""
    array, offsets = images.contiguous().numpy(), np.zeros(len(images) + 1, np.int64)
    lists = np.empty(0, np.uint16), np.empty(0, np.uint8)
    on_threads(_list_active, array, offsets, *lists)
    np.cumsum(offsets, out=offsets)
    lists = np.empty(offsets[-1], np.uint16), np.empty(offsets[-1], np.uint8)
    on_threads(_list_active, array, offsets, *lists)
    return ActivePixels(offsets, *lists)


@helper
def scratch(pixels):  # type: ignore[no-untyped-def]
    """Work space of `spike_masks` for images with at most this many active pixels."""
    lanes = pixels * (SPAN // BLOCK) + 16
    steps = simd.aligned(lanes, np.uint32)
    sites = simd.aligned(lanes, np.uint32)
    random = simd.aligned(lanes * 16 + SPAN, np.uint8)
    ties = np.empty((3, TIES + SPAN + 8), np.uint32)
    words = np.empty((TIES + SPAN + 8) * 4, np.uint32)
    return steps, sites, random, ties, words


@helper
def kept_pixels(pixels, values, image, key, limit, work, kept, kept_values):  # type: ignore[no-untyped-def]
    """Return those of an image's active pixels, and their values, whose word 0 of Philox, counter (0, p, n, epoch), is
    at least `limit`; they are written to `kept` and `kept_values`."""
    steps, sites, random, _, _ = work
    words, active, count = random.view(np.uint32), pixels.shape[0], 0
    for j in range(active):
        steps[j], sites[j] = 0, pixels[j]
    for j in range(0, active, 8):  # lanes beyond the last pixel are not read
        simd.philox8(words, 4 * j, steps, sites, j, image, key.epoch, key.seed, key.stream)
    for j in range(active):
        kept[count], kept_values[count] = pixels[j], values[j]  # no branch, which would be mispredicted
        count += np.int64(words[4 * j]) >= limit
    return kept[:count], kept_values[:count]


@helper
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


@helper
def _resolve_ties(count, work, image, key, values, start, masks, nibbles):  # type: ignore[no-untyped-def]
    _, _, _, ties, words = work
    for i in range(count, (count + 7) // 8 * 8):
        ties[0, i], ties[1, i] = 0, 0
    for i in range(0, count, 8):
        simd.philox8(words, 4 * i, ties[0], ties[1], i, image, key.epoch, key.seed, key.stream)
    for i in range(count):
        j = np.int64(ties[2, i])
        digits, word = np.int64(values[j]) * DIGITS, np.int64(words[4 * i])
        fires = word < digits
        if word == digits:  # once in 2**32
            counter = np.int64(ties[0, i]), np.int64(ties[1, i]), np.int64(image), np.int64(key.epoch)
            fires = _later_digits_less(words, 4 * i, counter, (np.int64(key.seed), np.int64(key.stream)), digits)
        t = np.int64(ties[0, i]) - TIE - start
        masks[j, t >> 6] |= np.uint64(fires) << np.uint64(t & 63)  # no branch, which would be mispredicted
        nibbles[(j >> 2) * SPAN + t] |= np.uint8(np.uint64(fires) << np.uint64(4 + (j & 3)))


@helper
def padded_nibbles(active):  # type: ignore[no-untyped-def]
    """Bytes of the nibbles of this many pixels: by eights of groups of four, those added at the end silent."""
    return (active + 31) // 32 * 8 * SPAN


@helper
def first_bits(count):  # type: ignore[no-untyped-def]
    """Return a word with the lowest `count` bits set, none for a negative count, all from 64 on."""
    if count <= 0:
        return np.uint64(0)
    return ~np.uint64(0) >> np.uint64(64 - min(count, 64))


@helper
def spike_masks(pixels, values, image, key, start, steps, masks, nibbles, work):  # type: ignore[no-untyped-def]
    """Spikes of one image's active pixels for steps start .. start + steps - 1, in two forms:

    masks [active, 2] uint64         bit t of pixel j in masks[j, t // 64]
    nibbles [padded_nibbles] uint8   pixels 4g .. 4g + 3 at step t are bits 4 .. 7 of nibbles[128 g + t]

    start is a multiple of 16, steps at most 128 (the nibbles of later steps are undefined); image and the words of key
    are uint32.
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
        simd.philox8(random, 16 * lane, lane_step, lane_pixel, lane, image, key.epoch, key.seed, key.stream)

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
            _resolve_ties(tied, work, image, key, values, start, masks, nibbles)
            tied = 0
    _resolve_ties(tied, work, image, key, values, start, masks, nibbles)


@kernel("the spikes", seconds=2.5)
def _encode(team, images, index, start, key, out):  # type: ignore[no-untyped-def]
    steps, batch, size = out.shape
    masks = np.empty((size, 2), np.uint64)
    nibbles = simd.aligned(padded_nibbles(size), np.uint8)
    work = scratch(size)
    for i in range(team.worker, batch, team.workers):
        pixels = np.flatnonzero(images[i]).astype(np.uint16)
        values = images[i][pixels]
        for first in range(0, steps, SPAN):
            count = min(SPAN, steps - first)
            spike_masks(pixels, values, np.uint32(index[i]), key, start + first, count, masks, nibbles, work)
            for t in range(count):
                row = out[first + t, i]
                row[:] = 0
                for j in range(pixels.shape[0]):
                    row[pixels[j]] = np.float32((masks[j, t >> 6] >> np.uint64(t & 63)) & np.uint64(1))


def key_words(key: SpikeKey) -> SpikeKey:
    """Return the key as kernels take it."""
    return SpikeKey(*(np.uint32(word) for word in key))  # type: ignore[arg-type]


def encode(images: Tensor, index: Tensor, start: int, stop: int, key: SpikeKey) -> Tensor:
    """Return what `spikes.encode` gives for images on the CPU, many times faster."""
    out = torch.empty(stop - start, *images.shape)
    on_threads(_encode, images.contiguous().numpy(), index.long().numpy(), start, key_words(key), out.numpy())
    return out
