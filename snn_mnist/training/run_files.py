"""The open directory of a run: config.yaml, environment.json, metrics.csv, TensorBoard events, figures, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError, reason
from snn_mnist.network.device import Runtime
from snn_mnist.settings.config import Config, yaml_text
from snn_mnist.storage import atomic_files, checkpoint, environment
from snn_mnist.storage.atomic_files import exclusive_lock, write_file
from snn_mnist.storage.checkpoint import Position
from snn_mnist.storage.metrics import METRICS, VALIDATION, MetricsFile, TensorBoard
from snn_mnist.storage.runs import run_name
from snn_mnist.training.learner import Evaluation
from snn_mnist.training.resume import Resumed
from snn_mnist.visualizing import run_figures, tensorboard_images


@dataclass(frozen=True)
class RunFiles:
    """The open files of a run, made by `open_files`."""

    folder: Path
    config: Config
    metrics: MetricsFile
    tensorboard: TensorBoard

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint, whole or not at all."""
        checkpoint.save(self.folder / name, state)

    def record(self, row: dict[str, Any]) -> None:
        """Write the metrics of an epoch, synced to disk before the checkpoint that counts it."""
        self.metrics.append(row)
        self.tensorboard.write(row)

    def draw(self, found: Evaluation, names: tuple[str, ...], epochs: int) -> str:
        """Draw a test for TensorBoard, ten times per run; after the last epoch also the figures of the run.

        names: of the classes. Return why the figures could not be drawn: they end no run.
        """
        if self.config.figures and found.test and tensorboard_images.due(epochs, self.config.epochs):
            self.tensorboard.add(epochs, *tensorboard_images.summaries(found.weight, found.test, names))
        if epochs == self.config.epochs:
            self.tensorboard.end(epochs)
            try:
                if self.config.figures:
                    run_figures.write_run_figures(self.folder, found.weight, found.test, names)
            except Exception as error:
                return f"no figures ({reason(error)}); draw them with plot {self.folder}"
        return ""


@contextmanager
def open_files(resumed: Resumed, runtime: Runtime) -> Iterator[RunFiles]:
    """Open the resumed directory, else a new one; meanwhile no other process trains in it."""
    config, folder, conversion, epochs = resumed.config, resumed.folder, resumed.conversion, resumed.position.epochs
    if resumed.why_elsewhere:
        print(f"continuing in a new directory: {resumed.why_elsewhere}")
    if not folder:
        name = conversion.run_name(config) if conversion else run_name(config)
        folder = atomic_files.new_run_directory(config.out_dir, config.name or name)
    elif config.name:
        print(f"-name {config.name} is not used: the run continues in its own directory")
    with exclusive_lock(folder):
        if resumed.folder and Position.of(checkpoint.load(folder)) != resumed.position:
            raise SNNError(f"{folder} has meanwhile been trained by another process; resume it again")
        metrics = MetricsFile(folder / "metrics.csv", METRICS + (VALIDATION if config.val else ()), epochs)
        atomic_files.remove_temporary_files(folder)
        verb = f"convert -mode {conversion.mode}" if conversion else "train"
        write_file(folder / "config.yaml", yaml_text(config.to_mapping(), verb))
        environment.note_environment(folder / "environment.json", str(runtime))
        with closing(TensorBoard(folder, epochs, metrics.rows)) as tensorboard:
            tensorboard.begin(config)
            figures = config.figures and not conversion  # those of a conversion are of the network it ends with
            yield RunFiles(folder, replace(config, figures=figures), metrics, tensorboard)
