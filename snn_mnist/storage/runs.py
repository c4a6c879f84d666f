"""Runs on disk: names, differences, results and state, and the groups that `-seeds` makes. Without PyTorch."""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError, UsageError, reason
from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.settings.options import options_of, show
from snn_mnist.storage.atomic_files import is_locked, write_file
from snn_mnist.storage.checkpoint import LATEST, Position, load_plain, run_directories
from snn_mnist.storage.metrics import mean_std, percent, read_metrics

OPTIONS = {each.name: each for each in options_of(Config)}
ABBREVIATED = {"v_threshold": "vth", "v_reset": "vreset", "limit_batches": "limit", "encoding": ""}
# Their values say which setting it is
SELF_EXPLAINING = ("dataset", "neuron", "net", "opt", "surrogate", "schedule", "loss")
STUDY, PRUNED = "study.yaml", "pruned.txt"  # what `sweep` writes: the settings of a study; in a trial: why it ended


def run_name(config: Config) -> str:
    """Return 'T100_b64_adam_lr0.001' as in the tutorial, and behind it the settings that are not the defaults.

    The number of epochs is left out, because a run may be extended, and so are the settings of the machine.
    """
    parts = [f"T{config.T}", f"b{config.b}", config.opt, f"lr{config.lr}"]
    for name in ("amp", *(each for each in DECIDING if each not in ("T", "b", "opt", "lr", "epochs", "amp"))):
        if (value := getattr(config, name)) != OPTIONS[name].default:
            prefix = "" if name in SELF_EXPLAINING else ABBREVIATED.get(name, name)
            file, _, own = str(value).rpartition(":")  # of the user's own code
            text = (Path(file).stem if own == "make" else own) if file else show(value).removesuffix(".0")
            parts.append(prefix + ("" if value is True else text))
    return "_".join(parts)[:200]


def differences(configs: Sequence[Config]) -> list[str]:
    """Return for each run 'tau 1.1, sigmoid, seed 3': what differs among these runs.

    A setting that has the same value in more than half of them is named in the others only.
    """
    found: list[list[str]] = [[] for _ in configs]
    for name in DECIDING:
        values = [getattr(config, name) for config in configs]
        usual, often = Counter(values).most_common(1)[0]
        for texts, config, value in zip(found, configs, values, strict=True):
            if often < len(values) and (value != usual or 2 * often <= len(values)) and name not in config.unused:
                text = OPTIONS[name].shown if value is None and OPTIONS[name].shown else show(value).removesuffix(".0")
                texts.append(text if name in SELF_EXPLAINING else f"{OPTIONS[name].flag[1:]} {text}")
    return list(map(", ".join, found))


def labels(runs: Mapping[Path, Config]) -> list[str]:
    """Return 'tau 1.1, seed 3' for each run, see `differences`; its shortest path where that is not enough."""
    resolved = [folder.resolve() for folder in runs]
    common = os.path.commonpath([folder.parent for folder in resolved])
    names = [os.path.relpath(path, common) for path in resolved]
    texts = differences(list(runs.values()))
    often = Counter(texts)
    return [
        name if not text else f"{text} ({name})" if often[text] > 1 else text
        for name, text in zip(names, texts, strict=True)
    ]


def best_tested(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the row of the epoch that checkpoint_max.pth holds: the first with the highest accuracy on the held-out
    images, without -val on the test images."""
    tested = [row for row in rows if "test_acc" in row]
    return max(tested, key=lambda row: row.get("val_acc", row["test_acc"]), default=None)


@dataclass(frozen=True)
class Run:
    """A run directory. Accuracies are shares of 1; None where there is none yet."""

    folder: Path
    config: Config
    state: str  # 'running', 'finished', 'pruned' or 'interrupted'
    step: int  # of the epoch in which it was interrupted; 0: between two epochs
    epochs_done: int
    last_test_acc: float | None  # after the last epoch
    best_test_acc: float | None  # of checkpoint_max.pth
    last_val_acc: float | None  # on the held-out images
    best_val_acc: float | None
    train_images_per_s: float | None  # the median over the epochs
    date: str  # when its last checkpoint was written, as in 2026-03-04T12:00:00+0100
    converted: bool  # of the verb convert: the accuracies are those of the ANN


def read_run(folder: Path) -> Run:
    """Read a run; SNNError, OSError where its files are missing or damaged."""
    config, rows = Config.from_yaml(folder / "config.yaml"), read_metrics(folder / "metrics.csv")
    file, state, position = folder / "metrics.csv", {}, Position()
    if (folder / LATEST).is_file():  # else it has just begun
        file = folder / LATEST
        state = load_plain(file)
        position = Position.of(state)
        rows = [row for row in rows if row["epochs"] <= position.epochs]  # a resumed run writes later ones again
    running, finished, pruned = is_locked(folder), position.epochs >= config.epochs, (folder / PRUNED).is_file()
    tests, held_out, speeds = (
        [row[name] for row in rows if name in row] for name in ("test_acc", "val_acc", "train_images_per_s")
    )
    best = best_tested(rows)
    return Run(
        folder,
        config,
        state="running" if running else "finished" if finished else "pruned" if pruned else "interrupted",
        step=0 if running or finished else position.step,
        epochs_done=rows[-1]["epochs"] if rows else 0,
        last_test_acc=tests[-1] if tests else None,
        best_test_acc=best["test_acc"] if best else None,
        last_val_acc=held_out[-1] if held_out else None,
        best_val_acc=max(held_out, default=None),
        train_images_per_s=statistics.median(speeds) if speeds else None,
        date=time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(file.stat().st_mtime)),
        converted="ann" in state,
    )


def survey(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Return the runs in these directories, each once, and a line for each directory that can't be read."""
    found: dict[Path, Run] = {}
    problems: list[str] = []
    for folder in folders:
        for path in run_directories(folder):
            try:
                found.setdefault(path.resolve(), read_run(path))
            except SNNError as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"{path} can't be read ({reason(error)})")
    return list(found.values()), problems


# ---- the runs of `train -seeds N` -----------------------------------------------------------------------------------

SEEDS = "seeds.json"


def is_group(path: str | os.PathLike[str] | None) -> bool:
    """Return whether this is a directory of -seeds."""
    return path is not None and os.path.isfile(os.path.join(path, SEEDS))


@dataclass(frozen=True)
class SeedGroup:
    """Runs with the same settings but for their seeds, `settings.seed` up; each is trained for `settings.epochs`."""

    folder: Path
    settings: Config  # that seeds.json keeps

    @classmethod
    def read(cls, folder: Path) -> SeedGroup:
        """Return the group of a directory, with the settings that seeds.json keeps."""
        try:
            kept = json.loads((folder / SEEDS).read_text(encoding="utf-8"))
            return cls(folder, Config.from_mapping(kept["settings"]))
        except (OSError, ValueError, KeyError, TypeError, SNNError) as error:
            raise SNNError(f"{folder / SEEDS} is damaged ({reason(error)}); resume the runs one by one") from error

    def extended(self, asked: Config) -> SeedGroup:
        """Return the group with more seeds or epochs, as the user asks now; UsageError where its runs would differ in
        more than their seeds, on a cosine also in their length."""
        runs, before = self.runs(), self.settings
        seeds = asked.seeds if "seeds" in asked.flags else before.seeds  # a run's own config.yaml has 1
        wanted = asked.on_top_of(before.to_mapping())
        names = [name for name in DECIDING if name != "epochs" or before.schedule == "cosine"]
        if changed := ", ".join(wanted.changes(before, names)):
            raise UsageError(f"can't resume {self.folder}: only the seeds may differ, not {changed}; leave it out")
        if (least := max(runs, default=0) - before.seed + 1) > seeds:
            raise UsageError(f"-seeds {seeds}: {self.folder} has seed {max(runs)}; give {least} or a larger number")
        return SeedGroup(self.folder, replace(before, seeds=seeds, epochs=wanted.epochs))

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
        done = {seed: Position.of(load_plain(run / LATEST)).epochs for seed, run in self.runs().items()}
        seeds = range(self.settings.seed, self.settings.seed + self.settings.seeds)
        return [seed for seed in seeds if done.get(seed, 0) < self.settings.epochs]

    def run(self, seed: int, asked: Config) -> Config:
        """Return the settings of one run: a new one, or one that continues from its checkpoint.

        asked: what the user gave now, for the machine of this process too.
        """
        one = asked.on_top_of(self.settings.to_mapping())
        one = replace(one, seed=seed, seeds=1, epochs=self.settings.epochs, force=False)
        if run := self.runs().get(seed):
            given = asked.given - {"seed", "out_dir"} | {"epochs"}
            return replace(one, name=None, resume=str(run), given=given, flags=asked.flags & given)
        first = next(iter(self.runs().values()), self.folder)
        copies = {}
        if asked.resume:  # a path that seeds.json names is never run
            copies = {name: str(first / f"{name}.py") for name in ("net", "surrogate") if name not in asked.flags}
        return replace(one, out_dir=str(self.folder), name=f"seed{seed}", resume=None, copies=copies)

    def save(self) -> None:
        """Write seeds.json: the settings, and the results so far."""
        content = {"settings": self.settings.to_mapping(), **self.summary()}
        write_file(self.folder / SEEDS, json.dumps(content, indent=2) + "\n")

    def summary(self) -> dict[str, Any]:
        """Return mean ± std (n - 1) over the finished runs: of the test accuracy after the last epoch, and with -val
        of the checkpoint that the held-out images chose. Accuracies are shares of 1; a run of another length does not
        count.
        """
        runs = {seed: read_metrics(run / "metrics.csv") for seed, run in sorted(self.runs().items())}
        finished = {seed: rows for seed, rows in runs.items() if rows and rows[-1]["epochs"] == self.settings.epochs}
        best = {seed: best_tested(rows) for seed, rows in finished.items() if self.settings.val}
        return {
            "seeds": self.settings.seeds,
            "epochs": self.settings.epochs,
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


def _spread(rows: Mapping[int, Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the test accuracies in these rows and their mean and std; None without any."""
    accuracies = {str(seed): row["test_acc"] for seed, row in rows.items() if row and "test_acc" in row}
    if not accuracies:
        return None
    mean, std = mean_std(list(accuracies.values()))
    return {"mean": mean, "std": std, "of_seed": accuracies}
