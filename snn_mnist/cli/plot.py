"""Verb `plot`: the figures of runs, from the files in their directories.

    python -m snn_mnist plot last
    python -m snn_mnist plot logs

Several runs share a figure of learning curves. A single one has its curves, receptive fields, confusion matrix and
accuracy against T, tested with the spikes of its last epoch's test.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from snn_mnist.cli.runs import find_runs
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import cores, data_variable, train_option
from snn_mnist.settings.options import Options, option
from snn_mnist.storage.atomic_files import make_directory
from snn_mnist.storage.checkpoint import LATEST
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.storage.runs import labels
from snn_mnist.terminal import say

COMPARED = "curves_compared.png"  # of several runs; curves.png is of one
RUNS = "run directories, or directories of runs; of several only the curves; last is the newest run of -out-dir"
OUT = "curves.png in the run; of several curves_compared.png in the one DIR, else the first run"


@dataclass(frozen=True, kw_only=True)
class PlotOptions(Options):
    """Settings of `plot`."""

    runs: tuple[str, ...] = option((), "Files", RUNS, metavar="DIR", required=True, positional=True)
    out_dir: str = train_option("out_dir", help="where last finds the newest run")
    out: str | None = option(None, "Files", "the picture", metavar="FILE", shown=OUT)


def run(options: PlotOptions) -> int:
    found, _ = find_runs(options.runs)
    from snn_mnist.visualizing import run_figures as figures  # takes seconds

    rows = {str(run.folder): read_metrics(run.folder / "metrics.csv") for run in found}
    missing = figures.without_curve(rows)
    if len(missing) == len(found):
        raise SNNError(f"{', '.join(missing)}: no finished epoch yet; continue it with train -resume {missing[0]}")
    if missing:
        print(f"not drawn, because they have no test: {len(missing)} of {len(found)} runs")
    runs = [run for run in found if str(run.folder) not in missing]
    several, notes = len(runs) > 1, []
    if len(datasets := list(dict.fromkeys(run.config.dataset for run in runs))) > 1:
        notes.append(f"Different data sets ({', '.join(datasets)}): their accuracies can't be compared")
        print(notes[0])
    folder = Path(options.runs[0]) if several and len(options.runs) == 1 else runs[0].folder
    target = Path(options.out or folder / (COMPARED if several else figures.CURVES))
    if target.suffix.lower() != ".png":
        raise UsageError(f"-out {target} is not a PNG file; give a name that ends in .png")
    make_directory(target.parent, "-out")
    if not several and runs[0].converted:
        notes.append(figures.OF_THE_ANN)
    names = labels({run.folder: run.config for run in runs})
    curves = {
        f"{'ANN, ' if several and run.converted else ''}{name}": rows[str(run.folder)]
        for name, run in zip(names, runs, strict=True)
    }
    losses = {run.config.loss for run in runs}
    print(figures.write(target, figures.learning_curves(curves, notes, len(datasets) < 2, losses), "-out"))
    if not several:
        has = (folder / LATEST).is_file()
        print("\n".join(map(str, plot_network(folder))) if has else f"{folder} has no {LATEST}: learning curves only")
    return 0


def plot_network(folder: Path) -> list[Path]:
    """Draw the three figures of a run's latest checkpoint, tested with the spikes of that epoch's test."""
    from snn_mnist.data.datasets import load_dataset
    from snn_mnist.network.engine import choose_runtime
    from snn_mnist.network.network import load_network
    from snn_mnist.network.poisson import SpikeKey, Stream
    from snn_mnist.network.scoring import default_readout_steps, score_split
    from snn_mnist.visualizing import run_figures as figures

    say(f"testing and drawing {folder}")
    loaded = load_network(str(folder), data_dir=data_variable())
    config = loaded.config
    data = load_dataset(config.dataset, config.data_dir)
    key = SpikeKey(config.seed, Stream.TEST, max(loaded.epochs - 1, 0))
    steps = default_readout_steps(config.T)
    runtime = choose_runtime("auto", "auto", cores(), config)
    (tested,), _ = score_split(loaded.net, data.test, runtime, steps, [key])
    return figures.write_network_figures(folder, None if config.net else loaded.net.weight, tested, data.class_names)
