"""Learning rate and EMA decay of each step, as functions of the position in the run."""

from __future__ import annotations

import math

from snn_mnist.settings.config import Config


def learning_rate(config: Config, epoch: int, step: int, steps: int) -> float:
    """lr, or with cosine (1 + cos(pi t)) lr / 2, where t is the share of the run's steps that are done.

    step: of `steps` steps of this epoch, from 0.
    """
    if config.schedule == "constant":
        return config.lr
    t = (epoch * steps + step) / (config.epochs * steps)
    return config.lr * (1 + math.cos(math.pi * t)) / 2


def learning_rates(config: Config, epoch: int, steps: int) -> list[float]:
    """The learning rate of each step of an epoch."""
    return [learning_rate(config, epoch, step, steps) for step in range(steps)]


def ema_decays(config: Config, epoch: int, steps: int) -> list[float] | None:
    """The decay of the averaged weights at each step of an epoch, None without -ema.

    min(ema, (1 + n) / (10 + n)) at step n of the run: a shorter memory at first, so that the initial weights fade.
    """
    if not config.ema:
        return None
    first = epoch * steps
    return [min(config.ema, (1 + n) / (10 + n)) for n in range(first, first + steps)]
