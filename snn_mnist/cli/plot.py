"""Verb `plot`: the figures of runs, from the files in their directories.

    python -m snn_mnist plot last
    python -m snn_mnist plot logs

The learning curves of several runs in one figure, each named by what differs between them. Of a single run its curves,
and the receptive fields, confusion matrix and accuracy against T of its latest checkpoint, tested with the spikes of
that epoch's test.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_mnist.cli.shared import out_dir_option
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import Config
from snn_mnist.settings.options import Options, option
from snn_mnist.storage.atomic_files import make_directory
from snn_mnist.storage.directory import LATEST, run_directories
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.storage.runs import is_converted, labels
from snn_mnist.terminal import say, wrapped

COMPARED = "curves_compared.png"  # of several runs; curves.png is of one
MOST = 16  # runs in one figure; the colours of more can't be told apart
RUNS = "run directories, or directories of runs; of several only the curves; last is the newest run of -out-dir"
OUT = "curves.png in the run; of several curves_compared.png in the first"


@dataclass(frozen=True, kw_only=True)
class PlotOptions(Options):
    """Settings of `plot`."""

    runs: tuple[str, ...] = option((), "Files", RUNS, metavar="DIR", required=True, positional=True)
    out_dir: str = out_dir_option()
    out: str | None = option(None, "Files", "the picture", metavar="FILE", shown=OUT)


def run(options: PlotOptions) -> int:
    found = rows_of(options.runs)
    from snn_mnist.visualizing import run_figures as figures  # takes seconds

    if missing := figures.without_curve({str(folder): rows for folder, rows in found.items()}):
        print(wrapped(f"not drawn, because they have no test: {', '.join(missing)}"))
    drawn = {folder: rows for folder, rows in found.items() if str(folder) not in missing}
    runs = dict(itertools.islice(drawn.items(), MOST))
    configs = {folder: _config(folder) for folder in runs}
    notes = [f"The first {MOST} of {len(drawn)} runs are drawn; name those to compare"] if len(drawn) > MOST else []
    datasets = Counter(config.dataset for config in configs.values() if config)
    if len(datasets) > 1:
        listed = ", ".join(f"{name} {number}" for name, number in datasets.items())
        notes.append(f"Different data sets ({listed}): their accuracies can't be compared")
    print("".join(f"{note}\n" for note in notes), end="")
    first, single = next(iter(runs)), len(runs) == 1
    target = Path(options.out or first / (figures.CURVES if single else COMPARED))
    if target.suffix.lower() != ".png":
        raise UsageError(f"-out {target} is not a PNG file; give a name that ends in .png")
    make_directory(target.parent, "-out")
    if single and is_converted(first):
        notes.append(figures.OF_THE_ANN)
    curves = dict(zip(names(configs), runs.values(), strict=True))
    print(figures.write(target, figures.learning_curves(curves, notes, comparable=len(datasets) < 2), "-out"))
    if single:
        has = (first / LATEST).is_file()
        print("\n".join(map(str, plot_network(first))) if has else f"{first} has no {LATEST}: learning curves only")
    return 0


def rows_of(arguments: Iterable[str]) -> dict[Path, list[dict[str, Any]]]:
    """Return the rows of metrics.csv of each run that is named, or lies in a directory that is.

    Of several runs those that can't be drawn are named and left out.
    """
    folders: list[Path] = []
    for folder in map(Path, arguments):
        folders += (run_directories(folder) if folder.is_dir() else []) or [folder]
    found, problems = {}, []
    for folder in {folder.resolve(): folder for folder in folders}.values():
        try:
            found[folder] = _metrics(folder)
        except SNNError as error:
            problems.append(error)
    if not found:
        raise problems[0]
    print("".join(f"left out: {problem}\n" for problem in problems), end="")
    return found


def _metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.csv"
    if not path.is_file():
        what = "has no metrics.csv" if folder.is_dir() else "is not a directory"
        raise UsageError(f"{folder} {what}; give run directories, such as logs/T100_b64_adam_lr0.001")
    if rows := read_metrics(path):
        return rows
    raise SNNError(f"{path} has no finished epoch yet; continue it with train -resume {folder}")


def names(configs: Mapping[Path, Config | None]) -> list[str]:
    """Return what differs between the runs; for one without config.yaml, or a single one, the name of its directory.

    The curves of a conversion are those of its ANN.
    """
    anns = ["ANN, " if len(configs) > 1 and is_converted(folder) else "" for folder in configs]
    return [ann + label for ann, label in zip(anns, labels(configs), strict=True)]


def _config(folder: Path) -> Config | None:
    try:
        return Config.from_yaml(folder / "config.yaml")
    except UsageError:
        return None


def plot_network(folder: Path) -> list[Path]:
    """Draw the three figures of a run's latest checkpoint, tested with the spikes of that epoch's test."""
    from snn_mnist.data.datasets import load_dataset
    from snn_mnist.network.device import choose_runtime
    from snn_mnist.network.network import load_network
    from snn_mnist.network.poisson import SpikeKey, Stream
    from snn_mnist.network.scoring import default_readout_steps, score_split
    from snn_mnist.settings.config import cores
    from snn_mnist.visualizing import run_figures as figures

    say(f"testing and drawing {folder}")
    loaded = load_network(str(folder), data_dir=os.environ.get("SNN_MNIST_DATA"))
    config = loaded.config
    data = load_dataset(config.dataset, config.data_dir)
    key = SpikeKey(config.seed, Stream.TEST, max(loaded.epochs - 1, 0))
    steps = default_readout_steps(config.T)
    (tested,), _ = score_split(loaded.net, data.test, choose_runtime("auto", "auto", cores()), steps, [key])
    return figures.write_network_figures(folder, loaded.net.weight, tested, data.class_names)
