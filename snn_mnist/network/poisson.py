"""The program's Poisson encoder and its random orders: pure functions of named coordinates.

Whether pixel p of image n fires at step t of epoch e depends on (seed, stream, e, n, p, t) and nothing else, so the
same seed gives the same spikes on every backend, device, batch and machine; kernels/spikes.py has the scheme.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from snn_mnist.kernels import spikes
from snn_mnist.kernels.spikes import SpikeKey, philox

__all__ = ["SpikeKey", "Stream", "poisson_encode", "random_order"]


class Stream(IntEnum):
    """Separates the random numbers of different uses."""

    TRAIN = 0
    TEST = 1  # the test after each epoch of training
    VALIDATION = 2
    EVAL = 3  # the verb eval; its repeats are the epochs
    TRACE = 4
    ORDER = 5
    HOLDOUT = 6
    PREDICT = 7
    PLAY = 8


def poisson_encode(images: Tensor, index: Tensor, start: int, stop: int, spike_key: SpikeKey) -> Tensor:
    """Return spikes [stop - start, N, P] float32 of time steps start .. stop - 1, fired with probability images / 255.

    images [N, P] uint8; index [N] their indices in their split. start must be a multiple of 16. The numba code
    (CPU) and the torch code (other devices) give the same bits.
    """
    if start % spikes.BLOCK:
        raise ValueError(f"start={start} must be a multiple of {spikes.BLOCK}")
    if images.device.type == "cpu":
        from snn_mnist.kernels.cpu import jit
        from snn_mnist.kernels.cpu import spikes as cpu_spikes

        if not jit.why_unavailable():
            return cpu_spikes.encode(images, index, start, stop, spike_key)
    return spikes.encode(images, index, start, stop, spike_key)


def random_order(
    n: int, seed: int, epoch: int, stream: Stream = Stream.ORDER, device: torch.device | str = "cpu"
) -> Tensor:
    """Return a permutation of 0 .. n - 1 [n] int64, the same on every device: the argsort of a 62-bit key per index."""
    first, second, _, _ = philox((torch.arange(n, device=device), 0, 0, epoch), (seed, stream))
    return (first >> 2 << 32 | second).argsort(stable=True)
