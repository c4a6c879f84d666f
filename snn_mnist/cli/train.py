"""Verb `train`: one run, or the same over several seeds.

python -m snn_mnist train -T 100 -b 64 -epochs 100 -opt adam -lr 1e-3 -tau 2.0
"""

from __future__ import annotations

from pathlib import Path

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import Config
from snn_mnist.storage.atomic_files import exclusive_lock
from snn_mnist.storage.directory import LATEST, find, require_writable
from snn_mnist.storage.position import Position, read_plain
from snn_mnist.storage.seeds import SEEDS, SeedGroup, is_group, new_group_directory
from snn_mnist.terminal import report
from snn_mnist.training import messages


def run(config: Config) -> int:
    """Train one run, or `-seeds` of them."""
    if is_group(config.resume) or (config.seeds > 1 and not config.resume):
        return run_group(config)
    if config.resume is None:
        require_writable(config.out_dir)  # before PyTorch is loaded
    elif finished := finished_epochs(config):
        print(messages.nothing_to_do(config, finished))
        return 0
    elif config.seeds > 1:
        others = find(config.resume).absolute().parents[1]
        remedy = f"resume {others}" if is_group(others) else "leave it out"
        raise UsageError(f"-seeds is for new runs or for a directory of them; {remedy}")
    from snn_mnist.training.interruption import Interruption
    from snn_mnist.training.loop import train

    interruption = Interruption()
    folder = train(config, interruption)
    if is_group(folder.parent):
        SeedGroup.read(folder.parent).save()
    return interruption.exit_code if interruption.requested else 0


def finished_epochs(config: Config) -> int:
    """Return the epochs of the finished run that -resume names; 0 where something is left to do, or to find out."""
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


def run_group(config: Config) -> int:
    """Train the runs of a directory of -seeds that are not finished; print and keep the mean ± std over all."""
    folder = Path(config.resume) if config.resume else new_group_directory(config)
    with exclusive_lock(folder):
        if config.resume:
            group, where = SeedGroup.resumed(config), f"the runs stay in {folder}"
            for note in config.without_effect({"out_dir": where, "name": where}):
                report(f"note: {note}")
        else:
            group = SeedGroup(folder, config, config)
        group.save()
        if not group.unfinished():
            print(messages.all_finished(group))
            return 0
        from snn_mnist.training.interruption import Interruption
        from snn_mnist.training.loop import train

        interruption = Interruption()
        try:
            for seed in group.unfinished():
                print(f"seed {seed}: {seed - group.seeds.start + 1} of {len(group.seeds)} runs", flush=True)
                train(group.run(seed), interruption)
                group.save()
                if interruption.requested:
                    break
        finally:
            if [file.name for file in folder.iterdir()] == [SEEDS]:  # refused before a run had a directory
                (folder / SEEDS).unlink()
                folder.rmdir()
        print(messages.interrupted_seeds(group) if group.unfinished() else messages.seeds_summary(group))
        return interruption.exit_code if interruption.requested else 0
