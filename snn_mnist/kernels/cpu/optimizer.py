"""One step of Adam or SGD and of the moving average on rows of sixteen weights, as torch.optim computes it.

    Adam:  m = m + (1 - b1) (g - m)          SGD:  m = momentum m + g
           v = b2 v + (1 - b2) g g                 w = w - lr m
           w = w - (lr / c1) m / (sqrt(v) / sqrt(c2) + eps),    c1 = 1 - b1^n, c2 = 1 - b2^n at step n

    average = average + (1 - decay) (w - average)

Numbers of a step are computed in float64 and rounded once. Every operation on weights is rounded by itself (no fused
multiply-add), and none depends on the width of the processor's vectors, so every processor computes the same bits.
"""

from __future__ import annotations

import numba
import numpy as np

from snn_mnist.kernels.cpu import simd

SGD, ADAM = 0, 1


@numba.njit
def step_numbers(kind, settings, learning_rate, done):  # type: ignore[no-untyped-def]
    """The float32 numbers of step done + 1: Adam (1 - b1, b2, 1 - b2, lr / c1, sqrt(c2), eps), SGD (momentum, lr, …).
    settings [3] float64: Adam b1, b2, eps; SGD momentum."""
    if kind == ADAM:
        n = done + 1
        b1, b2, eps = settings[0], settings[1], settings[2]
        rate = learning_rate / (1.0 - b1**n)  # numba multiplies here, which is the same on every machine
        root = np.sqrt(1.0 - b2**n)
        numbers = 1.0 - b1, b2, 1.0 - b2, rate, root, eps
    else:
        numbers = settings[0], learning_rate, 0.0, 0.0, 0.0, 0.0
    return (
        np.float32(numbers[0]), np.float32(numbers[1]), np.float32(numbers[2]),
        np.float32(numbers[3]), np.float32(numbers[4]), np.float32(numbers[5]),
    )  # fmt: skip


@numba.njit
def update_rows(kind, numbers, first, last, gradient, weights, moment, square):  # type: ignore[no-untyped-def]
    """Updates weights[first : last], multiples of 16, by the gradient at the same places."""
    if kind == ADAM:
        fresh_m, keep_v, fresh_v = simd.splat(numbers[0]), simd.splat(numbers[1]), simd.splat(numbers[2])
        rate, root, eps = simd.splat(numbers[3]), simd.splat(numbers[4]), simd.splat(numbers[5])
        for at in range(first, last, simd.LANES):
            g, m, v = simd.load(gradient, at), simd.load(moment, at), simd.load(square, at)
            m = simd.add(m, simd.mul(fresh_m, simd.sub(g, m)))
            v = simd.add(simd.mul(keep_v, v), simd.mul(fresh_v, simd.mul(g, g)))
            scale = simd.add(simd.div(simd.sqrt(v), root), eps)
            step = simd.div(simd.mul(rate, m), scale)
            simd.store(moment, at, m)
            simd.store(square, at, v)
            simd.store(weights, at, simd.sub(simd.load(weights, at), step))
    else:
        momentum, rate = simd.splat(numbers[0]), simd.splat(numbers[1])
        for at in range(first, last, simd.LANES):
            m = simd.add(simd.mul(momentum, simd.load(moment, at)), simd.load(gradient, at))
            simd.store(moment, at, m)
            simd.store(weights, at, simd.sub(simd.load(weights, at), simd.mul(rate, m)))


@numba.njit
def average_rows(fresh, first, last, weights, average):  # type: ignore[no-untyped-def]
    """average = lerp(average, weights, fresh), from the nearer end as torch's lerp does."""
    near = abs(fresh) < 0.5
    share = simd.splat(np.float32(fresh) if near else np.float32(1) - np.float32(fresh))
    for at in range(first, last, simd.LANES):
        a, w = simd.load(average, at), simd.load(weights, at)
        way = simd.mul(share, simd.sub(w, a))
        simd.store(average, at, simd.add(a, way) if near else simd.sub(w, way))


@numba.njit
def round_to_bfloat16(first, last, weights, bits):  # type: ignore[no-untyped-def]
    """bits[first : last] = the bits of the weights rounded to bfloat16, ties to even; not-a-numbers stay."""
    source = weights.view(np.uint32)
    for i in range(first, last):
        b = source[i]
        rounded = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        nan = (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        bits[i] = b if nan else rounded
