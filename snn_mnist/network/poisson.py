"""The program's encodings, dropout masks and random orders: pure functions of named coordinates.

Whether pixel p of image n fires at step t of epoch e depends on (seed, stream, e, n, p, t) and nothing else, so the
same seed gives the same spikes on every backend, device, batch and machine; kernels/spikes.py has the scheme.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from snn_mnist.kernels import spikes
from snn_mnist.kernels.spikes import SpikeKey, philox

__all__ = ["SpikeKey", "Stream", "dropout_mask", "encode", "poisson_encode", "random_order"]


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
    DROPOUT = 9


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


def encode(
    encoding: str, images: Tensor, index: Tensor, start: int, stop: int, steps: int, spike_key: SpikeKey
) -> Tensor:
    """Return the input [stop - start, N, P] float32 of time steps start .. stop - 1 of an image's T = steps.

    poisson   poisson_encode
    constant  images / 255 at each step, returned once: [1, N, P]
    latency   each non-zero pixel fires once, at `latency_step`
    """
    if encoding == "poisson":
        return poisson_encode(images, index, start, stop, spike_key)
    if encoding == "constant":
        return images[None].float() / 255
    at = torch.where(images > 0, spikes.latency_step(images.long(), steps), -1)
    return (at == torch.arange(start, stop, device=images.device)[:, None, None]).float()


def dropout_limit(share: float) -> int:
    """Return the 32-bit word below which a pixel is silent in a share of all cases."""
    return int(share * 2**32)


def dropout_mask(images: Tensor, index: Tensor, spike_key: SpikeKey, share: float) -> Tensor:
    """Return 0 for this share of the non-zero pixels of images [N, P], 1 / (1 - share) for the others of them.

    Pixel p of image n is 0 where word 0 of Philox for counter (0, p, n, epoch), key (seed, DROPOUT) is below a limit.
    """
    n, p = images.nonzero(as_tuple=True)
    word, *_ = philox((0, p, index.to(images.device).long()[n], spike_key.epoch), (spike_key.seed, Stream.DROPOUT))
    mask = torch.zeros(images.shape, device=images.device)
    mask[n, p] = (word >= dropout_limit(share)).float() / (1 - share)
    return mask


def random_order(
    n: int, seed: int, epoch: int, stream: Stream = Stream.ORDER, device: torch.device | str = "cpu"
) -> Tensor:
    """Return a permutation of 0 .. n - 1 [n] int64, the same on every device: the argsort of a 62-bit key per index."""
    first, second, _, _ = philox((torch.arange(n, device=device), 0, 0, epoch), (seed, stream))
    return (first >> 2 << 32 | second).argsort(stable=True)
