"""Each number of a test from a small asymmetric case, with the answer written out."""

import pytest
import torch

from snn_mnist.network.scoring import Score, default_readout_steps


def test_rates_accuracy_loss_and_confusion():
    """Four images at T = 2 and 10: labels 3, 3, 7, 0.

    After 10 steps neuron 3 wins the first (8 spikes) and neuron 5 the second, neuron 3 the third; the fourth is a tie
    of 0 and 9, which the lower class wins. After 2 steps only the third is right. Squared errors: 0.2² + 0.2² = 0.08;
    1² + 1² = 2; 0.6² + 0.5² = 0.61; 0.6² + 0.4² = 0.52; their mean is over 40 numbers.
    """
    counts = torch.zeros(4, 2, 10)
    counts[0, 1, 3], counts[0, 1, 4], counts[0, 0, 4] = 8, 2, 1
    counts[1, 1, 5], counts[1, 0, 5] = 10, 2
    counts[2, 1, 3], counts[2, 1, 7], counts[2, 0, 7] = 6, 5, 2
    counts[3, 1, 0], counts[3, 1, 9], counts[3, 0, 9] = 4, 4, 1
    score = Score([2, 10], counts, torch.tensor([100, 200, 300, 400]), torch.tensor([3, 3, 7, 0]))
    assert score.rates()[0, [3, 4]].tolist() == pytest.approx([0.8, 0.2]) and score.rates(0)[0, 4] == 0.5
    assert (score.accuracy(), score.accuracy(0)) == (0.5, 0.25)
    assert score.loss() == pytest.approx((0.08 + 2 + 0.61 + 0.52) / 40)
    cells = {(label, predicted): 1 for label, predicted in ((3, 3), (3, 5), (7, 3), (0, 0))}
    confusion = score.confusion()
    assert {tuple(cell): int(confusion[tuple(cell)]) for cell in confusion.nonzero().tolist()} == cells


def test_an_accuracy_at_chance():
    """100 labels, of which 20 are the most frequent: below 20 % + 3 standard errors of 4 % nothing was learned."""
    labels = torch.tensor([0] * 20 + [*range(1, 9)] * 10)
    for right, at_chance in ((0, True), (20, True), (31, True), (33, False), (100, False)):
        counts = torch.zeros(100, 1, 10)
        counts[torch.arange(100), 0, labels] = 1.0
        counts[right:] = 0
        counts[right:, 0, 9] = 1.0  # a class of no image
        assert Score([1], counts, torch.zeros(100), labels).at_chance() == at_chance


def test_readout_steps():
    assert default_readout_steps(1) == [1]
    assert default_readout_steps(8) == [1, 2, 3, 5, 7, 8]
    assert default_readout_steps(100) == [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100]
