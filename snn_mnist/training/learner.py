"""The state of a training run between two steps, and its test.

`Learner`: images and their order, learning rates, weights, optimiser, loss scale. `Evaluator`: test images (not with
-no-test), and with -val held-out training images.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from snn_mnist.data.datasets import Dataset, load_dataset
from snn_mnist.errors import SNNError
from snn_mnist.network import own
from snn_mnist.network.ann import Conversion
from snn_mnist.network.engine import Engine, Runtime
from snn_mnist.network.network import CLASSES, network_of
from snn_mnist.network.own import OwnNetwork
from snn_mnist.network.poisson import SpikeKey, Stream, random_order
from snn_mnist.network.scoring import Score, default_readout_steps, mean_loss, score
from snn_mnist.network.training_steps import Loss, Training
from snn_mnist.settings.config import Config
from snn_mnist.storage.checkpoint import Position


class Diverged(SNNError):
    """The weights are not finite any more."""


@dataclass(frozen=True)
class TrainingData:
    """A data set on the device of the run, its training images split in two."""

    dataset: Dataset  # on the device
    learned: Tensor  # [N] int64 on the device, indices of training images
    held_out: Tensor  # [V] int64 on the CPU, indices of training images, ascending
    steps: int  # batches per epoch; the last incomplete one is dropped

    @classmethod
    def load(cls, config: Config, device: torch.device, dataset: Dataset | None = None) -> TrainingData:
        """Return the data of a run; `dataset`: the one that config names, where it is loaded already."""
        dataset = dataset or load_dataset(config.dataset, config.data_dir)
        config.check_sizes(len(dataset.train))
        shuffled = random_order(len(dataset.train), 0, 0, Stream.HOLDOUT)  # the same images for every seed
        held_out, learned = shuffled[: config.val].sort().values, shuffled[config.val :].sort().values
        steps = min(len(learned) // config.b, config.limit_batches or len(learned))
        return cls(dataset.to(device), learned.to(device), held_out, steps)

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return the learned images [N] in the order of this epoch, a function of (seed, epoch) alone."""
        return self.learned[random_order(len(self.learned), seed, epoch, device=self.learned.device)]


def learning_rates(config: Config, epoch: int, steps: int) -> list[float]:
    """Return the learning rate at each step of an epoch.

    It is lr, or with cosine (1 + cos(pi t)) lr / 2, where t is the share of the run's steps that are done.
    """
    if config.schedule == "constant":
        return [config.lr] * steps
    first, total = epoch * steps, config.epochs * steps
    return [config.lr * (1 + math.cos(math.pi * (n / total))) / 2 for n in range(first, first + steps)]


def ema_decays(config: Config, epoch: int, steps: int) -> list[float] | None:
    """Return the decay of the averaged weights at each step of an epoch, None without -ema.

    min(ema, (1 + n) / (10 + n)) at step n of the run: a shorter memory at first, so that the initial weights fade.
    """
    if not config.ema:
        return None
    first = epoch * steps
    return [min(config.ema, (1 + n) / (10 + n)) for n in range(first, first + steps)]


class Learner:
    """A network in training. `begin_epoch`, then `training.run` steps of it; the rates of the epoch stay in `rates`."""

    def __init__(
        self, config: Config, runtime: Runtime, data: TrainingData, conversion: Conversion | None = None
    ) -> None:
        """conversion: the network learns as an ANN, on that one's runtime"""
        self.config, self.runtime, self.data, self.conversion = config, runtime, data, conversion
        self.loss = Loss(config.loss, config.scale)
        device = runtime.device
        self.sources = {own.COPIES[code.setting]: code.source() for code in own.codes(config)}
        torch.manual_seed(config.seed)
        self.net = network_of(config).to(device)
        self.engine = runtime.engine(self.net, data.dataset.train.images)
        if isinstance(self.net, OwnNetwork):
            self.net.check(config)
        self.average = {name: each.clone() for name, each in self.net.state_dict().items()} if config.ema else None
        self.optimizer = new_optimizer(config, runtime.backend, self.net)
        scaled = config.amp and device.type == "cuda"  # bfloat16 on the CPU has float32's range: nothing to scale
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)  # steps of the epoch, counted without a sync
        self.rates = torch.zeros(data.steps * config.b, CLASSES, device=device)

    def prepare(self) -> None:
        """Make the training steps, once the optimiser's state has been restored."""
        for parameter in [each for group in self.optimizer.param_groups for each in group["params"]]:
            state = self.optimizer.state[parameter]
            if self.config.opt == "sgd" and self.config.momentum and state.get("momentum_buffer") is None:
                # torch leaves it uninitialised when loss scaling skips the first step
                state["momentum_buffer"] = torch.zeros_like(parameter)
        config, scaler = self.config, self.scaler
        sizes, terms = (self.data.steps, config.b, config.T), (self.loss, config.dropout)
        training = Training(*sizes, self.optimizer, scaler, config.amp, self.average, self.rates, self.skipped, *terms)
        self.training = self.engine.training_steps(one_hot(self.data.dataset.train.labels, CLASSES).float(), training)
        self.training.warm_up()

    @property
    def tested(self) -> dict[str, Tensor]:
        """The state of the network that is tested and saved: averaged with -ema, else the one that learns."""
        return self.average or self.net.state_dict()

    def begin_epoch(self, epoch: int) -> None:
        """Set what differs between epochs; epoch: its index, from 0."""
        config, steps = self.config, self.data.steps
        self.order, self.learning_rates = self.data.order(config.seed, epoch), learning_rates(config, epoch, steps)
        key = SpikeKey(config.seed, Stream.TRAIN, epoch)
        self.training.begin(key, self.order, self.learning_rates, ema_decays(config, epoch, steps))

    def take_skipped(self) -> int:
        """Return the steps of the epoch that loss scaling left out; the count starts again."""
        skipped = int(self.skipped)
        self.skipped.zero_()
        return skipped

    def require_finite(self, position: Position) -> None:
        """Raise Diverged where a weight is no finite number; waits for the device."""
        if not all(math.isfinite(each.detach().sum().item()) for each in self.net.parameters()):
            raise Diverged(
                f"the weights are not finite by step {position.step} of epoch {position.epochs + 1}: a learning rate "
                f"of {self.config.lr} is probably too high; lower -lr; the last checkpoint is good"
            )

    def loss_and_accuracy(self, step: int) -> tuple[float, float]:
        """Return those of the first `step` steps of the epoch, each batch with the weights it met."""
        done = step * self.config.b
        rates, labels = self.rates[:done], self.data.dataset.train.labels[self.order[:done]]
        return mean_loss(rates, labels, self.loss), (rates.argmax(1) == labels).double().mean().item()


def new_optimizer(config: Config, backend: str, net: Any) -> Any:
    """Return Adam or SGD: a record for compiled steps, elsewhere torch.optim's own."""
    groups: Any = net.parameter_groups() if isinstance(net, OwnNetwork) else [{"params": [net.weight]}]
    groups = [{**group, "lr": config.lr * group.get("lr_factor", 1)} for group in groups]
    if backend == "numba":
        from snn_mnist.network.compiled_steps import FusedAdam, FusedSGD

        if config.opt == "adam":
            return FusedAdam(net.weight, lr=config.lr)
        return FusedSGD(net.weight, lr=config.lr, momentum=config.momentum)
    if config.opt == "adam":
        return torch.optim.Adam(groups, lr=config.lr, fused=True, capturable=backend == "cupy")
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)


@dataclass(frozen=True)
class Evaluation:
    """What the test after one epoch gave."""

    test: Score | None  # not with -no-test
    held_out: Score | None  # with -val
    seconds: float  # for the test images

    def row(self, loss: Loss) -> dict[str, float]:
        """Return the columns of metrics.csv that it fills."""
        row: dict[str, float] = {}
        if self.test:
            row = {"test_loss": self.test.loss(loss), "test_acc": self.test.accuracy()}
            row["test_images_per_s"] = len(self.test.labels) / self.seconds
        if self.held_out:
            row |= {"val_loss": self.held_out.loss(loss), "val_acc": self.held_out.accuracy()}
        return row


class Evaluator:
    """Tests a learner's weights on the backend of the run; check() comes before each batch, and may raise to stop."""

    def __init__(self, learner: Learner, check: Callable[[], None] = lambda: None) -> None:
        config, runtime, data = learner.config, learner.runtime, learner.data
        self.learner, self.config, self.runtime, self.check = learner, config, runtime, check
        # else the network that learns is tested; one of the user's own may change its buffers in a test
        copied = learner.average is not None or isinstance(learner.net, OwnNetwork)
        self.net = copy.deepcopy(learner.net) if copied else learner.net
        self.images: dict[Stream, tuple[Engine, Tensor, Tensor]] = {}  # to test, with their indices and labels
        if config.test:
            engine, labels = runtime.engine(self.net, data.dataset.test.images), data.dataset.test.labels
            self.images[Stream.TEST] = engine, torch.arange(len(labels)), labels
        if config.val:
            engine = runtime.engine(self.net, data.dataset.train.images) if copied else learner.engine
            self.images[Stream.VALIDATION] = engine, data.held_out, data.dataset.train.labels[data.held_out]
        with runtime.autocast(config.amp):  # compiles the kernels
            engine.firing_counts(torch.tensor([0]), [config.T], SpikeKey(0, Stream.TRAIN, 0))

    def test(self, epoch: int) -> Evaluation:
        """Test the weights after the epoch with this index; after the last one, whose test is drawn, against T."""
        if self.net is not self.learner.net:
            self.net.load_state_dict(self.learner.tested)
        steps = default_readout_steps(self.config.T) if epoch + 1 == self.config.epochs else None
        scores, seconds = {}, {Stream.TEST: 0.0}
        for stream in self.images:
            started = time.perf_counter()
            scores[stream] = self.score(stream, SpikeKey(self.config.seed, stream, epoch), steps)
            seconds[stream] = time.perf_counter() - started
        return Evaluation(scores.get(Stream.TEST), scores.get(Stream.VALIDATION), seconds[Stream.TEST])

    def score(
        self, stream: Stream, key: SpikeKey, readout_steps: list[int] | None = None, count: int | None = None
    ) -> Score:
        """Score the first `count` images of a stream, all by default, encoded by `key`."""
        engine, index, labels = self.images[stream]
        steps = readout_steps or [self.config.T]
        with self.runtime.autocast(self.config.amp):
            return score(engine, index[:count], labels[:count], steps, key, self.runtime.test_batch, self.check)
