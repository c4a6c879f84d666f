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
from snn_mnist.storage.directory import BEST, LATEST, find, require_writable
from snn_mnist.storage.position import Position
from snn_mnist.training import messages
from snn_mnist.training.conversion import Conversion
from snn_mnist.training.evaluator import Evaluation, Evaluator
from snn_mnist.training.interruption import Interrupted, Interruption
from snn_mnist.training.learner import Learner, TrainingData, learning_rate
from snn_mnist.training.progress import Progress
from snn_mnist.training.resume import restore, resume, snapshot
from snn_mnist.training.run_files import RunFiles, open_files
from snn_mnist.training.threads import Threads, threads_of

CHECK_EVERY = 50  # steps between looks for weights that are not finite


class Diverged(SNNError):
    """The weights are not finite any more."""


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
    config, conversion = resumed.config, resumed.conversion
    if resumed.position.epochs >= config.epochs:
        print(messages.nothing_to_do(config, resumed.position.epochs))
        return find(config.resume or "").parent
    require_writable(resumed.folder or config.out_dir)
    if conversion:
        runtime: Runtime = conversion.runtime(config)
    else:
        runtime = choose_runtime(config.device, config.backend, config.j, config.step_mode)
    threads = threads_of(runtime)
    if config.amp and runtime.device.type == "cpu":
        without_tiles()
        print(messages.AMP_ON_THE_CPU)
    data = TrainingData.load(config, runtime.device, dataset)
    learner = Learner(config, runtime, data, conversion)
    evaluator = Evaluator(config, runtime, data, learner, interruption.check)
    position = restore(resumed.state, learner)
    progress = Progress(config.epochs, show=False if watch else None)
    with interruption, open_files(resumed, runtime) as files, progress:
        if not resumed.folder:
            files.save(LATEST, snapshot(learner, position))  # for a process that is killed within the first epoch
        print(messages.begins(config, runtime, data, files.folder, position if resumed.state else None), flush=True)
        try:
            while position.epochs < config.epochs:
                train_epoch(learner, position, files, progress, threads, interruption)
                interruption.check()
                row, evaluation = finish_epoch(learner, evaluator, position, files, progress)
                progress.line(messages.epoch(row, config.epochs, learner.take_skipped(), threads.announcement()))
                if watch:
                    watch(row)
        except Interrupted:
            files.save(LATEST, snapshot(learner, position))
            progress.line(messages.interrupted(position, data.steps, files.folder, bool(conversion)))
            return files.folder
    images, stopped = len(data.dataset.train), interruption.requested
    print(messages.summary(config, row, position, images, files.folder, stopped, bool(conversion)))
    if evaluation and evaluation.score.at_chance():
        print(messages.at_chance(evaluation.score, config.lr))
    return files.folder


def train_epoch(
    learner: Learner,
    position: Position,
    files: RunFiles,
    progress: Progress,
    threads: Threads,
    interruption: Interruption,
) -> None:
    """Do the training steps from the position of the run to the end of the epoch, or to an interruption."""
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
            require_finite(learner, position, files.latest)
        if progress.step((position.step - first) * batch):
            progress.figures(*learner.loss_and_accuracy(position.step))
        if interruption.requested:
            break
    require_finite(learner, position, files.latest)  # reads from the device, which waits for its last step
    position.seconds = time.perf_counter() - started


def finish_epoch(
    learner: Learner, evaluator: Evaluator, position: Position, files: RunFiles, progress: Progress
) -> tuple[dict[str, Any], Evaluation | None]:
    """Test, record and save, in an order that a kill at any moment leaves consistent; return row and test."""
    config, epoch, steps = learner.config, position.epochs, learner.data.steps
    last = epoch + 1 == config.epochs
    if last:  # should its figures fail, no training is lost
        files.save(LATEST, snapshot(learner, position))
    loss, accuracy = learner.loss_and_accuracy(steps)
    row: dict[str, Any] = {"epochs": epoch + 1, "train_loss": loss, "train_acc": accuracy}
    row |= {"lr": learning_rate(config, epoch, 0, steps), "train_images_per_s": steps * config.b / position.seconds}
    row["seconds"] = position.seconds
    evaluation, improved = None, False
    if row["epochs"] % config.eval_every == 0 or last:
        progress.says("testing")
        evaluation = evaluator.test(learner, epoch)
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
    position.epochs, position.step, position.seconds = row["epochs"], 0, 0.0
    if improved:
        files.save(BEST, snapshot(learner, position))
    files.save(LATEST, snapshot(learner, position))
    return row, evaluation


def require_finite(learner: Learner, position: Position, latest: Path) -> None:
    """Raise Diverged when a weight is no finite number; latest: the checkpoint that is left."""
    if not learner.is_finite():
        raise Diverged(messages.not_finite(position, learner.config.lr, latest))
