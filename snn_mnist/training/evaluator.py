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
from snn_mnist.training.learner import Learner, TrainingData


@dataclass(frozen=True)
class Evaluation:
    """What the test after one epoch gave."""

    weight: Tensor  # [10, 784] on the CPU, the weights that were tested
    test: Score | None  # not with -no-test
    held_out: Score | None  # with -val
    seconds: float  # for the test images

    def row(self) -> dict[str, float]:
        """Return the columns of metrics.csv that it fills."""
        row: dict[str, float] = {}
        if self.test:
            row = {"test_loss": self.test.loss(), "test_acc": self.test.accuracy()}
            row["test_images_per_s"] = len(self.test.labels) / self.seconds
        if self.held_out:
            row |= {"val_loss": self.held_out.loss(), "val_acc": self.held_out.accuracy()}
        return row


class Evaluator:
    """Tests a learner's weights on the backend of the run; check() comes before each batch, and may raise to stop."""

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        data: TrainingData,
        learner: Learner,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.config, self.runtime, self.check = config, runtime, check
        averaged = learner.average is not None  # else the network that learns is tested
        self.net = SNN.from_config(config).to(runtime.device) if averaged else learner.net
        self.images: dict[Stream, tuple[Engine, Tensor, Tensor]] = {}  # to test, with their indices and labels
        if config.test:
            engine, count = runtime.engine(self.net, data.dataset.test.images), len(data.test_labels)
            self.images[Stream.TEST] = engine, torch.arange(count), data.test_labels
        if config.val:
            engine = runtime.engine(self.net, data.dataset.train.images) if averaged else learner.engine
            self.images[Stream.VALIDATION] = engine, data.held_out, data.held_out_labels
        with runtime.autocast(config.amp):  # compiles the kernels
            engine.firing_counts(torch.tensor([0]), [config.T], SpikeKey(0, Stream.TRAIN, 0))

    def test(self, learner: Learner, epoch: int) -> Evaluation:
        """Test the weights after the epoch with this index; after the last one, whose test is drawn, against T."""
        if self.net is not learner.net:
            with torch.no_grad():
                self.net.weight.copy_(learner.tested_weight)
        steps = default_readout_steps(self.config.T) if epoch + 1 == self.config.epochs else None
        scores, seconds = {}, {Stream.TEST: 0.0}
        for stream in self.images:
            started = time.perf_counter()
            scores[stream] = self.score(stream, SpikeKey(self.config.seed, stream, epoch), steps)
            seconds[stream] = time.perf_counter() - started
        weight = learner.tested_weight.cpu().clone()
        return Evaluation(weight, scores.get(Stream.TEST), scores.get(Stream.VALIDATION), seconds[Stream.TEST])

    def score(
        self, stream: Stream, key: SpikeKey, readout_steps: list[int] | None = None, count: int | None = None
    ) -> Score:
        """Score the first `count` images of a stream, all by default, encoded by `key`."""
        engine, index, labels = self.images[stream]
        steps = readout_steps or [self.config.T]
        with self.runtime.autocast(self.config.amp):
            return score(engine, index[:count], labels[:count], steps, key, self.runtime.test_batch, self.check)
