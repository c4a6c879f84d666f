"""What a run shares with its user and machine: text, Ctrl-C and SIGTERM, threads. Without PyTorch."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from snn_mnist.settings.config import Config, cores
from snn_mnist.storage.checkpoint import Position
from snn_mnist.terminal import WIDTH, wrapped

if TYPE_CHECKING:
    from snn_mnist.network.engine import Runtime
    from snn_mnist.network.scoring import Score
    from snn_mnist.training.learner import TrainingData

REPEAT_SECONDS = 0.1  # a second signal within this time repeats the first: `timeout` signals child and group
WINDOW = 0.5  # seconds between two looks at the cores; the kernel counts their time in hundredths of a second
SPARE = 0.7  # a thread more is used where so much of its core is free


# ---- text ----------------------------------------------------------------------------------------------------------


def begins(config: Config, runtime: Runtime, data: TrainingData, folder: Path, position: Position) -> str:
    """Return the lines before the first epoch."""
    images = f"{config.dataset}: {data.steps * config.b:,} images per epoch"
    lines = [wrapped(str(runtime)), images, f"run directory {folder}"]
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


def learned(loss: float, accuracy: float) -> str:
    """Return what the progress bar shows of the epoch so far."""
    return f"acc {accuracy:.2%}, loss {loss:.4f}"


def summary(config: Config, row: dict[str, Any], position: Position, training_images: int, score: Score | None) -> str:
    """Return the results after the last epoch, whose test gave this score, and what to try where it is chance."""
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
    if score and score.at_chance():
        silent = "" if score.counts.any() else "no neuron fires: "
        usual = {"adam": 0.001, "sgd": 0.1}[config.opt]
        rate = f"-lr {usual}, which suits {config.opt}, or " if config.lr != usual else ""
        lines.append(f"{silent}{score.accuracy():.2%} is chance; try {rate}more -epochs")
    return "\n".join(lines)


# ---- Ctrl-C and SIGTERM --------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Raised by Interruption.check."""


class Interruption:
    """Within this context the first SIGINT or SIGTERM is only noted; a second one ends the program at once.

    Contexts may be nested; outside of the main thread signals are left as they are.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._noted = 0.0  # when the first one came
        self._replaced: list[dict[int, Any]] = []  # the handlers that each context puts back

    def __enter__(self) -> Interruption:
        signals = self.SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self._replaced.append({number: signal.signal(number, self._note) for number in signals})
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._replaced.pop().items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._noted and now - self._noted > REPEAT_SECONDS:
            os._exit(128 + number)
        self.signal, self._noted = number, self._noted or now

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def check(self) -> None:
        """Raise Interrupted where a stop was asked for."""
        if self.requested:
            raise Interrupted

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 0 after neither."""
        return 128 + self.signal if self.signal else 0


# ---- threads -------------------------------------------------------------------------------------------------------


class Threads:
    """The number of threads of a run on the CPU: the cores that other programs leave free, at most -j.

    All threads wait for the last one at the end of each of a thousand steps a second. If another program uses one of
    their cores, that takes milliseconds: two threads are then several times slower than one. The fused CPU kernels give
    the same bits for every number of threads, so the number may change during a run; others keep a single one.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.most = runtime.threads if runtime.backend == "numba" else 1
        self.count = self.announced = self.most
        self._when, self._others = time.perf_counter(), others_seconds()

    def follow(self) -> None:
        """Update the number, twice a second; to be called after each chunk of steps."""
        passed = time.perf_counter() - self._when
        if self.most == 1 or passed < WINDOW:
            return
        from snn_mnist.kernels.cpu import jit

        before, self._others = self._others, others_seconds()
        self._when += passed
        free = cores() - (self._others - before) / passed
        count = min(self.most, max(1, int(free + 1 - SPARE)))
        if count != self.count:
            self.count = jit.set_threads(count)

    def announcement(self) -> str:
        """Return, once after a change, that fewer threads are used or all again; else ''."""
        if self.count == self.announced:
            return ""
        self.announced = self.count
        why = "other programs are busy" if self.count < self.most else "the cores are free again"
        return f"now using {self.count} of {self.most} threads: {why}"


def others_seconds() -> float:
    """Return the seconds that this process's cores have worked for other programs but those of low priority ("nice").

    Where there is no /proc/stat (macOS, Windows) it never grows: the number of threads stays as it is.
    """
    if not (hasattr(os, "sched_getaffinity") and os.path.exists("/proc/stat")):
        return 0.0
    allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    with open("/proc/stat") as file:
        rows = [line.split() for line in file if line.startswith("cpu")]
    ticks = sum(int(user) + int(system) for name, user, _, system, *_ in rows if name in allowed)
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()
