"""The runs of one directory of `-seeds` as a whole: which of them are to be trained yet, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.runs.config import Config
from snn_mnist.runs.directory import LATEST, new_run_directory
from snn_mnist.runs.naming import run_name
from snn_mnist.runs.resume_rules import CHANGEABLE_ON_RESUME
from snn_mnist.runs.seeds import RUNS, kept
from snn_mnist.runs.survey import read_position


@dataclass(frozen=True)
class SeedGroup:
    folder: Path
    settings: Config  # of all the runs; `seed` is the first one's
    begun: dict[int, Path]  # the run directory of each seed that has a checkpoint

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    def unfinished(self) -> list[int]:
        return [seed for seed in self.seeds if not self._is_finished(seed)]

    def _is_finished(self, seed: int) -> bool:
        try:
            return seed in self.begun and read_position(self.begun[seed] / LATEST)[0] >= self.settings.epochs
        except SNNError as error:
            raise SNNError(f"{error}; remove {self.begun[seed]} to train its seed anew") from error

    def run(self, seed: int) -> Config:
        """The settings of one run: a new one, or one that goes on from its checkpoint."""
        if seed not in self.begun:
            one = replace(self.settings, out_dir=str(self.folder), name=f"seed{seed}", resume=None)
        else:
            given = self.settings.given - {"seed", "out_dir"} | set(CHANGEABLE_ON_RESUME)
            one = replace(self.settings, name=None, resume=str(self.begun[seed]), given=given)
        return replace(one, seed=seed, seeds=1, force=False)


def new(config: Config) -> SeedGroup:
    """A directory for the runs of `config.seeds` seeds."""
    last = config.seed + config.seeds - 1
    name = config.name or f"{run_name(replace(config, seed=0))}_seeds{config.seed}-{last}"
    return SeedGroup(new_run_directory(config.out_dir, name), config, {})


def resumed(config: Config) -> SeedGroup:
    """The runs of the directory that -resume names, with what the user gave now; UsageError where they can't have it.

    Of their own settings those of the first run count, and the largest number of epochs.
    """
    folder = Path(config.resume or "")
    configs = _begun(folder)
    if not configs:
        raise UsageError(f"no run in {folder} has a checkpoint; remove it and give its first command again")
    found = {each.seed: run for run, each in reversed(configs.items())}
    first, count = kept(folder)
    first = min(found) if first is None else min(first, *found)
    saved = replace(configs[found[min(found)]], seed=first).to_mapping()
    settings = config.on_top_of(saved)
    if changed := settings.changes_of_fixed_settings(saved):
        raise UsageError(f"can't resume {folder}: {', '.join(changed)} changes the result; "
                         "remove that flag, or start new runs")  # fmt: skip
    longest = max(each.epochs for each in configs.values())
    if "epochs" not in config.given:
        settings = replace(settings, epochs=longest)
    elif config.epochs < longest:
        raise UsageError(f"-epochs {config.epochs}: {folder} has runs of {longest}; give that number or a larger one")
    least = max(found) - first + 1
    if "seeds" in config.flags:
        if config.seeds < least:
            raise UsageError(f"-seeds {config.seeds}: {folder} has {least}; give that number or a larger one")
        count = config.seeds
    return SeedGroup(folder, replace(settings, seeds=max(count, least)), found)


def _begun(folder: Path) -> dict[Path, Config]:
    """The runs that have a checkpoint, by name."""
    found = {}
    for run in sorted(file.parent for file in folder.glob(f"{RUNS}/{LATEST}")):
        if not (run / "config.yaml").is_file():
            raise SNNError(f"{run} has no config.yaml; put it back, or remove the directory to train its seed anew")
        found[run] = Config.from_yaml(run / "config.yaml")
    return found
