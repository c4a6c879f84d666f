"""The directory of the runs of `train -seeds N`: seed0, seed1, … and seeds.json, with their settings and results."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.storage.atomic_files import reason, write_file
from snn_mnist.storage.directory import LATEST, new_run_directory
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.storage.position import Position, read_plain
from snn_mnist.storage.runs import chosen, run_name

SEEDS = "seeds.json"


def is_group(path: str | os.PathLike[str] | None) -> bool:
    """Return whether this is a directory of -seeds."""
    return path is not None and os.path.isfile(os.path.join(path, SEEDS))


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation (n - 1); None as that of a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def new_group_directory(config: Config) -> Path:
    """Make the directory for the runs of `config.seeds` seeds."""
    last = config.seed + config.seeds - 1
    name = config.name or f"{run_name(replace(config, seed=0))}_seeds{config.seed}-{last}"
    return new_run_directory(config.out_dir, name)


@dataclass(frozen=True)
class SeedGroup:
    """Runs with the same settings but for their seeds, `settings.seed` up; each is trained for `settings.epochs`."""

    folder: Path
    settings: Config  # that seeds.json keeps
    asked: Config  # what the user gave now, for the machine of this process too

    @classmethod
    def read(cls, folder: Path) -> SeedGroup:
        """Return the group of a directory, with the settings that seeds.json keeps."""
        try:
            kept = Config.from_mapping(json.loads((folder / SEEDS).read_text(encoding="utf-8"))["settings"])
            return cls(folder, kept, kept)
        except (OSError, ValueError, KeyError, TypeError, SNNError) as error:
            raise SNNError(f"{folder / SEEDS} is damaged ({reason(error)}); resume the runs one by one") from error

    @classmethod
    def resumed(cls, config: Config) -> SeedGroup:
        """Return the group that -resume names, with what the user gave now; UsageError where it can't have it.

        The runs may differ in the seed only: none may have another learning rate or, on a cosine, another length.
        """
        saved = cls.read(Path(config.resume or ""))
        folder, begun = saved.folder, saved.begun()
        seeds = config.seeds if "seeds" in config.flags else saved.settings.seeds  # a run's own config.yaml has 1
        wanted = config.on_top_of(saved.settings.to_mapping())
        if changed := _changes(wanted, saved.settings):
            raise UsageError(
                f"can't resume {folder}: {', '.join(changed)} makes its runs differ; "
                "leave that setting as it is, or start new runs"
            )
        for seed, run in begun.items():
            if changed := _changes(Config.from_yaml(run / "config.yaml"), replace(saved.settings, seed=seed)):
                raise UsageError(
                    f"{run} is no repetition of the others ({', '.join(changed)}); "
                    "move it elsewhere, or resume the runs one by one"
                )
        if (least := max(begun, default=0) - wanted.seed + 1) > seeds:
            raise UsageError(f"-seeds {seeds}: {folder} has seed {max(begun)}; give {least} or a larger number")
        epochs = max([wanted.epochs, *map(_epochs_done, begun.values())])
        return cls(folder, replace(saved.settings, seeds=seeds, epochs=epochs), config)

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    def begun(self) -> dict[int, Path]:
        """Return the directory of each seed whose run has a checkpoint."""
        runs = sorted((file.parent for file in self.folder.glob(f"seed[0-9]*/{LATEST}")), reverse=True)
        return {Config.from_yaml(run / "config.yaml").seed: run for run in runs}

    def unfinished(self) -> list[int]:
        """Return the seeds whose runs are to be trained yet."""
        begun, epochs = self.begun(), self.settings.epochs
        return [seed for seed in self.seeds if seed not in begun or _epochs_done(begun[seed]) < epochs]

    def run(self, seed: int) -> Config:
        """Return the settings of one run: a new one, or one that continues from its checkpoint."""
        one = self.asked.on_top_of(self.settings.to_mapping())
        one = replace(one, seed=seed, seeds=1, epochs=self.settings.epochs, force=False)
        if run := self.begun().get(seed):
            given = self.asked.given - {"seed", "out_dir"} | {"epochs"}
            return replace(one, name=None, resume=str(run), given=given)
        return replace(one, out_dir=str(self.folder), name=f"seed{seed}", resume=None)

    def save(self) -> None:
        """Write seeds.json: the settings, and the results so far."""
        content = {"settings": self.settings.to_mapping(), **self.summary()}
        write_file(self.folder / SEEDS, json.dumps(content, indent=2) + "\n")

    def summary(self) -> dict[str, Any]:
        """Return mean ± std (n - 1) over the finished runs: of the test accuracy after the last epoch, and with -val
        of the checkpoint that the held-out images chose. Accuracies are shares of 1; a run that is shorter than the
        longest one is not finished.
        """
        runs = dict(self._rows())
        epochs = max([self.settings.epochs, *(rows[-1]["epochs"] for rows in runs.values())])
        finished = {seed: rows for seed, rows in sorted(runs.items()) if rows[-1]["epochs"] == epochs}
        best = {seed: chosen(rows) for seed, rows in finished.items()} if self.settings.val else {}
        return {
            "seeds": self.settings.seeds,
            "epochs": epochs,
            "finished": len(finished),
            "last_epoch": _spread({seed: rows[-1] for seed, rows in finished.items() if "test_acc" in rows[-1]}),
            "chosen_by_val": _spread({seed: row for seed, row in best.items() if row}),
        }

    def _rows(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yield seed and metrics of each run that has some; one whose files are missing or damaged has none."""
        for run in self.folder.glob(f"seed[0-9]*/{LATEST}"):
            try:
                config, rows = (
                    Config.from_yaml(run.with_name("config.yaml")),
                    read_metrics(run.with_name("metrics.csv")),
                )
            except SNNError:
                continue
            if rows:
                yield config.seed, rows


def _epochs_done(run: Path) -> int:
    return Position.of(read_plain(run / LATEST)).epochs


def _changes(new: Config, old: Config) -> list[str]:
    """Return what makes runs differ in more than their seed."""
    return new.changes(old, (name for name in DECIDING if name != "epochs" or old.schedule == "cosine"))


def _spread(rows: Mapping[int, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the test accuracies in these rows and their mean and std; None without any."""
    if not rows:
        return None
    accuracies = {str(seed): row["test_acc"] for seed, row in rows.items()}
    mean, std = mean_std(list(accuracies.values()))
    return {"mean": mean, "std": std, "of_seed": accuracies}


def spread_text(spread: Mapping[str, Any] | None) -> str:
    """'91.40 ± 0.10 %'"""
    if spread is None:
        return "none"
    std = "" if spread["std"] is None else f" ± {100 * spread['std']:.2f}"
    return f"{100 * spread['mean']:.2f}{std} %"
