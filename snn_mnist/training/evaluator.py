"""The test after an epoch: test images, and with -val held-out training images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from snn_mnist.model.device import Runtime
from snn_mnist.model.network import SNN
from snn_mnist.model.poisson import SpikeKey, Stream
from snn_mnist.model.scoring import Score, default_readout_steps, score
from snn_mnist.runs.config import Config
from snn_mnist.training.data import TrainingData
from snn_mnist.training.learner import Learner


@dataclass(frozen=True)
class Evaluation:
    """What the test after one epoch gave."""

    weight: Tensor  # [10, 784] on the CPU, the weights that were tested
    test: Score
    held_out: Score | None  # with -val
    seconds: float  # for the test images
    class_names: tuple[str, ...]

    def row(self) -> dict[str, float]:
        """The columns of metrics.csv that it fills."""
        row = {
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
        self.engine = runtime.engine(self.net, data.dataset.test.images)
        self.held_out_engine = learner.engine
        if averaged and config.val:
            self.held_out_engine = runtime.engine(self.net, data.dataset.train.images)
        self.score_test_images(SpikeKey(0, Stream.TRAIN, 0), count=1)  # compiles the kernels

    def test(self, learner: Learner, epoch: int, check: Callable[[], None] = lambda: None) -> Evaluation:
        """The test after `epoch`; check() is called before each batch and may raise to stop it."""
        config = self.config
        if self.net is not learner.net:
            with torch.no_grad():
                self.net.weight.copy_(learner.tested_weight)
        # The last test is drawn against T.
        readout_steps = default_readout_steps(config.T) if epoch + 1 == config.epochs else [config.T]
        started = time.perf_counter()
        tested = self.score_test_images(SpikeKey(config.seed, Stream.TEST, epoch), readout_steps, check=check)
        seconds = time.perf_counter() - started
        held_out = None
        if config.val:
            key = SpikeKey(config.seed, Stream.VALIDATION, epoch)
            with self.runtime.autocast(config.amp):
                held_out = score(
                    self.held_out_engine, self.data.held_out, self.data.held_out_labels, readout_steps, key,
                    self.runtime.test_batch, check,
                )  # fmt: skip
        return Evaluation(learner.tested_weight.cpu().clone(), tested, held_out, seconds, self.data.dataset.class_names)

    def score_test_images(
        self, key: SpikeKey, readout_steps: list[int] | None = None, count: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Score:  # fmt: skip
        """The first `count` test images (all by default), encoded by `key`."""
        labels = self.data.test_labels[:count]
        steps = readout_steps or [self.config.T]
        with self.runtime.autocast(self.config.amp):
            return score(self.engine, torch.arange(len(labels)), labels, steps, key, self.runtime.test_batch, check)
