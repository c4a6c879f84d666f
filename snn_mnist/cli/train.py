"""Verb `train`: one run, or the same over several seeds.

python -m snn_mnist train -T 100 -b 64 -epochs 100 -opt adam -lr 1e-3 -tau 2.0
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from snn_mnist.errors import UsageError
from snn_mnist.settings.config import Config
from snn_mnist.storage.atomic_files import exclusive_lock, new_run_directory
from snn_mnist.storage.checkpoint import BEST, LATEST, find_checkpoint
from snn_mnist.storage.runs import STUDY, SeedGroup, is_group, run_name
from snn_mnist.training.console import Interruption


def run(config: Config) -> int:
    """Train one run, or `-seeds` of them."""
    if is_group(config.resume) or (config.seeds > 1 and not config.resume):
        return run_group(config)
    if config.seeds > 1:
        raise UsageError(f"-seeds {config.seeds} is not for the single run {config.resume}; resume its group")
    file = Path(find_checkpoint(config.resume) if config.resume else "").absolute()
    if file.match(f"trial-*/{LATEST}") and (file.parents[1] / STUDY).is_file():
        new = f"for a new run that begins with its weights give -resume {file.with_name(BEST)} -out-dir DIR"
        raise UsageError(f"{file.parent} is a trial, which only its sweep continues; {new}")
    from snn_mnist.training.loop import train

    interruption = Interruption()
    folder = train(config, interruption)
    if is_group(folder.parent):
        SeedGroup.read(folder.parent).save()
    return interruption.exit_code


def run_group(config: Config) -> int:
    """Train the runs of a directory of -seeds that are not finished; print and keep the mean ± std over all."""
    interruption, last = Interruption(), config.seed + config.seeds - 1
    name = config.name or f"{run_name(replace(config, seed=0))}_seeds{config.seed}-{last}"
    folder = Path(config.resume) if config.resume else new_run_directory(config.out_dir, name)
    with exclusive_lock(folder):
        group = SeedGroup(folder, config)
        if config.resume:
            group = SeedGroup.read(folder).extended(config)
        group.save()
        seeds = group.settings.seeds
        for seed in group.unfinished():
            from snn_mnist.training.loop import train  # with PyTorch, which takes seconds

            print(f"seed {seed}: {seed - group.settings.seed + 1} of {seeds} runs", flush=True)
            train(group.run(seed, config), interruption)
            group.save()
            if interruption.requested:
                break
        if left := len(group.unfinished()):
            print(f"{seeds - left} of {seeds} seeds finished")
            print(f"resume all with: python -m snn_mnist train -resume {shlex.quote(str(folder))}")
        else:
            print(group.results())
    return interruption.exit_code
