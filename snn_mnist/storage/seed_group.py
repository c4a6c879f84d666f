"""The runs of one directory of `-seeds` as a whole: which of them are to be trained yet, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.storage.directory import LATEST, new_run_directory
from snn_mnist.storage.naming import run_name
from snn_mnist.storage.position import Position, read_plain
from snn_mnist.storage.seeds import RUNS, SEEDS, Wanted, read_wanted


@dataclass(frozen=True)
class SeedGroup:
    folder: Path
    settings: Config  # of all the runs; `seed` is the first one's
    begun: dict[int, Path]  # the run directory of each seed that has a checkpoint

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    def unfinished(self) -> list[int]:
        def is_finished(seed: int) -> bool:
            return seed in self.begun and _epochs_done(self.begun[seed]) >= self.settings.epochs

        return [seed for seed in self.seeds if not is_finished(seed)]

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.settings.seed, self.settings.seeds, self.settings.epochs)

    def run(self, seed: int) -> Config:
        """The settings of one run: a new one, or one that goes on from its checkpoint."""
        if seed not in self.begun:
            one = replace(self.settings, out_dir=str(self.folder), name=f"seed{seed}", resume=None)
        else:
            given = self.settings.given - {"seed", "out_dir"} | {"epochs"}
            one = replace(self.settings, name=None, resume=str(self.begun[seed]), given=given)
        return replace(one, seed=seed, seeds=1, force=False)


def new(config: Config) -> SeedGroup:
    """A directory for the runs of `config.seeds` seeds."""
    last = config.seed + config.seeds - 1
    name = config.name or f"{run_name(replace(config, seed=0))}_seeds{config.seed}-{last}"
    return SeedGroup(new_run_directory(config.out_dir, name), config, {})


def resumed(config: Config) -> SeedGroup:
    """The runs of the directory that -resume names, with what the user gave now; UsageError where they can't have it.

    They stay repetitions of one another: none may have another learning rate or, on a cosine, another length.
    """
    folder = Path(config.resume or "")
    configs, begun = _begun(folder)
    if not begun:
        raise UsageError(f"no run in {folder} has a checkpoint; remove it and give its first command again")
    want = read_wanted(folder)
    if want is None:
        if "seeds" not in config.flags:
            raise UsageError(f"{folder / SEEDS} is damaged; say with -seeds how many seeds there are")
        want = Wanted(min(begun), config.seeds, max(each.epochs for each in configs.values()))
    first = min(want.first, *begun)
    saved = replace(configs[min(begun)], seed=first)
    for seed, each in configs.items():
        if changed := _changes(replace(each, seed=first), saved):
            raise UsageError(f"{begun[seed]} is no repetition of {begun[min(begun)]} ({', '.join(changed)}); "
                             "move it elsewhere, or resume the runs one by one")  # fmt: skip
    settings = config.on_top_of(saved.to_mapping())
    if changed := _changes(settings, saved):
        raise UsageError(f"can't resume {folder}: {', '.join(changed)} makes its runs differ; "
                         "leave that setting as it is, or start new runs")  # fmt: skip
    trained = max(map(_epochs_done, begun.values()))
    epochs = settings.epochs if "epochs" in config.given else max(want.epochs, trained)
    if epochs < trained:
        raise UsageError(f"-epochs {epochs}: a run in {folder} has {trained}; give that number or a larger one")
    least = max(begun) - first + 1
    seeds = config.seeds if "seeds" in config.flags else max(want.seeds, least)
    if seeds < least:
        raise UsageError(f"-seeds {seeds}: {folder} has {least}; give that number or a larger one")
    return SeedGroup(folder, replace(settings, epochs=epochs, seeds=seeds), begun)


def _begun(folder: Path) -> tuple[dict[int, Config], dict[int, Path]]:
    """The settings and the directory of each seed whose run has a checkpoint."""
    configs, begun = {}, {}
    for run in sorted(file.parent for file in folder.glob(f"{RUNS}/{LATEST}")):
        if not (run / "config.yaml").is_file():
            raise SNNError(f"{run} has no config.yaml; put it back, or remove the directory to train its seed anew")
        config = Config.from_yaml(run / "config.yaml")
        if config.seed not in begun:
            configs[config.seed], begun[config.seed] = config, run
    return configs, begun


def _epochs_done(run: Path) -> int:
    try:
        return Position.of(read_plain(run / LATEST)).epochs
    except SNNError as error:
        raise SNNError(f"{error}; remove {run} to train its seed anew") from error


def _changes(new: Config, old: Config) -> list[str]:
    """What makes runs differ in more than their seed."""
    return new.changes(old, (name for name in DECIDING if name != "epochs" or old.schedule == "cosine"))
