"""Verb `train`: one run, or the same over several seeds.

python -m snn_mnist train -T 100 -b 64 -epochs 100 -opt adam -lr 1e-3 -tau 2.0
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snn_mnist.cli.shared_options import print_notes
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import Config
from snn_mnist.storage import seed_group, seeds
from snn_mnist.storage.atomic_files import exclusive_lock
from snn_mnist.storage.directory import LATEST, find
from snn_mnist.storage.position import Position, read_plain
from snn_mnist.storage.seed_group import SeedGroup
from snn_mnist.training import messages

if TYPE_CHECKING:
    from snn_mnist.training.interruption import Interruption


def run(config: Config) -> int:
    """Verb `train`: one run, or `-seeds` of them."""
    group = None
    if seeds.is_group(config.resume):
        group = seed_group.resumed(config)
        where = f"the runs stay in {group.folder}"
        print_notes(config.without_effect({"out_dir": where, "name": where, "force": "it is for a single run"}))
        if not group.unfinished():
            if "seeds" in config.flags:  # a smaller number takes a larger one back
                seeds.write_summary(group.folder, group.wanted)
            print(messages.all_finished(group))
            return 0
    elif finished := finished_epochs(config):
        print(messages.nothing_to_do(config, finished))
        return 0
    elif config.resume and config.seeds > 1:
        others = find(config.resume).absolute().parents[1]
        remedy = f"resume {others}" if seeds.is_group(str(others)) else "leave it out"
        raise UsageError(f"-seeds is for new runs or for a directory of them; {remedy}")
    from snn_mnist.training.interruption import Interruption
    from snn_mnist.training.loop import train

    interruption = Interruption()
    if group or config.seeds > 1:
        repeat(group or seed_group.new(config), interruption)
    else:
        train(config, interruption)
    return interruption.exit_code if interruption.requested else 0


def finished_epochs(config: Config) -> int:
    """The epochs of the finished run that -resume names; 0 where something is left to do, or to find out by PyTorch."""
    if config.resume is None or config.given - {"resume", "epochs"}:
        return 0
    file = find(config.resume)
    if file.name != LATEST or not (saved := file.with_name("config.yaml")).is_file():
        return 0
    try:
        done = Position.of(read_plain(file)).epochs
        wanted = config.epochs if "epochs" in config.given else Config.from_yaml(saved).epochs
    except SNNError:  # damaged: PyTorch's reader says more
        return 0
    return done if done >= wanted else 0


def repeat(group: SeedGroup, interruption: Interruption) -> None:
    """Trains the runs of a directory of -seeds that are not finished; prints and keeps the mean ± std over all."""
    from snn_mnist.training.loop import train_run

    try:
        with exclusive_lock(group.folder):
            if group.settings.resume:
                group = seed_group.resumed(group.settings)  # as another process may have left it meanwhile
            seeds.write_summary(group.folder, group.wanted)
            for seed in group.unfinished():
                print(f"seed {seed}: {seed - group.seeds.start + 1} of {len(group.seeds)} runs", flush=True)
                _, group.begun[seed] = train_run(group.run(seed), interruption)
                if interruption.requested:
                    break
    finally:
        if [file.name for file in group.folder.iterdir()] == [seeds.SEEDS]:  # refused before a run had a directory
            (group.folder / seeds.SEEDS).unlink()
            group.folder.rmdir()
    print(messages.interrupted_seeds(group) if group.unfinished() else messages.seeds_summary(group.folder))
