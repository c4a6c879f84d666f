"""The spike contract: Philox's published vectors, exact k/255, no correlation, one result in all circumstances."""

import math

import numpy as np
import pytest
import torch

from snn_mnist.kernels import spikes
from snn_mnist.kernels.cpu import spikes as cpu_spikes
from snn_mnist.kernels.spikes import philox
from snn_mnist.network.poisson import SpikeKey, Stream, poisson_encode, random_order
from tests.support.kernel_checks import PHILOX_VECTORS, thread_counts


@pytest.mark.parametrize(("counter", "key", "words"), PHILOX_VECTORS)
def test_philox_known_answers(counter, key, words):
    """By Python integers, by tensors and by numba."""
    assert philox(counter, key) == words
    assert tuple(int(w) for w in philox(torch.tensor(counter).unbind(), key)) == words
    assert cpu_spikes.philox_words(counter, key) == words


def by_definition(k, seed, stream, e, n, p, t):
    """The contract in plain Python: compare base-256 digits until they differ."""
    if k in (0, 255):
        return k == 255

    def digits():
        words = philox((t // 16, p, n, e), (seed, stream))
        yield words[t % 16 // 4] >> 8 * (t % 4) & 255
        attempt = 0
        while True:
            for word in philox((1 << 31 | t, p | attempt << 16, n, e), (seed, stream)):
                yield from word.to_bytes(4, "big")
            attempt += 1

    return next(d < k for d in digits() if d != k)


def some_images(n=5, seed=0):
    images = torch.randint(256, (n, 784), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    images[:, ::3], images[:, 1::7] = 0, 255
    images[0] = 0  # an empty image
    return images


@pytest.mark.parametrize("start", [0, 48, 112, 2**31 - 256])
def test_encoders_are_the_definition(start):
    """Every draw of an image, at about a hundred of which the first digits tie."""
    (image, *_), index, key = some_images(2).split(1)[::-1], 2**31, SpikeKey(2**32 - 1, 5, 4_000_000_000)
    steps, pixels = range(start, start + 65), list(enumerate(image[0].tolist()))
    expected = [[by_definition(k, *key, index, p, t) for p, k in pixels] for t in steps]
    for encode in (spikes.encode, cpu_spikes.encode):
        assert encode(image, torch.tensor([index]), start, start + 65, key)[:, 0].tolist() == expected


def test_bits_do_not_depend_on_circumstances():
    images, index, spike_key = some_images(40), torch.arange(40), SpikeKey(11, Stream.TEST, 6)
    whole = poisson_encode(images, index, 0, 100, spike_key)
    assert torch.equal(whole[:50], poisson_encode(images, index, 0, 50, spike_key))  # T
    assert torch.equal(whole[32:60], poisson_encode(images, index, 32, 60, spike_key))  # start
    order = torch.randperm(40)
    for part in (order, slice(7, 8)):  # position in the batch, its size
        assert torch.equal(whole[:, part], poisson_encode(images[part], index[part], 0, 100, spike_key))
    for _ in thread_counts():
        assert torch.equal(whole, poisson_encode(images, index, 0, 100, spike_key))


def test_exact_binomial_of_every_pixel_value():
    """Two-sided exact binomial test of each value at k/255; family-wise level 1e-6 (Bonferroni over 254)."""
    scipy_stats = pytest.importorskip("scipy.stats")
    images, trials, fired = torch.arange(256, dtype=torch.uint8)[:, None].repeat(1, 784), 784 * 1000, np.zeros(256)
    for start in range(0, 1000, 80):
        spiked = cpu_spikes.encode(images, torch.arange(256), start, min(start + 80, 1000), SpikeKey(20, 0, 0))
        fired += spiked.sum((0, 2)).numpy()
    assert fired[0] == 0 and fired[255] == trials
    k = np.arange(1, 255)
    assert min(scipy_stats.binomtest(int(fired[n]), trials, n / 255).pvalue for n in k) > 1e-6 / 254
    # and k/255 is told from its neighbour k/256: all values together
    for base, wrong in ((255, False), (256, True)):
        z = (fired[k] - trials * k / base) / np.sqrt(trials * k * (255 - k)) * 255
        assert (abs(z.sum()) / math.sqrt(254) > 5) == wrong


def test_an_order_sorts_by_62_bits():
    """The permutation by Python's own integers: the first two words of Philox, without the lowest two bits. Another
    epoch or seed gives another one."""
    key = {}
    for n in range(200):
        first, second, _, _ = philox((n, 0, 0, 4), (3, Stream.ORDER))
        key[n] = (first >> 2) * 2**32 + second
    order = random_order(200, 3, 4)
    assert order.tolist() == sorted(key, key=key.__getitem__) and sorted(order.tolist()) == [*range(200)]
    assert not torch.equal(order, random_order(200, 3, 5)) and not torch.equal(order, random_order(200, 4, 4))
    assert any(first >= 2**31 for first, *_ in (philox((n, 0, 0, 4), (3, 5)) for n in range(200)))


def test_streams_are_numbered_for_good():
    """Their numbers are coordinates of every spike: a changed one changes all results."""
    assert [stream.name for stream in Stream] == [
        "TRAIN", "TEST", "VALIDATION", "EVAL", "TRACE", "ORDER", "HOLDOUT", "PREDICT", "PLAY", "DROPOUT",
    ]  # fmt: skip
    assert [int(stream) for stream in Stream] == [*range(10)]


def test_start_must_be_a_block():
    with pytest.raises(ValueError, match="start=3"):
        poisson_encode(torch.zeros(1, 784, dtype=torch.uint8), torch.zeros(1), 3, 5, SpikeKey(0, 0, 0))
