"""Each number of a test from a small asymmetric case, with the answer written out."""

import pytest
import torch

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


def test_readout_steps():
    assert default_readout_steps(1) == [1]
    assert default_readout_steps(8) == [1, 2, 3, 5, 7, 8]
    assert default_readout_steps(100) == [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100]
