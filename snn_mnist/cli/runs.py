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
from snn_mnist.settings.words import show
from snn_mnist.storage.atomic_files import write_file
from snn_mnist.storage.naming import differences, differing

if TYPE_CHECKING:
    from snn_mnist.storage.survey import Run

SETTINGS = {each.name: each for each in options_of(Config) if each.saved and each.name not in ("epochs", "seeds")}
COLUMNS: dict[str, Callable[[Run], Any]] = {
    "run": lambda run: str(run.folder),
    "epochs": lambda run: run.epochs_done,
    "last": lambda run: _percent(run.last_known),
    "best": lambda run: _percent(run.best_known),
    "speed": lambda run: run.images_per_s,
    "date": lambda run: _date(run.trained),
    "state": lambda run: run.state,
}
ROOM = 24  # characters that what differs needs at least beside the results


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
    from snn_mnist.storage.survey import survey

    folders = options.runs if "runs" in options.given else (options.out_dir,)
    found, problems = survey(map(Path, folders))
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    if not found:
        raise UsageError(f"no run was found in {', '.join(folders)}; name directories of runs, such as logs")
    runs = sorted(found, key=lambda run: _sort_key(run, options.sort))
    groups = _groups(runs)
    if "-" not in (options.csv, options.json):
        print("\n".join(table(runs, shutil.get_terminal_size((10_000, 24)).columns)))
        for folder, summary in groups.items():
            print("\n" + group_text(folder, summary))
    if options.csv:
        _write_csv(options.csv, [record(run) for run in runs])
    if options.json:
        listed = [{"folder": str(folder), **summary} for folder, summary in groups.items()]
        write_json(options.json, {"runs": [record(run) for run in runs], "seeds": listed, "skipped": problems})
    return 0


def _groups(runs: Sequence[Run]) -> dict[Path, dict[str, Any]]:
    """The directories of -seeds that these runs lie in, each with the summary of all its runs."""
    from snn_mnist.storage.seeds import SEEDS, summary

    parents = dict.fromkeys(run.folder.parent for run in runs)
    return {folder: summary(folder) for folder in parents if (folder / SEEDS).is_file()}


def group_text(folder: Path, summary: dict[str, Any]) -> str:
    from snn_mnist.storage.seeds import spread_text

    lines = [f"{folder}: {summary['finished']} of {summary['seeds']} seeds finished"]
    if summary["last_epoch"]:
        lines.append(f"  last epoch {spread_text(summary['last_epoch'])} (mean ± std)")
    if summary["chosen_by_val"]:
        lines.append(f"  epochs chosen on held-out images {spread_text(summary['chosen_by_val'])}")
    return "\n".join(lines)


# ---------------------------------------------------------------------------- values


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 10)  # 90.04, not 90.03999999999999


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _short_date(seconds: float) -> str:
    """'26 Nov 14:05', or of a run half a year old the day with its year, as `ls` does."""
    old = abs(time.time() - seconds) > 180 * 86400
    return time.strftime("%Y-%m-%d" if old else "%d %b %H:%M", time.localtime(seconds))


def _value(run: Run, column: str) -> Any:
    return COLUMNS[column](run) if column in COLUMNS else getattr(run.config, column)


def _sort_key(run: Run, column: str) -> tuple[Any, ...]:
    """No value comes first; equal ones by date."""
    value = run.trained if column == "date" else _value(run, column)
    return value is not None, 0 if value is None else value, run.trained, run.folder


# ---------------------------------------------------------------------------- the table


def table(runs: Sequence[Run], width: int) -> list[str]:
    """A line for each run; two or more where the width is not enough."""
    names = differing([run.config for run in runs])
    names = [name for name in names if name != "epochs"]
    head = ["run", *(name.replace("_", "-") for name in names), *RESULTS, "date", "state"]
    lines = [
        [str(run.folder), *(_setting(run.config, name) for name in names), *results(run), _date(run.trained),
         run.state_text]
        for run in runs
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    if sum(widths) + 2 * len(widths) - 2 <= width:
        left = {0, len(head) - 1}
        found = [
            "  ".join(
                f"{text:{'<' if i in left else '>'}{size}}"
                for i, (text, size) in enumerate(zip(row, widths, strict=True))
            )
            for row in (head, *lines)
        ]
    else:
        found = narrow_table(runs, width)
    if notes := footnotes(runs):
        found += ["", *(line for note in notes for line in textwrap.wrap(note, width, subsequent_indent="  "))]
    return [line.rstrip() for line in found]


def footnotes(runs: Sequence[Run]) -> list[str]:
    marks = {
        "* the highest of all tests, chosen on the test images: too high":
            any(not run.config.val and run.best is not None for run in runs),
        "v of the held-out images, for lack of a test, as of the trials of a sweep":
            any(run.untested for run in runs),
        "a of the ANN, as is its best %; eval tests the spiking network":
            any(run.converted for run in runs),
    }  # fmt: skip
    return [note for note, applies in marks.items() if applies]


RESULTS = ("epochs", "last % ", "best % ", "images/s")


def results(run: Run) -> list[str]:
    best = "" if run.best is None else f"{100 * run.best:.2f}{' ' if run.config.val else '*'}"
    if run.untested:
        best = f"{100 * (run.best_known or 0):.2f}v"
    mark = "v" if run.untested else "a" if run.converted else " "
    return [
        f"{run.epochs_done}/{run.config.epochs}",
        "" if run.last_known is None else f"{100 * run.last_known:.2f}{mark}",
        best,
        "" if run.images_per_s is None else f"{run.images_per_s:,.0f}",
    ]


def _setting(config: Config, name: str) -> str:
    return "" if name in config.unused else show(getattr(config, name)).removesuffix(".0")


def narrow_table(runs: Sequence[Run], width: int) -> list[str]:
    """Of each run a line with its directory and state, and below it what differs and its results."""
    rows = [[*results(run), _short_date(run.trained)] for run in runs]
    head = [*RESULTS, "date"]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    room = width - sum(widths) - len(widths) * 2
    beside = room >= ROOM

    def below(texts: Sequence[str], cells: Sequence[str]) -> list[str]:
        joined = ", ".join(text.replace(" ", "\0") for text in texts)  # 'tau 1.1' stays on one line
        found = [line.replace("\0", " ") for line in textwrap.wrap(joined, (room if beside else width) - 2)]
        first, *rest = found if beside and found else ["", *found]
        numbers = "  ".join(f"{cell:>{size}}" for cell, size in zip(cells, widths, strict=True))
        return [f"  {first:<{max(room - 2, 0)}}  {numbers}", *(f"  {line}" for line in rest)]

    lines = [_ends("run", "state", width), *below(["what differs"], head)]
    for run, row, texts in zip(runs, rows, differences([run.config for run in runs]), strict=True):
        lines += [_ends(str(run.folder), run.state_text, width), *below(texts, row)]
    return lines


def _ends(left: str, right: str, width: int) -> str:
    """The two texts at the ends of a line; the left one in several lines where it is too long."""
    *before, last = textwrap.wrap(left, width, break_on_hyphens=False) or [""]
    if len(last) + len(right) + 2 > width:
        before, last = [*before, last], ""
    return "\n".join([*before, f"{last:<{width - len(right)}}{right}"])


# ---------------------------------------------------------------------------- files


def record(run: Run) -> dict[str, Any]:
    """All of a run in plain types."""
    return {
        "run": str(run.folder),
        "state": run.state,
        "step": run.step,
        "epochs_done": run.epochs_done,
        "last_test_acc": run.last,
        "best_test_acc": run.best,
        "last_val_acc": run.last_val,
        "best_chosen_on": "held-out images" if run.config.val else "test images",
        "train_images_per_s": run.images_per_s,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(run.trained)),
        **{name: value for name, value in run.config.to_mapping().items() if name != "seeds"},
    }


def _write_csv(where: str, records: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    if records:
        writer = csv.DictWriter(text, records[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    if where == "-":
        print(text.getvalue(), end="")
    else:
        write_file(where, text.getvalue(), "-csv")
