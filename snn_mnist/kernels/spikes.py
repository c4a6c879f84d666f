"""Poisson spikes as a pure function of their coordinates.

Pixel p of image n, a byte k, fires at step t of epoch e iff U < k/255, where U in [0, 1) is given by its base-256
digits. k/255 in base 256 repeats the digit k forever, so comparing digit by digit until they differ is exact; 255 of
256 draws end at the first digit, and k = 0 and k = 255 need none.

- digit 0: byte t % 16 of the 16 bytes of Philox, counter (t // 16, p, n, e), key (seed, stream): 16 steps per call;
- tie: the four words of Philox, counter (2**31 | t, p | attempt << 16, n, e), each compared with the digit k
  repeated four times; if all four tie, the next attempt follows.

`encode` here (any device), cpu/spikes.py (numba) and cuda/fused.cu give the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 16  # steps of one Philox call
TIE = 0x80000000  # set in the counters of ties
DIGITS = 0x01010101  # a byte times this is the byte repeated four times
ROUNDS = 10
MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85
WORD = 0xFFFFFFFF


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
    """Return Philox4x32-10 (Salmon et al. 2011) of a counter and a key: four random 32-bit words.

    The words are Python integers, int64 tensors or numba's int64; `simd.philox8` and snn.cuh have the same.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIER_0, c2 * MULTIPLIER_1  # int64 wraps modulo 2**64, which keeps all 64 product bits
        c0, c1 = ((p1 >> 32) & WORD) ^ c1 ^ k0, p1 & WORD
        c2, c3 = ((p0 >> 32) & WORD) ^ c3 ^ k1, p0 & WORD
        k0, k1 = (k0 + WEYL_0) & WORD, (k1 + WEYL_1) & WORD
    return c0, c1, c2, c3


def latency_step(k: Any, steps: int) -> Any:
    """Return round((T - 1) (1 - k / 255)), the step at which a pixel k fires in the latency encoding; never a tie."""
    return (2 * (steps - 1) * (255 - k) + 255) // 510


class SpikeKey(NamedTuple):
    """The coordinates that all spikes of one pass over a data set share, each 0 .. 2**32 - 1."""

    seed: int
    stream: int
    epoch: int


def encode(images: Tensor, index: Tensor, start: int, stop: int, spike_key: SpikeKey) -> Tensor:
    """Return the spikes [stop - start, N, P] float32 of images [N, P] uint8 with these indices [N] in their split, on
    the images' device. start must be a multiple of 16."""
    device, epoch, key = images.device, spike_key.epoch, (spike_key.seed, spike_key.stream)
    k = images.long()[None]  # [1, N, P]
    pixel = torch.arange(images.shape[1], device=device)
    n = index.to(device).long()[:, None]
    block = torch.arange(start // BLOCK, (stop + BLOCK - 1) // BLOCK, device=device)[:, None, None]
    words = philox((block, pixel, n, epoch), key)
    digits = torch.stack([(w >> shift) & 255 for w in words for shift in (0, 8, 16, 24)], 1)  # [blocks, 16, N, P]
    digits = digits.flatten(0, 1)[: stop - start]
    spikes = (digits < k) & (k > 0) | (k == 255)
    t, i, p = ((digits == k) & (k > 0) & (k < 255)).nonzero(as_tuple=True)
    attempt = 0
    while t.numel():  # ties: the digits are equal so far
        target = k[0, i, p] * DIGITS
        words = philox((TIE | (start + t), p | (attempt << 16), n[i, 0], epoch), key)
        undecided = torch.ones_like(t, dtype=torch.bool)
        for word in words:
            spikes[t, i, p] |= undecided & (word < target)
            undecided &= word == target
        t, i, p = t[undecided], i[undecided], p[undecided]
        attempt += 1
    return spikes.float()
