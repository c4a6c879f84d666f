"""What a training step needs and changes: images and their order, learning rates, weights, optimiser, loss scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from snn_mnist.data.datasets import Dataset, load_dataset
from snn_mnist.errors import SNNError
from snn_mnist.network.ann import Conversion
from snn_mnist.network.device import Runtime
from snn_mnist.network.network import CLASSES, SNN
from snn_mnist.network.poisson import SpikeKey, Stream, random_order
from snn_mnist.network.scoring import mean_squared_error
from snn_mnist.network.training_steps import Training
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
    held_out_labels: Tensor  # [V] int64 on the CPU
    test_labels: Tensor  # [M] int64 on the CPU
    steps: int  # batches per epoch; the last incomplete one is dropped

    @classmethod
    def load(cls, config: Config, device: torch.device, dataset: Dataset | None = None) -> TrainingData:
        """Return the data of a run; `dataset`: the one that config names, where it is loaded already."""
        dataset = dataset or load_dataset(config.dataset, config.data_dir)
        config.check_sizes(len(dataset.train))
        shuffled = random_order(len(dataset.train), 0, 0, Stream.HOLDOUT)  # the same images for every seed
        held_out, learned = shuffled[: config.val].sort().values, shuffled[config.val :].sort().values
        steps = min(len(learned) // config.b, config.limit_batches or len(learned))
        labels = dataset.train.labels[held_out]
        return cls(dataset.to(device), learned.to(device), held_out, labels, dataset.test.labels, steps)

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
    """A network in training. `begin_epoch`, then `run` steps of it; the rates of the epoch stay in `rates`."""

    def __init__(
        self, config: Config, runtime: Runtime, data: TrainingData, conversion: Conversion | None = None
    ) -> None:
        """conversion: the network learns as an ANN, on that one's runtime"""
        self.config, self.data, self.conversion, device = config, data, conversion, runtime.device
        torch.manual_seed(config.seed)
        self.net = SNN.from_config(config).to(device)
        self.engine = runtime.engine(self.net, data.dataset.train.images)
        self.average = self.net.weight.detach().clone() if config.ema else None
        self.optimizer = new_optimizer(config, runtime.backend, self.net.weight)
        scaled = config.amp and device.type == "cuda"  # bfloat16 on the CPU has float32's range: nothing to scale
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)  # steps of the epoch, counted without a sync
        self.rates = torch.zeros(data.steps * config.b, CLASSES, device=device)

    def prepare(self) -> None:
        """Make the training steps, once the optimiser's state has been restored."""
        weight, state = self.net.weight, self.optimizer.state[self.net.weight]
        if self.config.opt == "sgd" and self.config.momentum and state.get("momentum_buffer") is None:
            # torch leaves it uninitialised when loss scaling skips the first step
            state["momentum_buffer"] = torch.zeros_like(weight)
        config, scaler = self.config, self.scaler
        sizes = self.data.steps, config.b, config.T
        training = Training(*sizes, self.optimizer, scaler, config.amp, self.average, self.rates, self.skipped)
        self.training = self.engine.training_steps(one_hot(self.data.dataset.train.labels, CLASSES).float(), training)
        self.training.warm_up()

    @property
    def tested_weight(self) -> Tensor:
        """The weights [10, 784] that are tested and saved: averaged with -ema, else those that learn."""
        return self.net.weight.detach() if self.average is None else self.average

    @property
    def chunk(self) -> int:
        """The loop stops only at multiples of this many steps."""
        return self.training.chunk

    def begin_epoch(self, epoch: int) -> None:
        """Set what differs between epochs; epoch: its index, from 0."""
        config, steps = self.config, self.data.steps
        self.order, self.learning_rates = self.data.order(config.seed, epoch), learning_rates(config, epoch, steps)
        key = SpikeKey(config.seed, Stream.TRAIN, epoch)
        self.training.begin(key, self.order, self.learning_rates, ema_decays(config, epoch, steps))

    def run(self, first: int, last: int) -> None:
        """Do steps first .. last - 1 of the epoch; on a CUDA device without waiting for them."""
        self.training.run(first, last)

    def take_skipped(self) -> int:
        """Return the steps of the epoch that loss scaling left out; the count starts again."""
        skipped = int(self.skipped)
        self.skipped.zero_()
        return skipped

    def require_finite(self, position: Position) -> None:
        """Raise Diverged where a weight is no finite number; waits for the device."""
        if not math.isfinite(self.net.weight.detach().sum().item()):
            raise Diverged(
                f"the weights are not finite by step {position.step} of epoch {position.epochs + 1}: a learning rate "
                f"of {self.config.lr} is probably too high; lower -lr; the last checkpoint is good"
            )

    def loss_and_accuracy(self, step: int) -> tuple[float, float]:
        """Return those of the first `step` steps of the epoch, each batch with the weights it met."""
        done = step * self.config.b
        rates, labels = self.rates[:done], self.data.dataset.train.labels[self.order[:done]]
        return mean_squared_error(rates, labels), (rates.argmax(1) == labels).double().mean().item()


def new_optimizer(config: Config, backend: str, weight: Tensor) -> Any:
    """Return Adam or SGD: a record for compiled steps, elsewhere torch.optim's own."""
    if backend == "numba":
        from snn_mnist.network.compiled_steps import FusedAdam, FusedSGD

        if config.opt == "adam":
            return FusedAdam(weight, lr=config.lr)
        return FusedSGD(weight, lr=config.lr, momentum=config.momentum)
    if config.opt == "adam":
        return torch.optim.Adam([weight], lr=config.lr, fused=True, capturable=backend == "cupy")
    return torch.optim.SGD([weight], lr=config.lr, momentum=config.momentum, fused=True)
