"""Verb `train`: one run, or the same over several seeds.

python -m snn_mnist train -T 100 -b 64 -epochs 100 -opt adam -lr 1e-3 -tau 2.0
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.runs.config import Config
from snn_mnist.runs.naming import run_name

if TYPE_CHECKING:
    from snn_mnist.training.interruption import Interruption


def run(config: Config) -> int:
    """Verb `train`: one run, or `-seeds` of them."""
    if finished := finished_epochs(config):
        from snn_mnist.training import messages

        print(messages.nothing_to_do(config, finished))
        return 0
    from snn_mnist.training.interruption import Interruption
    from snn_mnist.training.loop import train

    interruption = Interruption()
    if config.seeds == 1:
        train(config, interruption)
    else:
        repeat(config, interruption)
    return interruption.exit_code if interruption.requested else 0


def finished_epochs(config: Config) -> int:
    """The epochs of the finished run that -resume names; 0 where something is left to do, or to find out by PyTorch."""
    from snn_mnist.runs.directory import LATEST, find
    from snn_mnist.runs.survey import read_position

    if config.resume is None or config.given - {"resume", "epochs"}:
        return 0
    file = find(config.resume)
    if file.name != LATEST or not (saved := file.with_name("config.yaml")).is_file():
        return 0
    try:
        done, _ = read_position(file)
        wanted = config.epochs if "epochs" in config.given else Config.from_yaml(saved).epochs
    except SNNError:  # damaged: PyTorch's reader says more
        return 0
    return done if done >= wanted else 0


def repeat(config: Config, interruption: Interruption) -> None:
    """The same run with seed, seed + 1, …, in one directory; prints and keeps the mean ± std over them."""
    from snn_mnist.runs import seeds
    from snn_mnist.runs.directory import new_run_directory
    from snn_mnist.training.loop import train

    if config.resume:
        raise UsageError("-seeds starts new runs; resume a single one without it")
    numbers = range(config.seed, config.seed + config.seeds)
    name = config.name or f"{run_name(replace(config, seed=0))}_seeds{numbers[0]}-{numbers[-1]}"
    group = new_run_directory(config.out_dir, name)
    try:
        seeds.write_summary(group, config.seeds)
        for done, seed in enumerate(numbers):
            print(f"seed {seed}: {done + 1} of {config.seeds} runs", flush=True)
            one = replace(config, seed=seed, seeds=1, out_dir=str(group), name=f"seed{seed}")
            row = train(one, interruption)
            complete = row.get("epoch") == config.epochs - 1
            if interruption.requested and (seed < numbers[-1] or not complete):
                print(f"{done + complete} of {config.seeds} seeds were done before")
                return
    finally:
        if [file.name for file in group.iterdir()] == [seeds.SEEDS]:  # refused before its first run had a directory
            (group / seeds.SEEDS).unlink()
            group.rmdir()
    summary = seeds.summary(group)
    print(
        f"{config.seeds} seeds: test accuracy of the last epoch {seeds.spread_text(summary['last_epoch'])} (mean ± std)"
    )
    if config.val:
        print(f"of the epochs chosen on held-out images: {seeds.spread_text(summary['chosen_by_val'])}")
    print(f"kept in {group / seeds.SEEDS}")
