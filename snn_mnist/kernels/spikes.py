"""Poisson spikes as a pure function of their coordinates.

Pixel p of image n, a byte k, fires at step t of epoch e iff U < k/255, where U in [0, 1) is given by its base-256
digits. k/255 in base 256 is the digit k for ever, so comparing digit by digit until they differ is exact; 255 of
256 draws end at the first digit, and k = 0 and k = 255 need none.

- digit 0: byte t % 16 of the 16 bytes of Philox, counter (t // 16, p, n, e), key (seed, stream): sixteen steps a call;
- tie: the four words of Philox, counter (2**31 | t, p | attempt << 16, n, e), each compared with the digit k four
  times over; four ties more, and the next attempt follows.

`encode` (numba, CPU) and `encode_torch` (any device) give the same bits. Comparing bit planes instead of bytes
needed 8 calls for 128 steps whatever T is (bytes: ceil(T / 16)), and could not be packed tightly for T = 100.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from snn_mnist.kernels.cpu import simd
from snn_mnist.kernels.cpu.jit import kernel
from snn_mnist.kernels.philox import philox_scalar, philox_torch

BLOCK = 16  # steps of one Philox call
SPAN = 128  # steps worked on at once: two 64-bit words of spikes a pixel
TIE = 0x80000000  # marks the counters of ties
TIME = 0x7FFFFFFF
DIGITS = 0x01010101  # a byte times this is the byte four times over
_TIE_ROOM = 1024  # ties are drawn in groups


class SpikeKey(NamedTuple):
    """The coordinates that all spikes of one pass over a data set share, each 0 .. 2**32 - 1."""

    seed: int
    stream: int
    epoch: int


class ActivePixels(NamedTuple):
    """The non-zero pixels of a data set, image after image, in ascending order, made once for all epochs."""

    offsets: np.ndarray  # [N + 1] int64, where each image begins
    pixels: np.ndarray  # [offsets[-1]] uint16
    values: np.ndarray  # [offsets[-1]] uint8
    most: int  # of any one image


@kernel()
def _list_live(images, offsets, pixels, values):  # type: ignore[no-untyped-def]
    j = 0
    for n in range(images.shape[0]):
        offsets[n] = j
        for p in range(images.shape[1]):
            if images[n, p] != 0:
                pixels[j], values[j] = p, images[n, p]
                j += 1
    offsets[-1] = j


def active_pixels(images: np.ndarray) -> ActivePixels:
    """Lists the non-zero pixels of images [N, P] uint8, P <= 65536."""
    count = np.count_nonzero(images)
    offsets = np.empty(len(images) + 1, np.int64)
    pixels, values = np.empty(count, np.uint16), np.empty(count, np.uint8)
    _list_live(np.ascontiguousarray(images), offsets, pixels, values)
    return ActivePixels(offsets, pixels, values, int(np.diff(offsets).max(initial=0)))


@numba.njit
def scratch(pixels):  # type: ignore[no-untyped-def]
    """Work space of `spike_masks` for images with at most this many live pixels."""
    lanes = pixels * (SPAN // BLOCK) + 16
    steps = simd.aligned(lanes, np.uint32)
    sites = simd.aligned(lanes, np.uint32)
    random = simd.aligned(lanes * 16 + SPAN, np.uint8)
    ties = np.empty((3, _TIE_ROOM + SPAN + 8), np.uint32)
    words = np.empty((_TIE_ROOM + SPAN + 8) * 4, np.uint32)
    return steps, sites, random, ties, words


@numba.njit
def _later_digits_less(words, first, counter, key, digits):  # type: ignore[no-untyped-def]
    """Compares the digits after the first word's; draws further attempts in the 2**-128 case that four words tie."""
    for w in range(1, 4):
        word = np.uint64(words[first + w])
        if word != digits:
            return word < digits
    step, pixel, image, epoch = counter
    attempt = np.uint64(1)
    while True:
        drawn = philox_scalar((step, pixel | (attempt << np.uint64(16)), image, epoch), key)
        for word in drawn:
            if word != digits:
                return word < digits
        attempt += np.uint64(1)


@numba.njit
def _resolve_ties(count, work, image, epoch, seed, stream, values, start, masks, nibbles):  # type: ignore[no-untyped-def]
    _, _, _, ties, words = work
    for i in range(count, (count + 7) // 8 * 8):
        ties[0, i], ties[1, i] = 0, 0
    for i in range(0, count, 8):
        simd.philox8(words, 4 * i, ties[0], ties[1], i, image, epoch, seed, stream)
    for i in range(count):
        j = np.int64(ties[2, i])
        digits, word = np.uint64(values[j]) * np.uint64(DIGITS), np.uint64(words[4 * i])
        fires = word < digits
        if word == digits:  # once in 2**32
            counter = np.uint64(ties[0, i]), np.uint64(ties[1, i]), np.uint64(image), np.uint64(epoch)
            fires = _later_digits_less(words, 4 * i, counter, (np.uint64(seed), np.uint64(stream)), digits)
        t = np.int64(ties[0, i] & TIME) - start
        masks[j, t >> 6] |= np.uint64(fires) << np.uint64(t & 63)  # no branch, which would be mispredicted
        nibbles[(j >> 2) * SPAN + t] |= np.uint8(np.uint64(fires) << np.uint64(4 + (j & 3)))


@numba.njit
def padded_nibbles(active):  # type: ignore[no-untyped-def]
    """Bytes of the nibbles of this many pixels: by eights of groups of four, the last ones silent."""
    return (active + 31) // 32 * 8 * SPAN


@numba.njit
def first_bits(count):  # type: ignore[no-untyped-def]
    """A word with the lowest `count` bits set, none for a negative count, all from 64 on."""
    if count <= 0:
        return np.uint64(0)
    return ~np.uint64(0) >> np.uint64(64 - min(count, 64))


@numba.njit
def spike_masks(pixels, values, image, epoch, seed, stream, start, steps, masks, nibbles, work):  # type: ignore[no-untyped-def]
    """Spikes of one image's live pixels for steps start .. start + steps - 1, in two forms:

    masks [live, 2] uint64     bit t of pixel j in masks[j, t // 64]
    nibbles [padded_nibbles]   uint8: pixels 4g .. 4g + 3 at step t are bits 4 .. 7 of nibbles[128 g + t]

    start is a multiple of 16, steps at most 128 (later nibbles are rubbish); image, epoch, seed, stream are uint32.
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
        place, flag = (j >> 2) * SPAN, np.uint8(16 << (j & 3))
        if values[j] == 255:
            masks[j, 0], masks[j, 1] = valid_0, valid_1
            for t in range(steps):
                nibbles[place + t] |= flag
            continue
        masks[j, 1] = 0
        for w in range((steps + 63) // 64):
            valid = valid_1 if w else valid_0
            less, equal = simd.compare_bytes(random, position + 64 * w, values[j], nibbles, place + 64 * w, flag)
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
        if tied >= _TIE_ROOM:
            _resolve_ties(tied, work, image, epoch, seed, stream, values, start, masks, nibbles)
            tied = 0
    _resolve_ties(tied, work, image, epoch, seed, stream, values, start, masks, nibbles)


@kernel(parallel=True)
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


def encode(images: np.ndarray, index: np.ndarray, start: int, stop: int, spike_key: SpikeKey) -> np.ndarray:
    """Spikes [stop - start, N, P] float32 of images [N, P] uint8 that have these indices [N] in their split.

    start must be a multiple of 16.
    """
    out = np.empty((stop - start, *images.shape), np.float32)
    words = (np.uint32(w) for w in (spike_key.epoch, spike_key.seed, spike_key.stream))
    _encode(np.ascontiguousarray(images), index.astype(np.int64), start, *words, out)
    return out


def encode_torch(images: Tensor, index: Tensor, start: int, stop: int, spike_key: SpikeKey) -> Tensor:
    """The same spikes as `encode`, bit for bit, on the images' device."""
    device, epoch, key = images.device, spike_key.epoch, (spike_key.seed, spike_key.stream)
    k = images.long()[None]  # [1, N, P]
    pixel = torch.arange(images.shape[1], device=device)
    n = index.to(device).long()[:, None]
    block = torch.arange(start // BLOCK, (stop + BLOCK - 1) // BLOCK, device=device)[:, None, None]
    words = philox_torch((block, pixel, n, epoch), key)
    digits = torch.stack([(w >> shift) & 255 for w in words for shift in (0, 8, 16, 24)], 1)  # [blocks, 16, N, P]
    digits = digits.flatten(0, 1)[: stop - start]
    spikes = (digits < k) & (k > 0) | (k == 255)
    t, i, p = ((digits == k) & (k > 0) & (k < 255)).nonzero(as_tuple=True)
    attempt = 0
    while t.numel():  # ties: U is not decided yet
        target = k[0, i, p] * DIGITS
        words = philox_torch((TIE | (start + t), p | (attempt << 16), n[i, 0], epoch), key)
        undecided = torch.ones_like(t, dtype=torch.bool)
        for word in words:
            spikes[t, i, p] |= undecided & (word < target)
            undecided &= word == target
        t, i, p = t[undecided], i[undecided], p[undecided]
        attempt += 1
    return spikes.float()
