"""Verb `runs`: a table of runs with what differs between them, their results and their state.

    python -m snn_mnist runs
    python -m snn_mnist runs logs other/logs -sort last

`last` and `best` are test accuracies in percent: after the last epoch, and of checkpoint_max.pth; of runs without a
test, such as the trials of a sweep, those of the held-out images. `speed` is the median of the epochs.
"""

from __future__ import annotations

import csv
import io
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_mnist.cli.results import write_json
from snn_mnist.errors import UsageError
from snn_mnist.settings.config import Config, train_option
from snn_mnist.settings.options import Options, option, options_of
from snn_mnist.storage.atomic_files import write_file
from snn_mnist.storage.naming import differences

if TYPE_CHECKING:
    from snn_mnist.storage.survey import Run

SETTINGS = [each.name for each in options_of(Config) if each.saved and each.name not in ("epochs", "seeds")]
COLUMNS: dict[str, Callable[[Run], Any]] = {
    "run": lambda run: str(run.folder),
    "epochs": lambda run: run.epochs,
    "last": lambda run: _accuracies(run)[0],
    "best": lambda run: _accuracies(run)[1],
    "speed": lambda run: run.images_per_s,
    "date": lambda run: run.trained,
    "state": lambda run: run.state,
}
MARKS = {
    "*": "the highest of all tests, which is optimistic: the test images chose it",
    "v": "on the held-out images, because the run has no test (a trial of a sweep)",
    "a": "of the ANN, also its best %; eval tests the spiking network",
}


@dataclass(frozen=True, kw_only=True)
class RunsOptions(Options):
    """Settings of `runs`."""

    runs: tuple[str, ...] = option(
        ("./logs",),
        "Runs",
        "directories of runs, of -seeds, or runs themselves",
        path="DIR",
        shown="-out-dir",
        positional=True,
    )
    out_dir: str = train_option(
        "out_dir", help="where the runs are if no DIR is given, and where last finds the newest"
    )
    sort: str = option(
        "date",
        "Runs",
        "column or setting to sort by, the largest last (speed: images/s, the median of the epochs)",
        choices=(*COLUMNS, *SETTINGS),
    )
    csv: str | None = option(
        None, "Files", "write all settings and results there, accuracies as shares of 1; - is stdout", path="FILE"
    )
    json: str | None = option(None, "Files", "the same as JSON, with the -seeds; - is stdout", path="FILE")


def run(options: RunsOptions) -> int:
    from snn_mnist.storage.seeds import SeedGroup, is_group, spread_text
    from snn_mnist.storage.survey import survey

    folders = options.runs if "runs" in options.given else (options.out_dir,)
    found, problems = survey(map(Path, folders))
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    if not found:
        raise UsageError(f"no run was found in {', '.join(folders)}; name directories of runs, such as logs")
    runs = sorted(found, key=lambda run: _sort_key(run, options.sort))
    parents = dict.fromkeys(run.folder.parent for run in runs)
    groups = [{"folder": str(parent), **SeedGroup.read(parent).summary()} for parent in parents if is_group(parent)]
    records = [record(run) for run in runs]
    if "-" not in (options.csv, options.json):
        print("\n".join(table(runs, shutil.get_terminal_size((10_000, 24)).columns)))
        for each in groups:
            print(f"\n{each['folder']}: {each['finished']} of {each['seeds']} seeds finished")
            if each["last_epoch"]:
                print(f"  last epoch {spread_text(each['last_epoch'])} (mean ± std)")
            if each["chosen_by_val"]:
                print(f"  epochs chosen on held-out images {spread_text(each['chosen_by_val'])}")
    if options.csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, records[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        if options.csv == "-":
            print(text.getvalue(), end="")
        else:
            write_file(options.csv, text.getvalue(), "-csv")
    if options.json:
        write_json(options.json, {"runs": records, "seeds": groups, "skipped": problems})
    return 0


def _accuracies(run: Run) -> tuple[float | None, float | None]:
    return (run.last_val, run.best_val) if run.last is None else (run.last, run.best)


def _sort_key(run: Run, column: str) -> tuple[Any, ...]:
    """No value comes first; equal ones by date."""
    value = COLUMNS[column](run) if column in COLUMNS else getattr(run.config, column)
    return value is not None, 0 if value is None else value, run.trained, run.folder


def table(runs: Sequence[Run], width: int) -> list[str]:
    """Return a line for each run; two or more where the width is not enough."""
    rows = [("run", "what differs", "epochs", "last % ", "best % ", "images/s", "date", "state")]
    for run, texts in zip(runs, differences([run.config for run in runs]), strict=True):
        last, best = _accuracies(run)
        untested = "v" if run.last is None else ""
        last_mark, best_mark = untested or "a" * run.converted, untested or "*" * (not run.config.val)
        rows.append(
            (
                str(run.folder),
                ", ".join(texts),
                f"{run.epochs}/{run.config.epochs}",
                "" if last is None else f"{100 * last:.2f}{last_mark or ' '}",
                "" if best is None else f"{100 * best:.2f}{best_mark or ' '}",
                "" if run.images_per_s is None else f"{run.images_per_s:,.0f}",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(run.trained)),
                run.state + (f" at step {run.step}" if run.step else ""),
            )
        )
    lines = _aligned(rows)
    if max(map(len, lines)) > width:
        lines = []
        for (folder, differs, *_), results in zip(rows, _aligned([row[2:] for row in rows]), strict=True):
            lines += textwrap.wrap(f"{folder}  {differs}", width, subsequent_indent="  ", break_on_hyphens=False)
            lines.append(f"  {results}")
    used = [mark for mark in MARKS if any(mark in cell[-1:] for row in rows[1:] for cell in row[3:5])]
    notes = [textwrap.fill(f"{mark} {MARKS[mark]}", width, subsequent_indent="  ") for mark in used]
    return [*lines, "", *notes] if notes else lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines: numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [name.strip() in ("epochs", "last %", "best %", "images/s") for name in rows[0]]
    return [
        "  ".join(
            f"{cell:{'>' if r else '<'}{size}}" for cell, size, r in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]


def record(run: Run) -> dict[str, Any]:
    """Return all of a run in plain types."""
    return {
        "run": str(run.folder),
        "state": run.state,
        "step": run.step,
        "epochs_done": run.epochs,
        "last_test_acc": run.last,
        "best_test_acc": run.best,
        "last_val_acc": run.last_val,
        "best_chosen_on": "held-out images" if run.config.val else "test images",
        "train_images_per_s": run.images_per_s,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(run.trained)),
        **{name: value for name, value in run.config.to_mapping().items() if name != "seeds"},
    }
