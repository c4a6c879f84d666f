"""Verb `convert`: an ANN of the same shape is trained and becomes a network of integrate-and-fire neurons.

    python -m snn_mnist convert -epochs 10 -T 200

The ANN is 784 → 10 with a ReLU, one neuron per class, and learns as `train` learns. At the end the spiking network is
tested with Poisson spikes, and with the pixels' values as a constant current.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_mnist.cli.evaluate import accuracy_against_T
from snn_mnist.cli.shared import json_option, publish
from snn_mnist.errors import UsageError
from snn_mnist.settings.config import Config, train_option
from snn_mnist.settings.options import option, options_of
from snn_mnist.storage.metrics import percent

POISSON, CONSTANT = "Poisson spikes", "constant current"


def _read_mode(value: Any) -> str | float:
    """Return 'Max', '99.9%' or 0.8; ValueError for another."""
    text = str(value).strip().title()
    number = 1.0 if text == "Max" else float(text.removesuffix("%"))
    if not 0 < number <= (100 if text.endswith("%") else 1):
        raise ValueError
    return text if text == "Max" or text.endswith("%") else number


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Config):
    """Settings of `convert`: those of `train` that an ANN has (a field without `option` is no flag), and three more."""

    neuron: str = "if"
    v_reset: float | None = None
    tau: float = 2.0
    v_threshold: float = 1.0
    surrogate: str = "atan"
    net: None = None
    alpha: float | None = None
    votes: int = 1
    encoding: str = "poisson"
    loss: str = "mse"
    scale: float = 40.0
    dropout: float = 0.0
    seeds: int = 1
    test: bool = True
    step_mode: str = "m"
    T: int = train_option("T", group="Conversion", help="time steps of the spiking network")
    epochs: int = train_option("epochs", default=10)
    figures: bool = train_option("figures", help="draw figures at the end of the run; -no-figures draws none")
    backend: str = train_option("backend", help="what computes the spiking network; PyTorch computes the ANN")
    mode: str | float | None = option(
        None,
        "Conversion",
        "activation that becomes rate 1: the largest, a percentile, or a share of the largest",
        read=_read_mode,
        wanted="Max, a percentage such as 99.9%, or a number in (0, 1]",
        metavar="MODE",
        shown="99.9%; of a resumed run its own",
    )
    repeats: int = option(10, "Conversion", "encodings of the test images as Poisson spikes", low=1, high=100_000)
    json: str | None = json_option()

    @classmethod
    def known(cls, mapping: Mapping[Any, Any], source: str = "") -> dict[str, Any]:
        """Accept a settings file of `train` too; its settings of neurons are ignored, but not of another network."""
        for name, single in (("votes", "1"), ("net", "none")):
            if str(mapping.get(name, single)).lower() not in (single, "null"):
                why = f"{name} {mapping[name]}, but convert makes a single layer with one neuron per class"
                raise UsageError(f"{source}: {why}; remove {name}")
        others = {each.name for each in options_of(Config)} - {each.name for each in options_of(cls)}
        return super().known({key: mapping[key] for key in mapping if str(key).replace("-", "_") not in others}, source)

    def training(self) -> Config:
        """Return the settings of the run, as `train` has them."""
        settings: dict[str, Any] = {each.name: getattr(self, each.name) for each in options_of(Config)}
        return Config(**settings, given=self.given & settings.keys())


def run(options: ConvertOptions) -> int:
    from snn_mnist.network.ann import Conversion
    from snn_mnist.network.engine import choose_runtime
    from snn_mnist.training.console import Interruption
    from snn_mnist.training.loop import train

    choose_runtime(options.device, options.backend, options.j)  # a backend that can't be used is an error now
    interruption = Interruption()
    with redirect_stdout(sys.stderr if options.json == "-" else sys.stdout):  # which is for the JSON alone
        folder = train(options.training(), interruption, conversion=Conversion(options.mode))
    if interruption.requested:
        return interruption.exit_code
    report(options, folder)
    return 0


def report(options: ConvertOptions, folder: Path) -> None:
    """Test ANN and network of the latest checkpoint; print, draw and write the results."""
    from snn_mnist.data.datasets import load_dataset
    from snn_mnist.network.ann import ann_accuracy, constant_current_score
    from snn_mnist.network.engine import choose_runtime
    from snn_mnist.network.network import load_network
    from snn_mnist.network.poisson import SpikeKey, Stream
    from snn_mnist.network.scoring import default_readout_steps, score_split
    from snn_mnist.storage import checkpoint
    from snn_mnist.visualizing import run_figures

    loaded, ann = load_network(str(folder)), checkpoint.load(folder)["ann"]
    config = options.on_top_of(loaded.config.to_mapping())
    data, steps = load_dataset(config.dataset, config.data_dir), default_readout_steps(config.T)
    accuracy, constant = ann_accuracy(ann["weight"], data.test), constant_current_score(loaded.net, data.test, steps)
    runtime = choose_runtime(options.device, options.backend, options.j)
    keys = [SpikeKey(config.seed, Stream.EVAL, repeat) for repeat in range(options.repeats)]
    poisson, _ = score_split(loaded.net, data.test, runtime, steps, keys)
    against_T = {POISSON: accuracy_against_T(poisson), CONSTANT: accuracy_against_T([constant])}
    error = math.sqrt(accuracy * (1 - accuracy) / len(data.test))
    results: dict[str, Any] = {"images": len(data.test), "encodings": len(keys), "T": config.T}
    results |= {"ann_accuracy": accuracy, "standard_error": error, "mode": ann["mode"], "scale": ann["scale"]}
    results |= {"accuracy_against_T": against_T, "checkpoint": str(loaded.path), "epochs": loaded.epochs}
    results |= {"dataset": data.name, "seed": config.seed}
    publish(options.json, results, describe(results, folder))
    if config.figures:
        notes = [run_figures.OF_THE_ANN]
        run_figures.write_run_figures(folder, loaded.net.weight, poisson[0], data.class_names, notes=notes)
        curves = {name: [100 * at["mean"] for at in each.values()] for name, each in against_T.items()}
        figure = run_figures.accuracy_against_T(steps, curves, 100 * accuracy)
        run_figures.write(folder / "conversion.png", figure)


def describe(results: dict[str, Any], folder: Path) -> str:
    """Return the report as text."""
    ann, encodings, error = results["ann_accuracy"], results["encodings"], 100 * results["standard_error"]
    poisson, constant = (results["accuracy_against_T"][name] for name in (POISSON, CONSTANT))
    lines = [
        "",
        f"ANN: {ann:.2%} of {results['images']:,} test images right (± {error:.2f} % standard error)",
        f"SNN: its weights, divided by {results['scale']:.4g} (mode {results['mode']}); IF neurons, soft reset",
        "",
        f"{'T':>10}  {POISSON:>18}  {CONSTANT:>18}",
    ]
    for step, at in poisson.items():
        lines.append(f"{step:>10}  {percent(at['values']):>18}  {percent(constant[step]['values']):>18}")
    last = [round(100 * (each[str(results["T"])]["mean"] - ann), 2) + 0.0 for each in (poisson, constant)]
    lines += [f"{'difference':>10}  {last[0]:>+16.2f} %  {last[1]:>+16.2f} %", ""]
    if encodings > 1:
        lines.append(f"± is the standard deviation over {encodings} encodings of the images")
    return "\n".join([*lines, f"test it again: python -m snn_mnist eval -resume {shlex.quote(str(folder))}"])
