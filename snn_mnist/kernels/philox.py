"""Philox4x32-10, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3").

A call turns a 4-word counter and a 2-word key into 4 random 32-bit words: no state, so any number can be had at
once and in any order. `philox_torch` is the plain form for any device, `philox_scalar` the same for numba;
`simd.philox8` is eight calls at once.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85
WORD = 0xFFFFFFFF


def philox_torch(counter: tuple[Tensor | int, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four words (int64 tensors in 0 .. 2**32 - 1) for counters that broadcast against each other, tensors on
    one device."""
    device = next((c.device for c in counter if isinstance(c, Tensor)), None)
    words = (  # a number is filled in on the device: a copy there would wait for all that runs there
        c.long() if isinstance(c, Tensor) else torch.full((), c, dtype=torch.int64, device=device) for c in counter
    )
    c0, c1, c2, c3 = torch.broadcast_tensors(*words)
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIER_0, c2 * MULTIPLIER_1  # wraps modulo 2**64, which keeps all 64 product bits
        c0, c1 = ((p1 >> 32) & WORD) ^ c1 ^ k0, p1 & WORD
        c2, c3 = ((p0 >> 32) & WORD) ^ c3 ^ k1, p0 & WORD
        k0, k1 = (k0 + WEYL_0) & WORD, (k1 + WEYL_1) & WORD
    return c0, c1, c2, c3


@numba.njit
def philox_scalar(counter, key):  # type: ignore[no-untyped-def]
    """Four words as uint64 for tuples of uint64 that hold 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    word, half = np.uint64(WORD), np.uint64(32)
    for _ in range(ROUNDS):
        p0, p1 = c0 * np.uint64(MULTIPLIER_0), c2 * np.uint64(MULTIPLIER_1)
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & word, (p0 >> half) ^ c3 ^ k1, p0 & word
        k0, k1 = (k0 + np.uint64(WEYL_0)) & word, (k1 + np.uint64(WEYL_1)) & word
    return c0, c1, c2, c3


def philox_block(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]:
    """One call on Python integers, by the numba code."""
    words = philox_scalar(tuple(np.uint64(w) for w in counter), tuple(np.uint64(w) for w in key))
    return tuple(int(w) for w in words)
