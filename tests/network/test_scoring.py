"""Each number of a test from a small asymmetric case, with the answer written out."""

from types import SimpleNamespace

import pytest
import torch

from snn_mnist.data.datasets import Split
from snn_mnist.network import scoring
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import SpikeKey
from snn_mnist.network.scoring import Score, default_readout_steps


@pytest.fixture
def score() -> Score:
    """Four images at T = 2 and 10: labels 3, 3, 7, 0.

    After 10 steps neuron 3 wins the first (8 spikes) and neuron 5 the second, neuron 3 the third; the fourth is a tie
    of 0 and 9, which the lower class wins. After 2 steps only the third is right.
    """
    counts = torch.zeros(4, 2, 10)
    counts[0, 1, 3], counts[0, 1, 4], counts[0, 0, 4] = 8, 2, 1
    counts[1, 1, 5], counts[1, 0, 5] = 10, 2
    counts[2, 1, 3], counts[2, 1, 7], counts[2, 0, 7] = 6, 5, 2
    counts[3, 1, 0], counts[3, 1, 9], counts[3, 0, 9] = 4, 4, 1
    return Score([2, 10], counts, torch.tensor([100, 200, 300, 400]), torch.tensor([3, 3, 7, 0]))


def test_rates_are_spikes_per_step(score):
    assert score.rates()[0, [3, 4]].tolist() == pytest.approx([0.8, 0.2])
    assert score.rates(0)[0, 4] == 0.5


def test_accuracy_at_each_readout_step(score):
    assert score.accuracy() == 0.5  # images 0 and 3
    assert score.accuracy(0) == 0.25  # image 2


def test_loss_is_the_mean_over_images_and_classes(score):
    """Squared errors: 0.2² + 0.2² = 0.08; 1² + 1² = 2; 0.6² + 0.5² = 0.61; 0.6² + 0.4² = 0.52; over 40 numbers."""
    assert score.loss() == pytest.approx((0.08 + 2 + 0.61 + 0.52) / 40)


def test_confusion_has_labels_in_rows_and_predictions_in_columns(score):
    confusion = score.confusion()
    expected = {(3, 3): 1, (3, 5): 1, (7, 3): 1, (0, 0): 1}
    assert {tuple(cell): int(confusion[tuple(cell)]) for cell in confusion.nonzero().tolist()} == expected


def test_an_accuracy_at_chance():
    """100 labels, of which 20 are the most frequent: below 20 % + 3 standard errors of 4 % nothing was learned."""
    labels = torch.tensor([0] * 20 + [*range(1, 9)] * 10)
    for right, at_chance in ((0, True), (20, True), (31, True), (33, False), (100, False)):
        counts = torch.zeros(100, 1, 10)
        counts[torch.arange(100), 0, labels] = 1.0
        counts[right:] = 0
        counts[right:, 0, 9] = 1.0  # a class of no image
        assert Score([1], counts, torch.zeros(100), labels).at_chance() == at_chance


def test_the_seconds_of_a_split_are_without_compilation(monkeypatch):
    """Nor do they depend on how the images are cut into batches."""
    clock, batches = [0.0], []

    class Engine:
        def firing_counts(self, index, readout_steps, key):
            clock[0] += 0.5 if batches else 100.0  # the first call compiles
            batches.append(len(index))
            return torch.zeros(len(index), 1, 10), torch.zeros(len(index), dtype=torch.int64)

    monkeypatch.setattr(scoring, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    split = Split(torch.zeros(25, 784, dtype=torch.uint8), torch.zeros(25, dtype=torch.int64))
    runtime = SimpleNamespace(device="cpu", test_batch=10, engine=lambda net, images: Engine())
    scores, seconds = scoring.score_split(SNN(), split, runtime, [4], [SpikeKey(0, 3, 0), SpikeKey(0, 3, 1)])
    assert (len(scores), seconds, batches) == (2, 3.0, [1, 10, 10, 5, 10, 10, 5])


def test_readout_steps():
    assert default_readout_steps(1) == [1]
    assert default_readout_steps(8) == [1, 2, 3, 5, 7, 8]
    assert default_readout_steps(100) == [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100]
