"""Verb `train`: one run, or the same over several seeds.

python -m snn_mnist train -T 100 -b 64 -epochs 100 -opt adam -lr 1e-3 -tau 2.0
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

from snn_mnist.errors import UsageError
from snn_mnist.runs.config import Config

if TYPE_CHECKING:
    from snn_mnist.training.interruption import Interruption


def run(config: Config) -> int:
    """Verb `train`: one run, or `-seeds` of them."""
    from snn_mnist.training.interruption import Interruption
    from snn_mnist.training.loop import train

    interruption = Interruption()
    if config.seeds == 1:
        train(config, interruption)
    else:
        repeat(config, interruption)
    return interruption.exit_code if interruption.requested else 0


def repeat(config: Config, interruption: Interruption) -> None:
    """The same run with seed, seed + 1, …, each in a directory of its own; prints mean ± std of the last epoch."""
    from snn_mnist.training.loop import train

    if config.resume:
        raise UsageError("-seeds starts new runs; resume a single one without it")
    finals: list[float] = []
    for seed in range(config.seed, config.seed + config.seeds):
        print(f"seed {seed}: {seed - config.seed + 1} of {config.seeds} runs", flush=True)
        row = train(replace(config, seed=seed, seeds=1), interruption)
        if row.get("epoch") == config.epochs - 1:
            finals.append(100 * row["test_acc"])
        if interruption.requested and len(finals) < config.seeds:
            print(f"{len(finals)} of {config.seeds} seeds were done before")
            return
    mean, std = statistics.mean(finals), statistics.stdev(finals)
    print(f"{len(finals)} seeds: test accuracy of the last epoch {mean:.2f} ± {std:.2f} % (mean ± std)")
