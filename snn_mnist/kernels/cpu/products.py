"""Products of spikes, as bits, with rows of sixteen floats: the currents X = S W, and E = S^T F of the backward pass.

Both go by fours: the 16 subset sums of four rows are computed first, and four bits of spikes choose one. Per image of
MNIST with T = 100 that is 3,800 vector additions per product. Adding one row per flip (a spike, or a silence of a pixel
above one half) needs only 2,100, but the branch at the end of each pixel's bits was mispredicted: 4.3 and 4.2 µs per
image on one core, where the tables take 1.1 and 1.5.
"""

from __future__ import annotations

import numpy as np

from snn_mnist.kernels.cpu import simd
from snn_mnist.kernels.cpu.jit import helper, inlined_helper
from snn_mnist.kernels.cpu.spikes import SPAN

ROW = simd.LANES  # neurons of a block; the last block is padded
TABLE = 16 * ROW  # the subset sums of four rows


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
def currents(pixels, rows, words, sums, steps, current):  # type: ignore[no-untyped-def]
    """current[t] = X[t]. words: the nibbles by eights of steps. 32 pixels at a time, whose tables (8 KB) stay in the
    first-level cache; those of all pixels at once did not, and took 4.5 µs per image to write instead of 0.3."""
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
