"""The network in integers: what a chip without floating point computes, and how wide its registers are.

    weights      q = round(W / s) in -Q .. Q, Q = 2^(bits-1) - 1, s one scale or one for each neuron
    input        x = sum of the q of the pixels that fire; of a constant current: sum of q k over pixels 0 <= k <= 255
    charge       h = v + (((x << F) - v) * M + 2^(S-1) >> S)       M / 2^S = 1/τ; τ = 2^S needs no M
    IF           h = v + (x << F)
    fire         s = h >= θ                                        θ = ceil((V_threshold - V_reset) 2^F / s)
    reset        v = s ? 0 : h, or soft: v = s ? h - θ : h
    vote         counter of a class += spikes of its neurons       the lower class wins a tie

v is the potential above V_reset in units of s / 2^F, of a constant current s / 255 / 2^F. >> rounds down. Every
register has a known range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from snn_mnist.errors import UsageError
from snn_mnist.network.network import CLASSES, PIXELS, SNN
from snn_mnist.network.poisson import SpikeKey, encode
from snn_mnist.settings.config import Config

MULTIPLIER_BITS = 16
MAX_FRACTION = 31
THRESHOLD_BITS = 12  # the automatic number of fraction bits gives the threshold at least this width
PRODUCT = "product with M"
CHUNK = 25_000  # images x steps encoded at a time: 157 MB of spikes in float64, in which their sums are exact


@dataclass(frozen=True)
class FixedPoint:
    weight: np.ndarray  # [10 votes, 784] int64
    scale: np.ndarray  # [10 votes] float64, the value of one unit of a weight
    threshold: np.ndarray  # [10 votes] int64
    bits: int
    fraction: int  # F
    multiplier: int  # M; 1 when τ is a power of two, 0 for IF
    shift: int  # S
    soft: bool  # reset
    steps: int  # T
    encoding: str

    @property
    def votes(self) -> int:
        return len(self.weight) // CLASSES

    @property
    def top(self) -> int:
        """The largest input of a pixel in one step."""
        return 255 if self.encoding == "constant" else 1

    @property
    def leaky(self) -> bool:
        return self.multiplier > 0

    def charge(self, x: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return h for input sums x and potentials v, both [N, 10 votes] int64."""
        target = x << self.fraction
        if not self.leaky:
            return v + target
        return v + (((target - v) * self.multiplier + (1 << (self.shift - 1))) >> self.shift)

    def run(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute spikes (bool) and potentials after the reset, both [T, N, 10 votes].

        x: input sums [T, N, 10 votes], of a constant current [1, N, 10 votes].
        """
        x = np.broadcast_to(x, (self.steps, *x.shape[1:]))
        v = np.zeros(x.shape[1:], np.int64)
        fired, potential = np.empty(x.shape, bool), np.empty(x.shape, np.int64)
        for t, now in enumerate(x):
            h = self.charge(now, v)
            fired[t] = h >= self.threshold
            v = np.where(fired[t], h - self.threshold if self.soft else 0, h)
            potential[t] = v
        return fired, potential

    def input(self, images: torch.Tensor, index: torch.Tensor, key: SpikeKey) -> torch.Tensor:
        """Return the spikes [T, N, 784] of images [N, 784] uint8, or for a constant current these [1, N, 784]."""
        if self.encoding == "constant":
            return images[None]
        return encode(self.encoding, images, index, 0, self.steps, self.steps, key)

    def count(self, fired: np.ndarray) -> np.ndarray:
        """Return the spikes of each class [N, 10] of spikes [T, N, 10 votes]."""
        return fired.sum(0).reshape(-1, CLASSES, self.votes).sum(2)

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Return the least and greatest value for any input, by name of the register.

        A leaky v moves towards x << F and never beyond it. An IF potential may decrease by the sum of the negative
        weights at each of the T steps.
        """
        high = int(np.maximum(self.weight, 0).sum(1).max()) * self.top
        low = int(np.minimum(self.weight, 0).sum(1).min()) * self.top
        level, one = int(self.threshold.max()), 1 << self.fraction
        least, most = low * one, high * one
        if not self.leaky:
            least *= self.steps
            v_most = max(most * self.steps - level, 0) if self.soft else level - 1
            return {"input sum x": (low, high), "potential h": (least, v_most + most)}
        v_most = max(most - level, 0) if self.soft else min(level - 1, max(most, 0))
        difference, half = (least - v_most, most - least), 1 << (self.shift - 1)
        return {
            "input sum x": (low, high),
            "difference (x << F) - v": difference,
            PRODUCT: (difference[0] * self.multiplier + half, difference[1] * self.multiplier + half),
            "potential h": (least, max(most, v_most)),
        }

    def widths(self) -> dict[str, int]:
        """Return the bits of two's complement that hold each of `ranges`."""
        return {name: signed_bits(*limits) for name, limits in self.ranges().items()}


def signed_bits(low: int, high: int) -> int:
    """Return the bits of two's complement that hold every number from low to high."""
    return max(high.bit_length(), (~low).bit_length() if low < 0 else 0) + 1


def quantise(
    net: SNN, config: Config, bits: int = 8, per_neuron: bool = False, fraction: int | None = None
) -> FixedPoint:
    """Return the network with `bits`-bit weights. UsageError when a register would need more than 32 bits."""
    weight = net.weight.detach().cpu().double().numpy()
    scale = scales(weight, bits, per_neuron)
    rise = Fraction(config.v_threshold) - Fraction(config.v_reset or 0.0)
    if config.encoding == "constant":
        rise *= 255  # x is in units of s / 255
    if fraction is None:
        units = min(rise / Fraction(float(s)) for s in scale)
        # A difference below τ/2 is rounded to no leak: a larger τ needs finer units.
        finer = max(0, math.frexp(config.tau)[1] - 2) if config.neuron == "lif" else 0
        enough = 1 << (THRESHOLD_BITS - 1 + finer)
        fraction = next((f for f in range(MAX_FRACTION) if units * 2**f >= enough), MAX_FRACTION)
    threshold = [math.ceil(rise * 2**fraction / Fraction(float(s))) for s in scale]
    multiplier, shift = leak(config.tau) if config.neuron == "lif" else (0, 0)
    fixed = FixedPoint(
        weight=rounded(weight, scale, bits).astype(np.int64),
        scale=scale,
        threshold=np.array(threshold),
        bits=bits,
        fraction=fraction,
        multiplier=multiplier,
        shift=shift,
        soft=config.v_reset is None,
        steps=config.T,
        encoding=config.encoding,
    )
    for name, width in {"threshold": signed_bits(0, max(threshold)), **fixed.widths()}.items():
        if width > (limit := 64 if name == PRODUCT else 32):
            needed = f"{width} bits with -bits {bits} and {fraction} fraction bits, more than {limit}"
            raise UsageError(f"the {name} would need {needed}; lower -fraction{'' if fixed.leaky else ', -T'} or -bits")
    return fixed


def rounded(weight: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    """Return the weights in units of these scales, one per neuron, as whole numbers of a symmetric range."""
    top = (1 << (bits - 1)) - 1
    return np.clip(np.rint(weight / scale[:, None]), -top, top)


def scales(weight: np.ndarray, bits: int, per_neuron: bool) -> np.ndarray:
    """Return the scale of each neuron: the one with the least squared error of 81.

    These map between a fifth of the largest weight and all of it to the largest integer: with few bits, clipping the
    largest weights reduces the error.
    """
    peak = np.abs(weight).max(1) if per_neuron else np.full(len(weight), np.abs(weight).max())
    tried = np.linspace(1, 0.2, 81)[:, None] * np.where(peak > 0, peak, 1.0) / ((1 << (bits - 1)) - 1)  # [81, n]
    errors = np.stack([((rounded(weight, s, bits) * s[:, None] - weight) ** 2).sum(1) for s in tried])
    if not per_neuron:
        errors[:] = errors.sum(1, keepdims=True)
    return tried[errors.argmin(0), np.arange(len(weight))]


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


def spike_counts(
    variants: list[FixedPoint], images: torch.Tensor, key: SpikeKey
) -> tuple[np.ndarray, float, list[tuple[int, int]]]:
    """Return spikes by class of each variant [V, N, 10], mean input spikes per image, and extreme potentials of each.

    images [N, 784] uint8; all variants get the same spikes. Of a constant current: pixels that are not 0.
    """
    counts, inputs = np.zeros((len(variants), len(images), CLASSES), np.int64), 0.0
    reached, first, neurons = [(0, 0)] * len(variants), variants[0], len(variants[0].weight)
    columns = torch.from_numpy(np.concatenate([fixed.weight for fixed in variants]).T.astype(np.float64))
    for index in torch.arange(len(images)).split(max(1, CHUNK // (first.steps * first.votes))):
        given = first.input(images[index], index, key).double()  # [T, n, 784]
        inputs += given.count_nonzero().item()
        sums = (given.reshape(-1, PIXELS) @ columns).view(*given.shape[:2], -1).numpy().astype(np.int64)
        for i, fixed in enumerate(variants):
            fired, potential = fixed.run(sums[:, :, neurons * i : neurons * (i + 1)])
            counts[i, index] = fixed.count(fired)
            reached[i] = min(reached[i][0], int(potential.min())), max(reached[i][1], int(potential.max()))
    return counts, inputs / len(images), reached
