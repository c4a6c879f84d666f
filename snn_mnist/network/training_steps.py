"""Training steps: what those of all backends share, and the reference, as in any PyTorch program.

compiled_steps.py (numba) and fused_steps.py (cupy) have the same steps without autograd; all are called in one way:

    steps.warm_up()
    steps.begin(key, order, learning_rates)       # of an epoch
    steps.run(0, 937)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from snn_mnist.network.poisson import SpikeKey


class Loss(NamedTuple):
    """The loss of scores: squared error from the one-hot label, or cross-entropy of scale times the scores."""

    kind: str = "mse"  # or "ce"
    scale: float = 1.0

    def __call__(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over scores [N, C] with one-hot targets [N, C] of the same type."""
        return cross_entropy(self.scale * scores, targets) if self.kind == "ce" else mse_loss(scores, targets)


MSE = Loss()


@dataclass(frozen=True)
class Training:
    """What the training steps of a run are made of."""

    steps: int  # of an epoch
    batch: int
    T: int
    optimizer: Any
    scaler: torch.amp.GradScaler  # enabled or not
    amp: bool  # forward in half precision
    average: dict[str, Tensor] | None  # moving average of the state: decay average + (1 - decay) state at each step
    rates: Tensor  # [steps * batch, 10] receives the scores of each batch, with the weights before its step
    skipped: Tensor  # int64 [], counts the steps that the scaler skipped
    loss: Loss = MSE
    dropout: float = 0.0  # share of silent pixels


def seed_torch(key: SpikeKey, step: int) -> None:
    """Make the random numbers of PyTorch, as those of nn.Dropout, a function of (seed, stream, epoch, step)."""
    seed = int(np.random.SeedSequence([*key, step]).generate_state(1)[0])
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a millisecond where CUDA is not in use
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class TrainingSteps:
    """The training steps of an epoch."""

    chunk = 1  # the loop stops best at multiples of this many steps

    def warm_up(self) -> None:
        """Compile what the steps need; weights do not change. `begin` is called after it."""

    def begin(
        self, key: SpikeKey, order: Tensor, learning_rates: Sequence[float], decays: Sequence[float] | None = None
    ) -> None:
        """Begin epoch key.epoch with an order [>= steps * batch] of the images and, for each step, a learning rate and
        the decay of the moving average, if there is one."""
        self.key, self.order = key, order
        self.learning_rates = np.asarray(learning_rates, np.float64)
        self.new_weight_shares = 1 - np.asarray(decays or (), np.float64)

    def run(self, first: int, last: int) -> None:
        """Run steps first .. last - 1 of the epoch."""
        raise NotImplementedError


class AutogradSteps(TrainingSteps):
    """The training steps of an epoch on an engine whose `firing_rate` is differentiable.

    labels [N, C] float32: the targets of all images.
    """

    def __init__(self, engine: Any, labels: Tensor, training: Training) -> None:
        self.engine, self.labels, self.training = engine, labels, training
        self.one = torch.ones((), device=labels.device)
        self.autocast: Any = torch.autocast(labels.device.type, enabled=training.amp)

    def warm_up(self) -> None:
        """One image forward and back; not of a network of the user's own, whose batch normalisation it would change."""
        if self.engine.takes_all_steps:
            return
        with self.autocast:
            rate = self.engine.firing_rate(torch.tensor([0]), self.training.T, SpikeKey(0, 0, 0))
        torch.autograd.grad(rate.sum(), self.engine.net.weight)

    def run(self, first: int, last: int) -> None:
        training, optimizer, scaler = self.training, self.training.optimizer, self.training.scaler
        for step in range(first, last):
            part = slice(step * training.batch, (step + 1) * training.batch)
            index = self.order[part].to(self.labels.device)
            for group in optimizer.param_groups:
                group["lr"] = group.get("lr_factor", 1) * float(self.learning_rates[step])
            seed_torch(self.key, step)
            with self.autocast:
                rate = self.engine.firing_rate(index, training.T, self.key, training.dropout)
            loss = training.loss(rate, self.labels[index])
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scale = scaler.scale(self.one)
            scaler.update()
            if scaler.is_enabled():  # it lowers its scale where the gradients were not finite
                training.skipped.add_(scaler.scale(self.one) < scale)
            training.rates[part] = rate.detach()
            if training.average is not None:
                for name, tensor in self.engine.net.state_dict().items():
                    average = training.average[name]
                    new = float(self.new_weight_shares[step]) if tensor.is_floating_point() else 1.0
                    same = average == tensor  # an infinity too, of which lerp makes NaN
                    average.copy_(torch.where(same, tensor, average.lerp(tensor, new)) if new < 1 else tensor)
