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


def test_encoder_is_the_definition():
    images, index = some_images(), torch.tensor([7, 59_999, 0, 3, 2**31])
    spike_key = SpikeKey(2**32 - 1, 5, 4_000_000_000)
    fired = cpu_spikes.encode(images, index, 16, 60, spike_key)
    rng = np.random.default_rng(1)
    for i, p, t in zip(rng.integers(0, 5, 3000), rng.integers(0, 784, 3000), rng.integers(16, 60, 3000), strict=True):
        expected = by_definition(int(images[i, p]), *spike_key, int(index[i]), int(p), int(t))
        assert fired[t - 16, i, p] == expected, (i, p, t)


@pytest.mark.parametrize("start", [0, 48, 64, 112, 144, 2**31 - 256])
def test_all_ties_from_any_start_are_resolved_as_defined(start):
    """Every draw that ties at its first digit, of 784 pixels of one value, by both encoders."""
    images, index, key = torch.full((1, 784), 100, dtype=torch.uint8), torch.tensor([9]), SpikeKey(1, 2, 3)
    fired = spikes.encode(images, index, start, start + 200, key)
    assert torch.equal(fired, cpu_spikes.encode(images, index, start, start + 200, key))
    words = philox((torch.arange(13)[:, None] + start // 16, torch.arange(784), 9, 3), (1, 2))
    digits = torch.stack([(word >> shift) & 255 for word in words for shift in (0, 8, 16, 24)], 1).flatten(0, 1)[:200]
    ties = (digits == 100).nonzero().tolist()
    assert len(ties) > 500
    for t, p in ties:
        assert fired[t, 0, p] == by_definition(100, *key, 9, p, start + t), (t, p)


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


@pytest.mark.parametrize("part", range(3))
def test_each_coordinate_matters(part):
    images, index = torch.full((1, 784), 128, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    coordinates = [0, 0, 0]
    base = poisson_encode(images, index, 0, 128, SpikeKey(*coordinates))
    coordinates[part] = 1
    other = poisson_encode(images, index, 0, 128, SpikeKey(*coordinates))
    assert 0.45 < (base != other).float().mean() < 0.55
    assert not torch.equal(base, poisson_encode(images, index + 1, 0, 128, SpikeKey(0, 0, 0)))


def counts_of_all_values(draws=1_000):
    """How often each of the 256 values fires in 784 * draws trials."""
    images = torch.arange(256, dtype=torch.uint8)[:, None].repeat(1, 784)
    total = np.zeros(256)
    for start in range(0, draws, 112):
        fired = cpu_spikes.encode(images, torch.arange(256), start, min(start + 112, draws), SpikeKey(20, 0, 0))
        total += fired.sum((0, 2)).numpy()
    return total, 784 * draws


def test_exact_binomial_of_every_pixel_value():
    """Two-sided exact binomial test of each value at k/255; family-wise level 1e-6 (Bonferroni over 254)."""
    scipy_stats = pytest.importorskip("scipy.stats")
    fired, trials = counts_of_all_values()
    assert fired[0] == 0 and fired[255] == trials
    p_values = [scipy_stats.binomtest(int(fired[k]), trials, k / 255).pvalue for k in range(1, 255)]
    assert min(p_values) > 1e-6 / 254
    # and k/255 is told from its neighbours k/256 and (k+1)/256: all values together
    z = (fired[1:255] - trials * np.arange(1, 255) / 256) / np.sqrt(trials * 0.25)
    assert abs(z.sum()) / math.sqrt(254) > 5
    z = (
        (fired - trials * np.arange(256) / 255)[1:255]
        / np.sqrt(trials * np.arange(1, 255) * np.arange(254, 0, -1))
        * 255
    )
    assert abs(z.sum()) / math.sqrt(254) < 5


def test_no_correlation():
    """Correlation of spikes a step, a pixel, a sample, an epoch and a Philox block apart, |z| < 5 each."""
    images, index = torch.full((64, 784), 100, dtype=torch.uint8), torch.arange(64)
    p = 100 / 255
    x = (poisson_encode(images, index, 0, 128, SpikeKey(5, 0, 0)) - p) / math.sqrt(p * (1 - p))
    y = (poisson_encode(images, index, 0, 128, SpikeKey(5, 0, 1)) - p) / math.sqrt(p * (1 - p))
    pairs = {
        "step": (x[1:], x[:-1]), "4 steps": (x[4:], x[:-4]), "block": (x[16:], x[:-16]), "64 steps": (x[64:], x[:-64]),
        "pixel": (x[:, :, 1:], x[:, :, :-1]), "row": (x[:, :, 28:], x[:, :, :-28]),
        "sample": (x[:, 1:], x[:, :-1]), "epoch": (x, y),
    }  # fmt: skip
    for name, (a, b) in pairs.items():
        z = (a * b).sum().item() / math.sqrt(a.numel())
        assert abs(z) < 5, (name, z)


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
        "TRAIN", "TEST", "VALIDATION", "EVAL", "TRACE", "ORDER", "HOLDOUT", "PREDICT", "PLAY",
    ]  # fmt: skip
    assert [int(stream) for stream in Stream] == [*range(9)]


def test_start_must_be_a_block():
    with pytest.raises(ValueError, match="start=3"):
        poisson_encode(torch.zeros(1, 784, dtype=torch.uint8), torch.zeros(1), 3, 5, SpikeKey(0, 0, 0))
