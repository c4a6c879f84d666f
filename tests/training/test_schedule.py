"""Schedules against numbers worked out by hand, not against another run of the program."""

import pytest

from snn_mnist.training.schedule import ema_decays, learning_rate, learning_rates
from tests.support.runs import config


def test_a_constant_learning_rate():
    assert learning_rates(config(lr=0.25, epochs=4), 3, 5) == [0.25] * 5


def test_cosine_falls_within_an_epoch_and_from_epoch_to_epoch():
    """Two epochs of three steps: t = 0, 1/6, …, 5/6 and cos(pi t) = 1, √3/2, 1/2, 0, -1/2, -√3/2."""
    settings = config(lr=2.0, epochs=2, schedule="cosine")
    root = 3**0.5 / 2
    assert learning_rates(settings, 0, 3) == pytest.approx([2.0, 1 + root, 1.5])
    assert learning_rates(settings, 1, 3) == pytest.approx([1.0, 0.5, 1 - root])
    assert learning_rate(settings, 1, 2, 3) == pytest.approx(1 - root)


def test_cosine_is_stretched_when_a_run_is_extended():
    """After 1 of 4 epochs instead of 1 of 2: t = 1/4 instead of 1/2."""
    assert learning_rate(config(lr=2.0, epochs=4, schedule="cosine"), 1, 0, 3) == pytest.approx(1 + 2**-0.5)


def test_the_moving_average_warms_up_over_the_run_and_not_in_each_epoch():
    """(1 + n) / (10 + n) at step n of the run: 1/10, 2/11, 3/12, then 4/13 = 0.307… is cut to 0.3 for good."""
    settings = config(ema=0.3, epochs=3)
    assert ema_decays(settings, 0, 2) == pytest.approx([1 / 10, 2 / 11])
    assert ema_decays(settings, 1, 2) == pytest.approx([3 / 12, 0.3])
    assert ema_decays(settings, 2, 2) == [0.3, 0.3]


def test_no_moving_average_without_ema():
    assert ema_decays(config(), 0, 3) is None
