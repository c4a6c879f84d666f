"""The directory of the runs of `train -seeds N`: seed0, seed1, … and seeds.json, with their settings and results."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError, UsageError, reason
from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.storage.atomic_files import write_file
from snn_mnist.storage.checkpoint import Position, load_plain
from snn_mnist.storage.directory import LATEST, new_run_directory
from snn_mnist.storage.metrics import mean_std, percent, read_metrics
from snn_mnist.storage.runs import best_tested, run_name

SEEDS = "seeds.json"


def is_group(path: str | os.PathLike[str] | None) -> bool:
    """Return whether this is a directory of -seeds."""
    return path is not None and os.path.isfile(os.path.join(path, SEEDS))


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

    def resumed(self, config: Config) -> SeedGroup:
        """Return the group with more seeds or epochs, as the user asks now; UsageError where its runs would differ in
        more than their seeds, on a cosine also in their length."""
        folder, runs, before = self.folder, self.runs(), self.settings
        seeds = config.seeds if "seeds" in config.flags else before.seeds  # a run's own config.yaml has 1
        wanted = config.on_top_of(before.to_mapping())
        names = [name for name in DECIDING if name != "epochs" or before.schedule == "cosine"]
        of_runs = {run: replace(Config.from_yaml(run / "config.yaml"), seed=before.seed) for run in runs.values()}
        for place, settings in {folder: before, **of_runs}.items():
            if changed := ", ".join(wanted.changes(settings, names)):
                raise UsageError(
                    f"can't resume {folder}: {changed} differs from {place}, and only the seeds may differ; "
                    "leave that flag out, or move that run elsewhere"
                )
        if (least := max(runs, default=0) - before.seed + 1) > seeds:
            raise UsageError(f"-seeds {seeds}: {folder} has seed {max(runs)}; give {least} or a larger number")
        epochs = max([wanted.epochs, *map(_epochs_done, runs.values())])
        return SeedGroup(folder, replace(before, seeds=seeds, epochs=epochs), config)

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    def runs(self) -> dict[int, Path]:
        """Return the directory of each seed whose run has a checkpoint: seed4, or seed4-2 after a death within seed4
        before its first checkpoint."""
        found = {}
        for run in sorted(file.parent for file in self.folder.glob(f"seed*/{LATEST}")):
            if name := re.fullmatch(r"seed(\d+)(-\d+)?", run.name):
                found[int(name[1])] = run
        return found

    def unfinished(self) -> list[int]:
        """Return the seeds whose runs are to be trained yet."""
        runs, epochs = self.runs(), self.settings.epochs
        return [seed for seed in self.seeds if seed not in runs or _epochs_done(runs[seed]) < epochs]

    def run(self, seed: int) -> Config:
        """Return the settings of one run: a new one, or one that continues from its checkpoint."""
        one = self.asked.on_top_of(self.settings.to_mapping())
        one = replace(one, seed=seed, seeds=1, epochs=self.settings.epochs, force=False)
        if run := self.runs().get(seed):
            given = self.asked.given - {"seed", "out_dir"} | {"epochs"}
            return replace(one, name=None, resume=str(run), given=given, flags=self.asked.flags & given)
        return replace(one, out_dir=str(self.folder), name=f"seed{seed}", resume=None)

    def save(self) -> None:
        """Write seeds.json: the settings, and the results so far."""
        content = {"settings": self.settings.to_mapping(), **self.summary()}
        write_file(self.folder / SEEDS, json.dumps(content, indent=2) + "\n")

    def summary(self) -> dict[str, Any]:
        """Return mean ± std (n - 1) over the finished runs: of the test accuracy after the last epoch, and with -val
        of the checkpoint that the held-out images chose. Accuracies are shares of 1; a run that is shorter than the
        longest one is not finished, and one whose metrics.csv is missing or damaged does not count.
        """
        runs: dict[int, list[dict[str, Any]]] = {}
        for seed, run in self.runs().items():
            with contextlib.suppress(SNNError):
                if rows := read_metrics(run / "metrics.csv"):
                    runs[seed] = rows
        epochs = max([self.settings.epochs, *(rows[-1]["epochs"] for rows in runs.values())])
        finished = {seed: rows for seed, rows in sorted(runs.items()) if rows[-1]["epochs"] == epochs}
        best = {seed: best_tested(rows) for seed, rows in finished.items()} if self.settings.val else {}
        return {
            "seeds": self.settings.seeds,
            "epochs": epochs,
            "finished": len(finished),
            "last_epoch": _spread({seed: rows[-1] for seed, rows in finished.items()}),
            "chosen_by_val": _spread(best),
        }

    def results(self) -> str:
        """Return the summary as text."""
        found = self.summary()
        lines = [f"{found['finished']} seeds, not tested (-no-test)"]
        if last := found["last_epoch"]:
            tested = f"{len(last['of_seed'])} of " if len(last["of_seed"]) < found["seeds"] else ""
            accuracy = f"test accuracy of the last epoch {percent(last['of_seed'].values())} (mean ± std)"
            lines = [f"{tested}{found['seeds']} seeds: {accuracy}"]
        if best := found["chosen_by_val"]:
            lines.append(f"of the epochs chosen on held-out images: {percent(best['of_seed'].values())}")
        return "\n".join([*lines, f"kept in {self.folder / SEEDS}"])


def _epochs_done(run: Path) -> int:
    return Position.of(load_plain(run / LATEST)).epochs


def _spread(rows: Mapping[int, Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the test accuracies in these rows and their mean and std; None without any."""
    accuracies = {str(seed): row["test_acc"] for seed, row in rows.items() if row and "test_acc" in row}
    if not accuracies:
        return None
    mean, std = mean_std(list(accuracies.values()))
    return {"mean": mean, "std": std, "of_seed": accuracies}
