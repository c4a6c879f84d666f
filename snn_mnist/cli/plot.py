"""Verb `plot`: the figures of runs, from the files in their directories.

    python -m snn_mnist plot logs/T100_b64_adam_lr0.001 logs/T100_b64_adam_lr0.001-2

The learning curves of all runs in one figure; and into each run's directory the receptive fields, confusion
matrix and accuracy against T of its latest checkpoint, tested with the spikes of that epoch's test.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError
from snn_mnist.runs.atomic_files import make_directory
from snn_mnist.runs.directory import LATEST
from snn_mnist.runs.fields import Options, option, optional, path, several

COMPARED = "curves_compared.png"  # of several runs; curves.png is of one


@dataclass(frozen=True, kw_only=True)
class PlotOptions(Options):
    """Settings of `plot`."""

    runs: tuple[str, ...] = option(
        (),
        several(path("DIR")),
        "Files",
        "run directories, such as logs/T100_b64_adam_lr0.001",
        required=True,
        positional=True,
    )
    out: str | None = option(
        None,
        optional(path("FILE")),
        "Files",
        "the picture",
        shown="curves.png in the run; of several curves_compared.png in the first",
    )


def run(options: PlotOptions) -> int:
    from snn_mnist.visualizing import run_figures as figures

    runs = list(dict.fromkeys(Path(name) for name in options.runs))
    curves = dict(zip(short_names(runs), map(_metrics, runs), strict=True))
    target = Path(options.out or runs[0] / (figures.CURVES if len(runs) == 1 else COMPARED))
    if target.suffix.lower() != ".png":
        raise SNNError(f"-out {target} is not a PNG file; give a name that ends in .png")
    make_directory(target.parent, "-out")
    print(figures.write(target, figures.learning_curves(curves), "-out"))
    for folder in runs:
        if (folder / LATEST).is_file():
            for file in plot_network(folder):
                print(file, flush=True)
        else:
            print(f"{folder} has no {LATEST}: learning curves only")
    return 0


def _metrics(folder: Path) -> list[dict[str, Any]]:
    from snn_mnist.runs.metrics import read_metrics

    path = folder / "metrics.csv"
    if not path.is_file():
        what = "has no metrics.csv" if folder.is_dir() else "is not a directory"
        raise SNNError(f"{folder} {what}; give run directories, such as logs/T100_b64_adam_lr0.001")
    rows = read_metrics(path)
    if not rows:
        raise SNNError(f"{path} has no finished epoch yet; train on with -resume {folder}")
    return rows


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, with as many before it as make the names different."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def plot_network(folder: Path) -> list[Path]:
    """The three figures of a run's latest checkpoint."""

    from snn_mnist.data.datasets import load_dataset
    from snn_mnist.model.device import choose_runtime
    from snn_mnist.model.poisson import SpikeKey, Stream
    from snn_mnist.model.saved_network import load_network
    from snn_mnist.model.scoring import default_readout_steps, score_split
    from snn_mnist.runs.environment import cores
    from snn_mnist.visualizing import run_figures as figures

    loaded = load_network(str(folder))
    config = loaded.config
    data = load_dataset(config.dataset, os.environ.get("SNN_MNIST_DATA") or config.data_dir)
    runtime = choose_runtime("auto", "auto", cores())
    key = SpikeKey(config.seed, Stream.TEST, max(loaded.epoch, 0))
    (tested,), _ = score_split(loaded.net, data.test, runtime, default_readout_steps(config.T), [key])
    return figures.write_network_figures(folder, loaded.net.weight, tested, data.class_names)
