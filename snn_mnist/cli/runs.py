"""Verb `runs`: a table of runs with their results, their state and what differs between them.

    python -m snn_mnist runs logs other/logs -sort last

A terminal shows as much of a line as it is wide; files, pipes, -csv and -json get all.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_mnist.cli.shared import publish, write_output
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import Config, train_option
from snn_mnist.settings.options import Options, option, options_of
from snn_mnist.storage.metrics import csv_text
from snn_mnist.storage.runs import Run, SeedGroup, differences, is_group, survey
from snn_mnist.terminal import wrapped

SETTINGS = [each.name for each in options_of(Config) if each.saved and each.name not in ("epochs", "seeds")]
COLUMNS: dict[str, Callable[[Run], Any]] = {
    "run": lambda run: str(run.folder),
    "last": lambda run: run.last_val_acc if run.last_test_acc is None else run.last_test_acc,
    "best": lambda run: run.best_val_acc if run.last_test_acc is None else run.best_test_acc,
    "epochs": lambda run: run.epochs_done,
    "speed": lambda run: run.train_images_per_s,
    "state": lambda run: run.state,
    "date": lambda run: run.date,
}
MARKS = {
    "*": "the highest of all tests, which is optimistic: the test images chose it",
    "c": "of the epoch that held-out images chose (-val), so it may be below the last",
    "v": "on the held-out images, because the run has no test (a trial of a sweep)",
    "a": "of the ANN, also its best %; eval tests the spiking network",
}


@dataclass(frozen=True, kw_only=True)
class RunsOptions(Options):
    """Settings of `runs`."""

    runs: tuple[str, ...] = option(
        (), "Runs", "directories of runs, of -seeds, or runs", metavar="DIR", shown="OUT_DIR", positional=True
    )
    out_dir: str = train_option("out_dir", help="where the runs are without a DIR, and where last finds the newest")
    sort: str = option("date", "Runs", "what to sort by, the largest last", choices=(*COLUMNS, *SETTINGS))
    csv: str | None = option(
        None, "Files", "write all settings and results there, accuracies as shares of 1; - is stdout", metavar="FILE"
    )
    json: str | None = option(None, "Files", "the same as JSON, with the -seeds; - is stdout", metavar="FILE")


def run(options: RunsOptions) -> int:
    found, problems = find_runs(options.runs or (options.out_dir,))
    runs = sorted(found, key=lambda run: _sort_key(run, options.sort))
    seeds, texts, records = [], [], [record(run) for run in runs]
    for folder in filter(is_group, dict.fromkeys(run.folder.parent for run in runs)):
        try:
            group = SeedGroup.read(folder)
            seeds.append({"folder": str(folder), **group.summary()})
            texts.append(f"\n{group.results()}")
        except SNNError as error:  # of a file of the group, or of one of its runs
            problems.append(f"the mean over {folder}: {error}")
            print(f"skipped: {problems[-1]}", file=sys.stderr)
    if "-" not in (options.csv, options.json):
        print("\n".join([table(runs, shutil.get_terminal_size((10_000, 24)).columns), *texts]))
    if options.csv:
        write_output(options.csv, csv_text(records), "-csv")
    publish(options.json, {"runs": records, "seeds": seeds, "skipped": problems})
    return 0


def find_runs(folders: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Return the runs in these directories, and a line for each that is skipped; UsageError where no run is left."""
    found, problems = survey(map(Path, folders))
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    if not found:
        raise UsageError(f"no run was found in {', '.join(map(os.path.abspath, folders))}; name directories of runs")
    return found, problems


def _sort_key(run: Run, column: str) -> tuple[Any, ...]:
    """Sort by a column: no value comes first, equal ones by date."""
    value = COLUMNS[column](run) if column in COLUMNS else getattr(run.config, column)
    return value is not None, 0 if value is None else value, run.date, run.folder


def table(runs: Sequence[Run], width: int) -> str:
    """Return a line for each run, cut at this width behind the run's name, and what the marks mean."""
    rows = [("last % ", "best % ", "epochs", "state", "run", "what differs", "images/s", "date")]
    for run, differs in zip(runs, differences([run.config for run in runs]), strict=True):
        last, best, speed = (COLUMNS[name](run) for name in ("last", "best", "speed"))
        untested = "v" if run.last_test_acc is None else ""
        last_mark, best_mark = untested or "a" * run.converted, untested or ("c" if run.config.val else "*")
        rows.append(
            (
                "" if last is None else f"{100 * last:.2f}{last_mark or ' '}",
                "" if best is None else f"{100 * best:.2f}{best_mark or ' '}",
                f"{run.epochs_done}/{run.config.epochs}",
                run.state + (f" at step {run.step}" if run.step else ""),
                str(run.folder),
                differs,
                "" if speed is None else f"{speed:,.0f}",
                run.date[:16].replace("T", " "),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    named = sum(widths[:4]) + 8  # where the names of the runs begin, which are there to be copied
    layout = "  ".join(f"{{:{'>' if i in (0, 1, 2, 6) else '<'}{cells}}}" for i, cells in enumerate(widths))
    lines = [layout.format(*row)[: max(width, named + len(row[4]))] for row in rows]
    marks = {cell[-1:] for row in rows[1:] for cell in row[:2]}
    notes = [wrapped(f"{mark} {text}", width) for mark, text in MARKS.items() if mark in marks]
    return "\n".join([*map(str.rstrip, lines), *([""] if notes else []), *notes])


def record(run: Run) -> dict[str, Any]:
    """Return all of a run in plain types."""
    chosen_on = "held-out images" if run.config.val else "test images"
    results = {name: value for name, value in vars(run).items() if name not in ("folder", "config")}
    return {"run": str(run.folder), "best_chosen_on": chosen_on, **results, **run.config.to_mapping()}
