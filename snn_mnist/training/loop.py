"""The training loop: `train`, `train_epoch`, `finish_epoch`.

A training step encodes a batch, runs the network for T steps, compares the firing rates with the one-hot labels (mean
squared error) and updates the weights by the surrogate gradient (network/training_steps.py shows it in PyTorch). A run
is a pure function of its settings: its checkpoint of weights, optimiser and position continues it exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from snn_mnist.data.datasets import Dataset
from snn_mnist.errors import SNNError
from snn_mnist.network.device import Runtime, choose_runtime, without_tiles
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint
from snn_mnist.storage.directory import BEST, LATEST
from snn_mnist.storage.position import Position
from snn_mnist.training import messages
from snn_mnist.training.conversion import Conversion
from snn_mnist.training.data import TrainingData
from snn_mnist.training.evaluator import Evaluator
from snn_mnist.training.interruption import Interrupted, Interruption
from snn_mnist.training.learner import Learner
from snn_mnist.training.progress import Progress
from snn_mnist.training.resume import resume
from snn_mnist.training.run_files import RunFiles
from snn_mnist.training.schedule import learning_rate
from snn_mnist.training.snapshot import restore, snapshot
from snn_mnist.training.threads import Threads, threads_of

CHECK_EVERY = 50  # steps between looks for weights that are not finite


class Diverged(SNNError):
    """The weights are not finite any more."""


def train(
    config: Config, interruption: Interruption, watch: Callable[[Mapping[str, Any]], None] | None = None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Trains to the last epoch or to an interruption; returns the last row of metrics, {} when there is none.

    watch: gets the row of metrics of each epoch once it is saved, instead of a progress bar; may raise to end the run.
    dataset: the one that config names, where it is loaded already.
    """
    return train_run(config, interruption, watch=watch, dataset=dataset)[0]


def train_run(
    config: Config, interruption: Interruption, conversion: Conversion | None = None,
    watch: Callable[[Mapping[str, Any]], None] | None = None, dataset: Dataset | None = None,
) -> tuple[dict[str, Any], Path]:  # fmt: skip
    """`train`, and the run directory. With a `conversion` an ANN is trained."""
    resumed = resume(config, conversion)
    config, conversion = resumed.config, resumed.conversion
    if resumed.position.epochs >= config.epochs:
        print(messages.nothing_to_do(config, resumed.position.epochs))
        return {}, checkpoint.find(config.resume or "").parent
    if conversion:
        runtime: Runtime = conversion.runtime(config)
    else:
        runtime = choose_runtime(config.device, config.backend, config.threads, config.step_mode)
    threads = threads_of(runtime)
    if config.amp and runtime.device.type == "cpu":
        without_tiles()
        print(messages.AMP_ON_THE_CPU)
    data = TrainingData.load(config, runtime.device, dataset)
    learner = Learner(config, runtime, data, conversion)
    evaluator = Evaluator(config, runtime, data, learner)
    position = restore(resumed, learner)
    row: dict[str, Any] = {}
    progress = Progress(config.epochs, show=False if watch else None)
    with interruption, RunFiles(resumed, runtime) as files, progress:
        if not resumed.folder:
            files.save(LATEST, snapshot(learner, position))  # a death within the first epoch leaves this one
        print(messages.begins(config, runtime, data, files.folder, position if resumed.state else None), flush=True)
        try:
            while position.epochs < config.epochs:
                train_epoch(learner, position, files, progress, threads, interruption)
                interruption.check()
                row, skipped = finish_epoch(learner, evaluator, position, files, progress, interruption)
                progress.line(messages.epoch(row, config.epochs, skipped, threads.announcement()))
                if watch:
                    watch(row)
        except Interrupted:
            files.save(LATEST, snapshot(learner, position))
            progress.line(messages.interrupted(position, data.steps, files.folder, bool(conversion)))
            return row, files.folder
    images, stopped = len(data.dataset.train), interruption.requested
    print(messages.summary(config, row, position, images, files.folder, stopped, bool(conversion)))
    return row, files.folder


def train_epoch(
    learner: Learner, position: Position, files: RunFiles, progress: Progress, threads: Threads,
    interruption: Interruption,
) -> None:  # fmt: skip
    """Training steps from the position of the run to the end of the epoch, or to an interruption."""
    batch, steps = learner.config.b, learner.data.steps
    started = time.perf_counter() - position.seconds
    learner.begin_epoch(position.epochs)
    progress.start(position.epochs, steps * batch, position.step * batch)
    while position.step < steps:
        first = position.step
        position.step = min((first // learner.chunk + 1) * learner.chunk, steps)
        threads.follow()
        learner.run(first, position.step)
        if learner.checks_early and position.step // CHECK_EVERY > first // CHECK_EVERY:
            require_finite(learner, position, files)
        if progress.step((position.step - first) * batch):
            progress.figures(*learner.loss_and_accuracy(position.step))
        if interruption.requested:
            break
    require_finite(learner, position, files)  # reads from the device, which waits for its last step
    position.seconds = time.perf_counter() - started


def finish_epoch(
    learner: Learner, evaluator: Evaluator, position: Position, files: RunFiles, progress: Progress,
    interruption: Interruption,
) -> tuple[dict[str, Any], int]:  # fmt: skip
    """Tests, records and saves, in the order that a death at any moment leaves consistent.

    Returns the epoch's row of metrics and its skipped steps.
    """
    config, epoch, steps = learner.config, position.epochs, learner.data.steps
    epochs = epoch + 1
    last = epochs == config.epochs
    if last:  # should its figures fail, no training is lost
        files.save(LATEST, snapshot(learner, position))
    loss, accuracy = learner.loss_and_accuracy(steps)
    row: dict[str, Any] = {
        "epochs": epochs, "train_loss": loss, "train_acc": accuracy, "lr": learning_rate(config, epoch, 0, steps),
        "train_images_per_s": steps * config.b / position.seconds, "seconds": position.seconds,
    }  # fmt: skip
    evaluation, improved = None, False
    if epochs % config.eval_every == 0 or last:
        progress.says("testing")
        evaluation = evaluator.test(learner, epoch, interruption.check)
        row |= evaluation.row()
        row["seconds"] += evaluation.seconds
        improved = position.take_test(row)
    if config.test:
        row["max_test_acc"] = position.max_test_acc
    files.record(row)
    if evaluation:
        if last and config.figures:
            progress.says("drawing the figures")
        if problem := files.draw(evaluation, row, last):
            progress.line(problem)
    skipped = learner.take_skipped()
    position.epochs, position.step, position.seconds = epochs, 0, 0.0
    if improved:
        files.save(BEST, snapshot(learner, position))
    files.save(LATEST, snapshot(learner, position))
    return row, skipped


def require_finite(learner: Learner, position: Position, files: RunFiles) -> None:
    if not learner.is_finite():
        raise Diverged(messages.not_finite(position, learner.config.lr, files.latest))
