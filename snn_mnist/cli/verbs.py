"""The verbs. To add one, write its file, with its settings beside its `run`, and add a line to VERBS."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snn_mnist.cli import bench, convert, evaluate, export, import_nir, info, plot, predict, runs, sweep, trace, train
from snn_mnist.settings.config import RESUME_RULES, Config
from snn_mnist.settings.options import Options


@dataclass(frozen=True)
class Verb:
    """A verb: the record of its settings and the function that carries it out; None means exit code 0."""

    record: type[Options]
    run: Callable[[Any], int | None]
    summary: str
    epilog: str = ""


VERBS = {
    "train": Verb(Config, train.run, "train a network, test it after each epoch, save the run", RESUME_RULES),
    "eval": Verb(evaluate.EvalOptions, evaluate.run, "accuracy of a checkpoint: mean ± std, by class, by T"),
    "trace": Verb(trace.TraceOptions, trace.run, "follow single images through a checkpoint, in pictures"),
    "sweep": Verb(sweep.SweepOptions, sweep.run, "search for good settings: many trainings as one study", sweep.EPILOG),
    "runs": Verb(runs.RunsOptions, runs.run, "list runs: what differs, results, state"),
    "plot": Verb(plot.PlotOptions, plot.run, "draw the curves and weights of a run; compare the curves of several"),
    "predict": Verb(predict.PredictOptions, predict.run, "classify your own pictures"),
    "export": Verb(export.ExportOptions, export.run, "write a checkpoint for other simulators and hardware"),
    "import": Verb(import_nir.ImportOptions, import_nir.run, "make a checkpoint of a NIR file"),
    "convert": Verb(convert.ConvertOptions, convert.run, "train an ANN and convert it into a spiking network"),
    "bench": Verb(bench.BenchOptions, bench.run, "measure the images per second of every backend"),
    "info": Verb(info.InfoOptions, info.run, "show versions, devices, backends and the data found"),
}
