"""The test after an epoch: test images (not with -no-test), and with -val held-out training images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from snn_mnist.network.device import Runtime
from snn_mnist.network.engine import Engine
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.network.scoring import Score, default_readout_steps, score
from snn_mnist.settings.config import Config
from snn_mnist.training.data import TrainingData
from snn_mnist.training.learner import Learner


@dataclass(frozen=True)
class Evaluation:
    """What the test after one epoch gave."""

    weight: Tensor  # [10, 784] on the CPU, the weights that were tested
    test: Score | None  # not with -no-test
    held_out: Score | None  # with -val
    seconds: float  # for the test images
    class_names: tuple[str, ...]

    def row(self) -> dict[str, float]:
        """The columns of metrics.csv that it fills."""
        row: dict[str, float] = {}
        if self.test:
            row |= {
                "test_loss": self.test.loss(), "test_acc": self.test.accuracy(),
                "test_images_per_s": len(self.test.labels) / self.seconds,
            }  # fmt: skip
        if self.held_out:
            row |= {"val_loss": self.held_out.loss(), "val_acc": self.held_out.accuracy()}
        return row


class Evaluator:
    """Tests a learner's weights on the backend of the run."""

    def __init__(self, config: Config, runtime: Runtime, data: TrainingData, learner: Learner) -> None:
        self.config, self.runtime, self.data = config, runtime, data
        averaged = learner.average is not None  # else the network that learns is tested
        self.net = SNN.from_config(config).to(runtime.device) if averaged else learner.net
        self.held_out_engine = learner.engine
        if averaged and config.val:
            self.held_out_engine = runtime.engine(self.net, data.dataset.train.images)
        if config.test:
            self.engine = runtime.engine(self.net, data.dataset.test.images)
        # One image compiles the kernels.
        (self.score_test_images if config.test else self.score_held_out)(SpikeKey(0, Stream.TRAIN, 0), count=1)

    def test(self, learner: Learner, epoch: int, check: Callable[[], None] = lambda: None) -> Evaluation:
        """The test after `epoch`; check() is called before each batch and may raise to stop it."""
        config = self.config
        if self.net is not learner.net:
            with torch.no_grad():
                self.net.weight.copy_(learner.tested_weight)
        # The last test is drawn against T.
        readout_steps = default_readout_steps(config.T) if epoch + 1 == config.epochs else [config.T]
        started, tested, held_out = time.perf_counter(), None, None
        if config.test:
            tested = self.score_test_images(SpikeKey(config.seed, Stream.TEST, epoch), readout_steps, check=check)
        seconds = time.perf_counter() - started
        if config.val:
            held_out = self.score_held_out(SpikeKey(config.seed, Stream.VALIDATION, epoch), readout_steps, check=check)
        return Evaluation(learner.tested_weight.cpu().clone(), tested, held_out, seconds, self.data.dataset.class_names)

    def score_test_images(
        self, key: SpikeKey, readout_steps: list[int] | None = None, count: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Score:  # fmt: skip
        """The first `count` test images (all by default), encoded by `key`."""
        labels = self.data.test_labels[:count]
        return self._score(self.engine, torch.arange(len(labels)), labels, readout_steps, key, check)

    def score_held_out(
        self, key: SpikeKey, readout_steps: list[int] | None = None, count: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Score:  # fmt: skip
        """The first `count` held-out training images (all by default), encoded by `key`."""
        index, labels = self.data.held_out[:count], self.data.held_out_labels[:count]
        return self._score(self.held_out_engine, index, labels, readout_steps, key, check)

    def _score(
        self, engine: Engine, index: Tensor, labels: Tensor, readout_steps: list[int] | None, key: SpikeKey,
        check: Callable[[], None],
    ) -> Score:  # fmt: skip
        steps = readout_steps or [self.config.T]
        with self.runtime.autocast(self.config.amp):
            return score(engine, index, labels, steps, key, self.runtime.test_batch, check)
