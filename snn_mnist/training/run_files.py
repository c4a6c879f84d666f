"""The open directory of a run: config.yaml, environment.json, metrics.csv, TensorBoard events, figures, checkpoints."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError
from snn_mnist.network.device import Runtime
from snn_mnist.settings.yaml_file import yaml_text
from snn_mnist.storage import checkpoint, directory, environment, seeds
from snn_mnist.storage.atomic_files import exclusive_lock, reason, write_file
from snn_mnist.storage.metrics import METRICS, VALIDATION, MetricsFile
from snn_mnist.storage.naming import run_name
from snn_mnist.storage.position import Position
from snn_mnist.storage.tensorboard import TensorBoard
from snn_mnist.training.evaluator import Evaluation
from snn_mnist.training.resume import Resumed
from snn_mnist.visualizing import run_figures, tensorboard_images


class RunFiles:
    """Within its context no other process trains in the directory: the resumed one, else a new one."""

    def __init__(self, resumed: Resumed, runtime: Runtime) -> None:
        self.resumed, self.config, self.runtime, self.epochs = resumed, resumed.config, runtime, resumed.position.epochs

    def __enter__(self) -> RunFiles:
        with ExitStack() as opened:
            self._open(opened)
            self.opened = opened.pop_all()
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        if kind is None and (self.folder.parent / seeds.SEEDS).is_file():
            seeds.write_summary(self.folder.parent)
        self.opened.__exit__(kind, *error)

    def _open(self, opened: ExitStack) -> None:
        config, continued = self.config, self.resumed.folder
        if self.resumed.why_elsewhere:
            print(f"continuing in a new directory: {self.resumed.why_elsewhere}")
        if continued and config.name:
            print(f"-name {config.name} is not used: the run continues in its own directory")
        self.folder = continued or directory.new_run_directory(config.out_dir, config.name or self._name())
        opened.enter_context(exclusive_lock(self.folder))
        if continued and not Position.of(checkpoint.load(self.latest)).same_place(self.resumed.position):
            raise SNNError(f"{self.folder} was trained further meanwhile by another process; resume it again")
        columns = METRICS + (VALIDATION if config.val else ())
        self.metrics = MetricsFile(self.folder / "metrics.csv", columns, self.epochs)
        if continued:
            directory.remove_leftovers(self.folder)
        write_file(self.folder / "config.yaml", self._settings())
        environment.note_environment(self.folder / "environment.json", str(self.runtime))
        self.tensorboard = TensorBoard(self.folder, self.epochs, self.metrics.rows)
        opened.callback(self.tensorboard.close)
        self.tensorboard.begin(config)

    def _name(self) -> str:
        """Of a conversion without its neurons, which are always the same."""
        if self.resumed.conversion:
            return "converted_" + run_name(replace(self.config, neuron="lif", v_reset=0.0))
        return run_name(self.config)

    def _settings(self) -> str:
        """config.yaml; that of a conversion names its verb and mode."""
        if conversion := self.resumed.conversion:
            return yaml_text(self.config.to_mapping(), f"convert -mode {conversion.mode}")
        return self.config.to_yaml()

    @property
    def latest(self) -> Path:
        return self.folder / directory.LATEST

    def save(self, name: str, state: dict[str, Any]) -> None:
        """A checkpoint, written whole or not at all."""
        checkpoint.save(self.folder / name, state)

    def record(self, row: dict[str, Any]) -> None:
        """The metrics of an epoch, synced to disk before the checkpoint that counts it."""
        self.metrics.append(row)
        self.tensorboard.write(row)

    def draw(self, evaluation: Evaluation, row: dict[str, Any], last: bool) -> str:
        """Figures of an evaluation for TensorBoard, ten times a run; after the last epoch also those of the run.

        Return why those could not be drawn: a figure ends no run.
        Of an ANN only the settings and metrics: the figures of a conversion are those of the network it ends with.
        """
        config, epochs = self.config, row["epochs"]
        figures = config.figures and not self.resumed.conversion
        if figures and evaluation.test and tensorboard_images.due(epochs, config.epochs):
            pictured = evaluation.weight, evaluation.test, evaluation.class_names
            self.tensorboard.add(epochs, *tensorboard_images.summaries(*pictured))
        if last:
            self.tensorboard.end(config.epochs)
            if figures:
                try:
                    weight, test, class_names = evaluation.weight, evaluation.test, evaluation.class_names
                    run_figures.write_run_figures(self.folder, weight, test, class_names)
                except Exception as error:
                    return f"no figures ({reason(error)}); draw them with plot {self.folder}"
        return ""
