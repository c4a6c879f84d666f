"""Verb `train`: one run, or the same over several seeds.

python -m snn_mnist train -T 100 -b 64 -epochs 100 -opt adam -lr 1e-3 -tau 2.0
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.runs.config import Config
from snn_mnist.runs.naming import run_name
from snn_mnist.runs.seeds import SEEDS, is_group

if TYPE_CHECKING:
    from snn_mnist.training.interruption import Interruption


def run(config: Config) -> int:
    """Verb `train`: one run, or `-seeds` of them."""
    group = is_group(config.resume)
    if not group and (finished := finished_epochs(config)):
        from snn_mnist.training import messages

        print(messages.nothing_to_do(config, finished))
        return 0
    if config.resume and config.seeds > 1 and not group:
        raise UsageError(f"-seeds is for new runs, or for -resume of a directory with {SEEDS}; leave it out")
    from snn_mnist.training.interruption import Interruption
    from snn_mnist.training.loop import train

    interruption = Interruption()
    if group or config.seeds > 1:
        repeat(config, interruption)
    else:
        train(config, interruption)
    return interruption.exit_code if interruption.requested else 0


def finished_epochs(config: Config) -> int:
    """The epochs of the finished run that -resume names; 0 where something is left to do, or to find out by PyTorch."""
    from snn_mnist.runs.directory import LATEST, find

    if config.resume is None or config.given - {"resume", "epochs"}:
        return 0
    file = find(config.resume)
    if file.name != LATEST or not (saved := file.with_name("config.yaml")).is_file():
        return 0
    done = epochs_done(file.parent)
    try:
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
        group = Path(config.resume)
        begun = seeds.begun(group)
        common = _settings_of(group, config, begun)
    else:
        common, begun = config, {}
    numbers = range(common.seed, common.seed + common.seeds)
    if not config.resume:
        name = config.name or f"{run_name(replace(config, seed=0))}_seeds{numbers[0]}-{numbers[-1]}"
        group = new_run_directory(config.out_dir, name)
    try:
        seeds.write_summary(group, len(numbers))
        for done, seed in enumerate(numbers):
            if seed in begun and epochs_done(begun[seed]) >= common.epochs:
                continue
            print(f"seed {seed}: {done + 1} of {len(numbers)} runs", flush=True)
            if seed in begun:
                given = config.given - {"seeds", "out_dir", "name"}
                one = replace(config, seeds=1, resume=str(begun[seed]), given=given)
            else:
                one = replace(common, seed=seed, seeds=1, out_dir=str(group), name=f"seed{seed}", resume=None)
            row = train(one, interruption)
            complete = row.get("epoch") == common.epochs - 1
            if interruption.requested and (seed < numbers[-1] or not complete):
                print(f"{done + complete} of {len(numbers)} seeds are done; go on with all of them:\n"
                      f"python -m snn_mnist train -resume {shlex.quote(str(group))}")  # fmt: skip
                return
    finally:
        if [file.name for file in group.iterdir()] == [seeds.SEEDS]:  # refused before its first run had a directory
            (group / seeds.SEEDS).unlink()
            group.rmdir()
    summary = seeds.summary(group)
    print(f"{len(numbers)} seeds: test accuracy of the last epoch {seeds.spread_text(summary['last_epoch'])} "
          "(mean ± std)")  # fmt: skip
    if common.val:
        print(f"of the epochs chosen on held-out images: {seeds.spread_text(summary['chosen_by_val'])}")
    print(f"kept in {group / seeds.SEEDS}")


def _settings_of(group: Path, config: Config, begun: Mapping[int, Path]) -> Config:
    """What the runs of a directory of -seeds have in common: its first seed, how many, and what the user gave now."""
    from snn_mnist.runs.seeds import asked_for

    if not begun:
        raise UsageError(f"no run of {group} has a checkpoint; start its runs anew")
    saved = Config.from_yaml(begun[min(begun)] / "config.yaml").to_mapping()
    common = config.on_top_of(saved)
    if changed := common.changes_of_fixed_settings(saved):
        raise UsageError(f"can't resume {group}: {', '.join(changed)} changes the results; start new runs")
    count = max(asked_for(group), len(begun))
    if "seeds" in config.given and config.seeds < count:
        raise UsageError(f"-seeds {config.seeds}: {group} has {count} seeds; give that number or a larger one")
    return replace(common, seeds=max(count, config.seeds))


def epochs_done(run: Path) -> int:
    """The finished epochs of a run; 0 where its checkpoint is damaged, of which PyTorch's reader says more."""
    from snn_mnist.runs.directory import LATEST
    from snn_mnist.runs.survey import read_position

    try:
        return read_position(run / LATEST)[0]
    except SNNError:
        return 0
