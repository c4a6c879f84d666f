"""The network in integers: what a chip without floating point computes, and how wide its registers are.

    weights      q = round(W / s) in -Q .. Q, Q = 2^(bits-1) - 1, s one scale or one for each neuron
    input        x = sum of the q of the pixels that fire
    charge       h = v + (((x << F) - v) * M + 2^(S-1) >> S)       M / 2^S = 1/τ; τ = 2^S needs no M
    IF           h = v + (x << F)
    fire         s = h >= θ                                        θ = ceil((V_threshold - V_reset) 2^F / s)
    reset        v = s ? 0 : h, or soft: v = s ? h - θ : h

v is the potential above V_reset in units of s / 2^F. >> rounds down. Every register has a known range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from snn_mnist.errors import UsageError
from snn_mnist.network.network import CLASSES, PIXELS, SNN
from snn_mnist.network.poisson import SpikeKey, poisson_encode

MULTIPLIER_BITS = 16
MAX_FRACTION = 31
THRESHOLD_BITS = 12  # the automatic number of fraction bits gives the threshold at least this width
EXACT_FLOAT = 1 << 24  # sums of integers below it are exact in float32, whatever their order
PRODUCT = "product with M"
CHUNK = 250  # images encoded at a time: 78 MB of spikes at T = 100


@dataclass(frozen=True)
class FixedPoint:
    weight: np.ndarray  # [10, 784] int64
    scale: np.ndarray  # [10] float64, the value of one unit of a weight
    threshold: np.ndarray  # [10] int64
    bits: int
    fraction: int  # F
    multiplier: int  # M; 1 when τ is a power of two, 0 for IF
    shift: int  # S
    soft: bool  # reset
    steps: int  # T

    @property
    def leaky(self) -> bool:
        return self.multiplier > 0

    def charge(self, x: np.ndarray, v: np.ndarray) -> np.ndarray:
        """h for input sums x and potentials v, both [N, 10] int64."""
        target = x << self.fraction
        if not self.leaky:
            return v + target
        return v + (((target - v) * self.multiplier + (1 << (self.shift - 1))) >> self.shift)

    def run(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Input sums [T, N, 10] to output spikes (bool) and potentials after the reset, both [T, N, 10]."""
        v = np.zeros(x.shape[1:], np.int64)
        fired, potential = np.empty(x.shape, bool), np.empty(x.shape, np.int64)
        for t, now in enumerate(x):
            h = self.charge(now, v)
            fired[t] = h >= self.threshold
            v = np.where(fired[t], h - self.threshold if self.soft else 0, h)
            potential[t] = v
        return fired, potential

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Least and greatest value for any input, by name of the register.

        A leaky v moves towards x << F and never beyond it. An IF potential may decrease by the sum of the negative
        weights at each of the T steps.
        """
        high = int(np.maximum(self.weight, 0).sum(1).max())
        low = -int(np.maximum(-self.weight, 0).sum(1).max())
        level, one = int(self.threshold.max()), 1 << self.fraction
        ranges = {"input sum x": (low, high)}
        if self.leaky:
            v = low * one, max(high * one - level, 0) if self.soft else min(level - 1, max(high * one, 0))
            difference = low * one - v[1], high * one - v[0]
            ranges["difference (x << F) - v"] = difference
            half = 1 << (self.shift - 1)
            ranges[PRODUCT] = (
                difference[0] * self.multiplier + half,
                difference[1] * self.multiplier + half,
            )
            ranges["potential h"] = (low * one, max(high * one, v[1]))
        else:
            least = low * one * self.steps
            v = least, max(high * one * self.steps - level, 0) if self.soft else level - 1
            ranges["potential h"] = (least, v[1] + high * one)
        return ranges

    def widths(self) -> dict[str, int]:
        """Bits of two's complement that hold each of `ranges`."""
        return {name: signed_bits(*limits) for name, limits in self.ranges().items()}


def signed_bits(low: int, high: int) -> int:
    """Bits of two's complement that hold every number from low to high."""
    return max(high.bit_length(), (~low).bit_length() if low < 0 else 0) + 1


def quantise(net: SNN, config: Any, bits: int = 8, per_neuron: bool = False, fraction: int | None = None) -> FixedPoint:
    """The network with `bits`-bit weights. UsageError when a register would need more than 32 bits."""
    weight = net.weight.detach().cpu().double().numpy()
    scale = scales(weight, bits, per_neuron)
    top = (1 << (bits - 1)) - 1
    rounded = np.clip(np.rint(weight / scale[:, None]), -top, top).astype(np.int64)
    rise = Fraction(config.v_threshold) - Fraction(config.v_reset or 0.0)
    if fraction is None:
        units = min(rise / Fraction(float(s)) for s in scale)
        # A difference below τ/2 is rounded to no leak: a larger τ needs finer units.
        finer = max(0, math.frexp(config.tau)[1] - 2) if config.neuron == "lif" else 0
        enough = 1 << (THRESHOLD_BITS - 1 + finer)
        fraction = next((f for f in range(MAX_FRACTION) if units * 2**f >= enough), MAX_FRACTION)
    threshold = [math.ceil(rise * 2**fraction / Fraction(float(s))) for s in scale]
    if signed_bits(0, max(threshold)) > 32:
        raise UsageError(
            f"the threshold {float(rise):g} is {max(threshold):.2g} units of the weights, more than 31 bits; "
            "lower -bits or -fraction"
        )
    multiplier, shift = leak(config.tau) if config.neuron == "lif" else (0, 0)
    fixed = FixedPoint(
        rounded,
        scale,
        np.array(threshold),
        bits,
        fraction,
        multiplier,
        shift,
        config.v_reset is None,
        config.T,
    )
    for name, width in fixed.widths().items():
        limit = 64 if name == PRODUCT else 32
        if width > limit:
            raise UsageError(
                f"the {name} would need {width} bits with -bits {bits} and {fraction} fraction bits, more "
                f"than {limit}; lower -fraction{'' if fixed.leaky else ', -T'} or -bits"
            )
    return fixed


def scales(weight: np.ndarray, bits: int, per_neuron: bool) -> np.ndarray:
    """Scale of each neuron [10]: the one with the least squared error of 81, which map between a fifth of the largest
    weight and all of it to the largest integer. With few bits, clipping the largest weights reduces the error."""
    top = (1 << (bits - 1)) - 1
    peak = np.abs(weight).max(1) if per_neuron else np.full(CLASSES, np.abs(weight).max())
    peak = np.where(peak > 0, peak, 1.0)
    tried = [peak * share / top for share in np.linspace(1, 0.2, 81)]
    errors = np.stack(
        [((np.clip(np.rint(weight / s[:, None]), -top, top) * s[:, None] - weight) ** 2).sum(1) for s in tried]
    )
    if not per_neuron:
        errors[:] = errors.sum(1, keepdims=True)
    return np.stack(tried)[errors.argmin(0), np.arange(CLASSES)]


def leak(tau: float) -> tuple[int, int]:
    """Return (M, S) with M / 2^S = 1/τ: M = 1 where τ is a power of two, or nearly so, else a 16-bit M.

    The relative error is at most 2^-16.
    """
    _, exponent = math.frexp(tau)
    shift = MULTIPLIER_BITS + exponent - 1  # 2^(exponent-1) <= τ < 2^exponent
    multiplier = round(Fraction(1 << shift) / Fraction(tau))
    if multiplier == 1 << MULTIPLIER_BITS:
        return (1, exponent - 1) if exponent > 1 else (multiplier - 1, shift)  # a shift by 0 can't be rounded
    return multiplier, shift


# ---------------------------------------------------------------------------- over a data set


def input_sums(
    weight: np.ndarray, images: torch.Tensor, steps: int, key: SpikeKey
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first image, input sums [T, n, rows] int64, input spikes [n]) of images [N, 784], a chunk at a time.

    weight [rows, 784] integers. The sums are exact: in float32 below 2^24, else in float64.
    """
    exact = int(np.abs(weight).sum(1).max()) < EXACT_FLOAT
    columns = torch.from_numpy(weight.T.astype(np.float32 if exact else np.float64))
    chunk = max(1, CHUNK * 100 // steps)
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk]
        spikes = poisson_encode(part, torch.arange(start, start + len(part)), 0, steps, key)
        sums = spikes.view(-1, PIXELS).to(columns.dtype) @ columns
        yield (
            start,
            sums.view(steps, len(part), -1).numpy().astype(np.int64),
            spikes.sum((0, 2)).long().numpy(),
        )


def spike_counts(
    variants: list[FixedPoint], images: torch.Tensor, key: SpikeKey
) -> tuple[np.ndarray, float, list[tuple[int, int]]]:
    """Output spikes of each variant [V, N, 10], mean input spikes per image, and the extreme potentials of each."""
    counts = np.zeros((len(variants), len(images), CLASSES), np.int64)
    reached = [(0, 0)] * len(variants)
    inputs = 0
    weight = np.concatenate([fixed.weight for fixed in variants])
    for start, sums, spikes in input_sums(weight, images, variants[0].steps, key):
        inputs += int(spikes.sum())
        for i, fixed in enumerate(variants):
            fired, potential = fixed.run(sums[:, :, CLASSES * i : CLASSES * (i + 1)])
            counts[i, start : start + sums.shape[1]] = fired.sum(0)
            reached[i] = min(reached[i][0], int(potential.min())), max(reached[i][1], int(potential.max()))
    return counts, inputs / len(images), reached
