"""What a training step changes: the network's weights, the optimiser, the loss scale, the moving average."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from snn_mnist.network.device import Runtime
from snn_mnist.network.network import CLASSES, SNN
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.network.scoring import mean_squared_error
from snn_mnist.network.training_steps import Training
from snn_mnist.settings.config import Config
from snn_mnist.training.conversion import Conversion
from snn_mnist.training.data import TrainingData
from snn_mnist.training.schedule import ema_decays, learning_rates


class Learner:
    """A network in training. `begin_epoch`, then `run` steps of it; the rates of the epoch stay in `rates`."""

    def __init__(
        self, config: Config, runtime: Runtime, data: TrainingData, conversion: Conversion | None = None
    ) -> None:  # fmt: skip
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
        """Makes the training steps, once the optimiser's state has been restored."""
        if self.config.opt == "sgd" and self.config.momentum:  # for GradScaler, see fill_momentum
            fill_momentum(self.optimizer, self.net.weight)
        training = Training(
            self.data.steps, self.config.b, self.config.T, self.optimizer, self.scaler, self.config.amp, self.average,
            self.rates, self.skipped,
        )  # fmt: skip
        self.training = self.engine.training_steps(one_hot(self.data.dataset.train.labels, CLASSES).float(), training)
        self.training.warm_up()

    @property
    def tested_weight(self) -> Tensor:
        """The weights [10, 784] that are tested and saved: averaged with -ema, else those that learn."""
        return self.net.weight.detach() if self.average is None else self.average

    @property
    def chunk(self) -> int:
        """Steps after which a run can best be stopped."""
        return self.training.chunk

    def begin_epoch(self, epoch: int) -> None:
        steps = self.data.steps
        self.order = self.data.order(self.config.seed, epoch)
        key = SpikeKey(self.config.seed, Stream.TRAIN, epoch)
        self.training.begin(
            key, self.order, learning_rates(self.config, epoch, steps), ema_decays(self.config, epoch, steps)
        )

    def run(self, first: int, last: int) -> None:
        """Steps first .. last - 1 of the epoch; on a CUDA device without waiting for them."""
        self.training.run(first, last)

    @property
    def checks_early(self) -> bool:
        """Whether `is_finite` may be asked within an epoch: on a GPU it would wait for the device."""
        return self.rates.device.type == "cpu"

    def take_skipped(self) -> int:
        """The steps of the epoch that loss scaling left out; the count starts again."""
        skipped = int(self.skipped)
        self.skipped.zero_()
        return skipped

    def is_finite(self) -> bool:
        """Whether all weights are finite numbers; waits for the device."""
        return math.isfinite(self.net.weight.detach().sum().item())

    def loss_and_accuracy(self, step: int) -> tuple[float, float]:
        """Over the first `step` steps of the epoch, each batch with the weights it met."""
        done = step * self.config.b
        rates, labels = self.rates[:done], self.data.dataset.train.labels[self.order[:done]]
        return mean_squared_error(rates, labels), (rates.argmax(1) == labels).double().mean().item()


def new_optimizer(config: Config, backend: str, weight: Tensor) -> Any:
    """Adam or SGD: a record for compiled steps, elsewhere torch.optim's own."""
    if backend == "numba":
        from snn_mnist.network.compiled_steps import FusedAdam, FusedSGD

        if config.opt == "adam":
            return FusedAdam(weight, lr=config.lr)
        return FusedSGD(weight, lr=config.lr, momentum=config.momentum)
    if config.opt == "adam":
        return torch.optim.Adam([weight], lr=config.lr, fused=True, capturable=backend == "cupy")
    return torch.optim.SGD([weight], lr=config.lr, momentum=config.momentum, fused=True)


def fill_momentum(sgd: Any, weight: Tensor) -> None:
    """Momentum 0 where there is none yet: torch leaves it uninitialised when loss scaling skips the first step."""
    if sgd.state[weight].get("momentum_buffer") is None:
        sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
