"""What a training run prints, as text."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from snn_mnist.network.device import Runtime
from snn_mnist.network.scoring import Score
from snn_mnist.settings.config import Config
from snn_mnist.storage.position import Position
from snn_mnist.terminal import WIDTH, wrapped
from snn_mnist.training.learner import TrainingData


def begins(config: Config, runtime: Runtime, data: TrainingData, folder: Path, position: Position) -> str:
    """Return the lines before the first epoch."""
    images = f"{config.dataset}: {data.steps * config.b:,} images per epoch"
    lines = [wrapped(str(runtime)), images, f"run directory {folder}"]
    if config.amp and runtime.device.type == "cpu":
        lines.append("amp on the CPU: bfloat16 without loss scaling, which its range does not need")
    if config.resume:
        lines += [wrapped(f"note: {note}") for note in config.without_effect(config.unused)]
        done = f" after {position.step} of {data.steps} steps" if position.step else ""
        lines.append(f"resuming in epoch {position.epochs + 1} of {config.epochs}{done}")
    return "\n".join(lines)


def epoch(row: dict[str, Any], epochs: int, skipped: int, threads: str) -> str:
    """Return the line of a finished epoch, and below it what needs attention. With -val the test loss has no room."""
    digits = 2 if row["seconds"] < 10 else 1 if row["seconds"] < 100 else 0
    line = f"epoch {row['epochs']}/{epochs}  train loss {row['train_loss']:.4f} acc {row['train_acc']:.2%}"
    if "val_acc" in row:
        line += f"  val {row['val_acc']:.2%}"
    if "test_acc" in row:
        loss = "" if "val_acc" in row else f"loss {row['test_loss']:.4f} acc "
        line += f"  test {loss}{row['test_acc']:.2%}"
    seconds = f"  {row['seconds']:.{digits}f} s"
    if len(line + seconds) <= WIDTH:
        line += seconds
    remarks = [f"steps skipped for gradients that are not finite: {skipped}" if skipped else "", threads]
    return "\n  ".join([line, *filter(None, remarks)])


def interrupted(position: Position, steps: int, folder: Path, verb: str) -> str:
    return (
        f"interrupted in epoch {position.epochs + 1} after {position.step} of {steps} steps, saved\n"
        f"resume with: python -m snn_mnist {verb} -resume {shlex.quote(str(folder))}"
    )


def summary(config: Config, row: dict[str, Any], position: Position, training_images: int) -> str:
    """Return the results after the last epoch."""
    best = position.best
    last = f"test accuracy {row['test_acc']:.2%}" if config.test else f"held-out accuracy {row['val_acc']:.2%}"
    lines = [f"last epoch: {last}, trained at {row['train_images_per_s']:,.0f} images/s"]
    if config.val:
        test = f", test accuracy {best.test_acc:.2%}" if config.test else ""
        lines.append(f"best epoch on {config.val} held-out images: {best.epochs} (held-out {best.score:.2%}{test})")
    elif position.max_test_acc > row["test_acc"]:
        lines += [
            f"highest of all tests: {position.max_test_acc:.2%}, which is optimistic: the test images chose it;",
            f"report the last epoch, or let held-out training images choose: -val {training_images // 12}",
        ]
    return "\n".join(lines)


def at_chance(score: Score, lr: float) -> str:
    """Return the line for a network that has learned nothing."""
    silent = "" if score.counts.any() else "no neuron fires: "
    return f"{silent}{score.accuracy():.2%} is chance; try another -lr than {lr} (0.001 suits adam, 0.1 sgd)"
