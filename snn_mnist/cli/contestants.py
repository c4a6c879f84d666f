"""What `bench` measures: our trainer on each backend, and the loops of other libraries (cli/peers.py).

A contestant is made for one (T, batch size) and trains or tests for about so many seconds; it lives in a process of its
own, so that thread pools and memory are not shared with another's. On a GPU, CUDA events take the time.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import multiprocessing
import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch

from snn_mnist.cli.measuring import Stopwatch, forget_peak, peak_memory
from snn_mnist.cli.peers import LOOPS
from snn_mnist.errors import SNNError
from snn_mnist.kernels.backends import BACKENDS
from snn_mnist.kernels.cache import compile_seconds
from snn_mnist.network import fused_steps
from snn_mnist.network.device import choose_runtime
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.settings.config import Config
from snn_mnist.training.data import TrainingData
from snn_mnist.training.evaluator import Evaluator
from snn_mnist.training.learner import Learner
from snn_mnist.training.resume import Resumed
from snn_mnist.training.snapshot import restore
from snn_mnist.training.threads import thread_tuner


class Contestant(Protocol):
    device: torch.device

    @property
    def about(self) -> str:
        """What its name stands for; '' where that is plain."""

    @property
    def busy(self) -> str:
        """That fewer threads were faster, or ''."""

    def train(self, seconds: float) -> float:
        """Training speed in images/s."""

    def test(self, seconds: float) -> float:
        """Speed of the forward pass alone, in images/s."""


class OurLoop:
    """The training steps and the test of a run on one backend, with the choice of threads that `train` makes."""

    about = ""

    def __init__(self, backend: str, settings: dict[str, Any]) -> None:
        self.config = config = Config(backend=backend, **settings)
        self.runtime = choose_runtime(config.device, config.backend, config.threads, config.step_mode)
        data = TrainingData.load(config, self.runtime.device)
        self.learner = Learner(config, self.runtime, data)
        self.evaluator = Evaluator(config, self.runtime, data, self.learner)
        restore(Resumed(config, {}), self.learner)
        self.device, self.steps = self.runtime.device, data.steps
        self.tuner = thread_tuner(self.runtime)
        self.epochs, self.keys = itertools.count(1), itertools.count()
        graphs = BACKENDS[self.runtime.backend].graphs
        for _ in range(2 if graphs else 1):  # on a GPU the graphs are captured in the first two epochs
            self._steps(self.steps if graphs else 1)

    def _steps(self, count: int) -> None:
        """So many steps of a new epoch."""
        self.learner.begin_epoch(next(self.epochs))
        first = 0
        while first < count:
            began, last = time.perf_counter(), min(first + min(self.learner.chunk, self.tuner.most_steps), count)
            self.learner.run(first, last)
            self.tuner.note(time.perf_counter() - began, last - first)
            first = last
        if not self.learner.is_finite():  # waits for the device
            raise SNNError("the weights are not finite")

    @property
    def busy(self) -> str:
        if not self.tuner.reduced:
            return ""
        count, most = self.tuner.count, self.tuner.most
        return f"the machine is busy: {count} of {most} threads {'was' if count == 1 else 'were'} faster"

    def train(self, seconds: float) -> float:
        watch, done, chunk = Stopwatch(self.device), 0, self.learner.chunk
        while watch.seconds < seconds:
            wanted = int((seconds - watch.seconds) * done / watch.seconds) if done else chunk
            count = min(self.steps, max(wanted // chunk, 1) * chunk)
            with watch:
                self._steps(count)
            done += count
        return done * self.config.b / watch.seconds

    def test(self, seconds: float) -> float:
        watch, images = Stopwatch(self.device), 0
        while watch.seconds < seconds:
            with watch:
                tested = self.evaluator.score_test_images(
                    SpikeKey(0, Stream.TEST, next(self.keys)), count=self.runtime.test_batch
                )
            images += len(tested.labels)
        return images / watch.seconds


def _make(name: str, settings: dict[str, Any]) -> Contestant:
    if name not in LOOPS:
        return OurLoop(name, settings)
    warnings.simplefilter("ignore")  # of its DataLoader: too many processes, no memory to pin
    return LOOPS[name](settings)


def serve(connection: Any, name: str) -> None:
    """The process of one contestant: takes ('make', settings), ('train', s), ('test', s), ('stop', None)."""
    multiprocessing.set_start_method(None, force=True)  # a DataLoader's workers start as they do from the prompt
    contestant: Any = None
    while True:
        order, value = connection.recv()
        try:
            if order == "stop":
                return
            if order == "make":
                contestant = None
                forget_peak(torch.device(value["device"]))
                started = time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()):
                    contestant = _make(name, value)
                ready = {"ready_seconds": time.perf_counter() - started, "about": contestant.about}
                answer: Any = ready | _compile_seconds()
            else:
                measure: Callable[[float], float] = getattr(contestant, order)
                answer = {
                    "images_per_s": measure(value), "peak_bytes": peak_memory(contestant.device),
                    "busy": contestant.busy,
                }  # fmt: skip
            connection.send((True, answer))
        except KeyboardInterrupt:
            return
        except Exception as error:
            connection.send((False, f"{type(error).__name__}: {error}"))


def _compile_seconds() -> dict[str, float]:
    """What compiling kernels, and capturing graphs of them, has taken in this process."""
    return {"compile_seconds": sum(compile_seconds.values()), "capture_seconds": sum(fused_steps.capture_seconds)}
