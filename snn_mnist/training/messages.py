"""What a training run prints, as text."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_mnist.settings.config import Config
from snn_mnist.storage import seeds
from snn_mnist.terminal import WIDTH, wrapped

if TYPE_CHECKING:  # what is printed before PyTorch is loaded is here too
    from snn_mnist.network.device import Runtime
    from snn_mnist.network.scoring import Score
    from snn_mnist.storage.position import Position
    from snn_mnist.storage.seeds import SeedGroup
    from snn_mnist.training.learner import TrainingData

AMP_ON_THE_CPU = "amp on the CPU: bfloat16 without loss scaling, which its range does not need"


def nothing_to_do(config: Config, epochs: int) -> str:
    return (
        f"nothing to do: {config.resume} has been trained for {epochs} epochs;\n"
        f"to continue, give a larger -epochs, e.g. -epochs {2 * epochs}"
    )


def all_finished(group: SeedGroup) -> str:
    return (
        f"nothing to do: all {len(group.seeds)} runs in {group.folder} have been trained for "
        f"{group.settings.epochs} epochs;\nto continue, give a larger -epochs or -seeds\n{seeds_summary(group)}"
    )


def interrupted_seeds(group: SeedGroup) -> str:
    return (
        f"{len(group.seeds) - len(group.unfinished())} of {len(group.seeds)} seeds finished\n"
        f"resume all with: python -m snn_mnist train -resume {shlex.quote(str(group.folder))}"
    )


def seeds_summary(group: SeedGroup) -> str:
    found = group.summary()
    lines = [f"{found['finished']} seeds, not tested (-no-test)"]
    if last := found["last_epoch"]:
        tested = f"{len(last['of_seed'])} of " if len(last["of_seed"]) < found["seeds"] else ""
        spread = seeds.spread_text(last)
        lines = [f"{tested}{found['seeds']} seeds: test accuracy of the last epoch {spread} (mean ± std)"]
    if found["chosen_by_val"]:
        lines.append(f"of the epochs chosen on held-out images: {seeds.spread_text(found['chosen_by_val'])}")
    return "\n".join([*lines, f"kept in {group.folder / seeds.SEEDS}"])


def begins(config: Config, runtime: Runtime, data: TrainingData, folder: Path, resumed: Position | None) -> str:
    """Return the lines before the first epoch; `resumed` is the position from which a resumed run continues."""
    images = f"{config.dataset}: {data.steps * config.b:,} images per epoch"
    lines = [wrapped(str(runtime)), images, f"run directory {folder}"]
    if config.resume:
        lines += [wrapped(f"note: {note}") for note in config.without_effect(config.unused)]
    if resumed:
        done = f" after {resumed.step} of {data.steps} steps" if resumed.step else ""
        lines.append(f"resuming in epoch {resumed.epochs + 1} of {config.epochs}{done}")
    return "\n".join(lines)


def epoch(row: dict[str, Any], epochs: int, skipped: int, threads: str) -> str:
    """Return the line of a finished epoch, and below it what needs attention. With -val the test loss has no room."""
    test = f"test {row['test_acc']:.2%}" if "test_acc" in row else ""
    if test and "val_acc" not in row:
        test = f"test loss {row['test_loss']:.4f} acc {row['test_acc']:.2%}"
    digits = 2 if row["seconds"] < 10 else 1 if row["seconds"] < 100 else 0
    parts = [
        f"epoch {row['epochs']}/{epochs}",
        f"train loss {row['train_loss']:.4f} acc {row['train_acc']:.2%}",
        f"val {row['val_acc']:.2%}" if "val_acc" in row else "",
        test,
        f"{row['seconds']:.{digits}f} s",
    ]
    line = "  ".join(part for part in parts if part)
    if len(line) > WIDTH:
        line = line.rpartition("  ")[0]
    remarks = [f"steps skipped for gradients that are not finite: {skipped}" if skipped else "", threads]
    return "\n  ".join([line, *filter(None, remarks)])


def not_finite(position: Position, lr: float, latest: Path) -> str:
    good = f"; the last good checkpoint is {latest}" if latest.exists() else ""
    return (
        f"the weights are not finite by step {position.step} of epoch {position.epochs + 1}: a learning rate of {lr} "
        f"is probably too high; lower -lr{good}"
    )


def interrupted(position: Position, steps: int, folder: Path, converts: bool = False) -> str:
    return (
        f"interrupted in epoch {position.epochs + 1} after {position.step} of {steps} steps, saved\n"
        f"resume with: python -m snn_mnist {'convert' if converts else 'train'} -resume {shlex.quote(str(folder))}"
    )


def at_chance(score: Score, lr: float) -> str:
    """The line for a network that has learned nothing."""
    silent = "" if score.counts.any() else "no neuron fires: "
    return f"{silent}{score.accuracy():.2%} is chance; try another -lr than {lr} (0.001 suits adam, 0.1 sgd)"


def summary(
    config: Config, row: dict[str, Any], position: Position, training_images: int, folder: Path, interrupted: bool,
    converts: bool = False,
) -> str:  # fmt: skip
    """Return the lines after the last epoch."""
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
    if not converts:
        lines.append(f"test it again: python -m snn_mnist eval -resume {shlex.quote(str(folder))}")
    if interrupted:
        lines.append("interrupted after the last step; the run is complete and saved")
    return "\n".join(lines)
