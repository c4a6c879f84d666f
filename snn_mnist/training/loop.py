"""The training loop: `train`, `train_epoch`, `finish_epoch`.

A training step encodes a batch, runs the network for T steps, compares its scores with the labels and updates the
weights by the surrogate gradient (network/training_steps.py shows it in PyTorch). A run is a pure function of its
settings: its checkpoint of weights, optimiser and position continues it exactly.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from snn_mnist.data.datasets import Dataset
from snn_mnist.errors import reason
from snn_mnist.network.ann import Conversion
from snn_mnist.network.engine import choose_runtime, without_tiles
from snn_mnist.settings.config import Config
from snn_mnist.storage.atomic_files import require_writable
from snn_mnist.storage.checkpoint import BEST, LATEST, WEIGHT, Position, find_checkpoint
from snn_mnist.terminal import print_above, progress_bar
from snn_mnist.training import console
from snn_mnist.training.console import Interrupted, Interruption, Threads
from snn_mnist.training.learner import Evaluation, Evaluator, Learner, TrainingData
from snn_mnist.training.resume import RunFiles, open_files, restore, resume, snapshot
from snn_mnist.visualizing import run_figures, tensorboard_images


def train(
    config: Config,
    interruption: Interruption,
    watch: Callable[[Mapping[str, Any]], None] | None = None,
    dataset: Dataset | None = None,
    conversion: Conversion | None = None,
) -> Path:
    """Train to the last epoch or to an interruption; return the run directory.

    watch: gets the row of metrics of each epoch once it is saved, instead of a progress bar; may raise to end the run.
    dataset: the one that config names, where it is loaded already. conversion: an ANN is trained.
    """
    resumed = resume(config, conversion)
    config, conversion, position = resumed.config, resumed.conversion, resumed.position
    if config.resume and position.epochs >= config.epochs:
        print(
            f"nothing to do: {config.resume} has been trained for {position.epochs} epochs;\n"
            f"to continue, give a larger -epochs, e.g. -epochs {2 * position.epochs}"
        )
        return find_checkpoint(config.resume).parent
    require_writable(resumed.folder or config.out_dir)
    chosen = config.device, config.backend, config.j, config
    runtime = conversion.runtime(config) if conversion else choose_runtime(*chosen)
    if config.amp and runtime.device.type == "cpu" and config.net is None:
        without_tiles()
    data = TrainingData.load(config, runtime.device, dataset)
    learner = Learner(config, runtime, data, conversion)
    evaluator = Evaluator(learner, interruption.check)
    position, threads = restore(resumed.state, learner), Threads(runtime)
    images = data.steps * config.b
    bar = progress_bar("", config.epochs * images, position.epochs * images + position.step * config.b, bool(watch))
    with interruption, open_files(resumed, runtime, learner.sources) as files, bar:
        if not resumed.folder:
            files.save(LATEST, snapshot(learner, position))  # for a process that is killed within the first epoch
        print(console.begins(config, runtime, data, files.folder, position), flush=True)
        try:
            while position.epochs < config.epochs:
                train_epoch(learner, position, bar, threads, interruption)
                interruption.check()
                row, evaluation = finish_epoch(learner, evaluator, position, files, bar)
                print_above(bar, console.epoch(row, config.epochs, learner.take_skipped(), threads.announcement()))
                if watch:
                    watch(row)
        except Interrupted:
            files.save(LATEST, snapshot(learner, position))
            command = f"{'convert' if conversion else 'train'} -resume {shlex.quote(str(files.folder))}"
            print_above(
                bar,
                f"interrupted in epoch {position.epochs + 1} after {position.step} of {data.steps} steps, saved\n"
                f"resume with: python -m snn_mnist {command}",
            )
            return files.folder
    score = (evaluation.test or evaluation.held_out) if evaluation else None
    print(console.summary(config, row, position, len(data.dataset.train), score))
    if not conversion:
        print(f"test it again: python -m snn_mnist eval -resume {shlex.quote(str(files.folder))}")
    if interruption.requested:
        print("interrupted after the last step; the run is complete and saved")
    return files.folder


def train_epoch(learner: Learner, position: Position, bar: tqdm, threads: Threads, interruption: Interruption) -> None:
    """Do the training steps from the position of the run to the end of the epoch, or to an interruption."""
    batch, steps = learner.config.b, learner.data.steps
    started = time.perf_counter() - position.seconds
    learner.begin_epoch(position.epochs)
    bar.set_description_str(f"epoch {position.epochs + 1}/{learner.config.epochs}", refresh=False)
    while position.step < steps:
        first = position.step
        position.step = min((first // learner.training.chunk + 1) * learner.training.chunk, steps)
        threads.follow()
        learner.training.run(first, position.step)
        if learner.rates.device.type == "cpu":
            learner.require_finite(position)
        if bar.update((position.step - first) * batch):
            bar.set_postfix_str(console.learned(*learner.loss_and_accuracy(position.step)), refresh=False)
        if interruption.requested:
            break
    learner.require_finite(position)  # reads from the device, which waits for its last step
    position.seconds = time.perf_counter() - started


def finish_epoch(
    learner: Learner, evaluator: Evaluator, position: Position, files: RunFiles, bar: tqdm
) -> tuple[dict[str, Any], Evaluation | None]:
    """Test, record and save, in an order that a kill at any moment leaves consistent; return row and test."""
    config, data, seconds = learner.config, learner.data, position.seconds
    epochs, last = position.epochs + 1, position.epochs + 1 == config.epochs
    if last:  # should its figures fail, no training is lost
        files.save(LATEST, snapshot(learner, position))
    loss, accuracy = learner.loss_and_accuracy(data.steps)
    row: dict[str, Any] = {"epochs": epochs, "train_loss": loss, "train_acc": accuracy, "seconds": seconds}
    row |= {"lr": learner.learning_rates[0], "train_images_per_s": data.steps * config.b / seconds}
    evaluation, improved = None, False
    if epochs % config.eval_every == 0 or last:
        bar.set_postfix_str("testing ...")
        evaluation = evaluator.test(position.epochs)
        row |= evaluation.row(learner.loss) | {"seconds": seconds + evaluation.seconds}
        improved = position.take_test(row)
    if config.test:
        row["max_test_acc"] = position.max_test_acc
    files.metrics.append(row)  # synced to disk before the checkpoint that counts it
    files.tensorboard.write(row)
    if evaluation:
        draw(learner, evaluation, epochs, files, bar)
    bar.set_postfix_str(console.learned(loss, accuracy), refresh=False)
    position.epochs, position.step, position.seconds = epochs, 0, 0.0
    if improved:
        files.save(BEST, snapshot(learner, position))
    files.save(LATEST, snapshot(learner, position))
    return row, evaluation


def draw(learner: Learner, evaluation: Evaluation, epochs: int, files: RunFiles, bar: tqdm) -> None:
    """Draw a test for TensorBoard, ten times per run; after the last also the figures, whose errors end no run."""
    config, names, test = learner.config, learner.data.dataset.class_names, evaluation.test
    weight = learner.tested[WEIGHT].cpu() if config.net is None else None  # of the single layer
    figures = config.figures and not learner.conversion  # those of a conversion are of the network it ends with
    if figures and test and tensorboard_images.due(epochs, config.epochs):
        for summary in tensorboard_images.summaries(weight, test, names):
            files.tensorboard.add(step=epochs, summary=summary)
    if epochs == config.epochs:
        try:
            if figures:
                bar.set_postfix_str("drawing the figures ...")
                run_figures.write_run_figures(files.folder, weight, test, names, losses=[config.loss])
        except Exception as error:
            print_above(bar, f"no figures ({reason(error)}); draw them with plot {files.folder}")
