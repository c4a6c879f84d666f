"""The training steps of an epoch as in any PyTorch program: forward, loss, backward, optimiser. The reference.

compiled_steps.py (numba) and fused_steps.py (cupy) have the same steps without autograd; all are called in one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from snn_mnist.network.poisson import SpikeKey


class AutogradSteps:
    """The training steps of an epoch on an engine whose `firing_rate` is differentiable.

    labels [N, C] float32: the targets of all images; steps: of an epoch; amp: forward in half precision; average [C, P]
    or None: a moving average of the weight; rates [steps * batch, C] receives the rates of each batch, with the weights
    before its step; skipped, an int64 tensor [], counts the steps that the scaler skipped; chunk: a run is best stopped
    after a multiple of this many steps.
    """

    chunk = 1

    def __init__(
        self, engine: Any, labels: Tensor, *, steps: int, batch: int, T: int, optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler, amp: bool, average: Tensor | None, rates: Tensor, skipped: Tensor,
    ) -> None:  # fmt: skip
        self.engine, self.weight, self.labels = engine, engine.net.weight, labels
        self.batch, self.T = batch, T
        self.optimizer, self.scaler, self.average = optimizer, scaler, average
        self.rates, self.skipped = rates, skipped
        self.one = torch.ones((), device=labels.device)
        self.autocast: Any = torch.autocast(labels.device.type) if amp else nullcontext()

    def warm_up(self) -> None:
        """One image forward and back, so that nothing is compiled within the measured time."""
        with self.autocast:
            rate = self.engine.firing_rate(torch.tensor([0]), self.T, SpikeKey(0, 0, 0))
        torch.autograd.grad(rate.sum(), self.weight)

    def begin(
        self, key: SpikeKey, order: Tensor, learning_rates: Sequence[float], decays: Sequence[float] | None = None
    ) -> None:
        """What differs between epochs: its number key.epoch, the order [>= steps * batch] of the images, and for each
        step a learning rate and a decay of the moving average."""
        if self.average is not None and decays is None:
            raise ValueError("a moving average needs a decay for each step; give decays")
        self.key, self.learning_rates, self.decays = key, learning_rates, decays or ()
        self.order = order.to(self.labels.device)
        self.targets = self.labels[self.order]

    def run(self, first: int, last: int) -> None:
        """Steps first .. last - 1."""
        for step in range(first, last):
            self._step(step)

    def _step(self, step: int) -> None:
        part = slice(step * self.batch, (step + 1) * self.batch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rates[step]
        with self.autocast:
            rate = self.engine.firing_rate(self.order[part], self.T, self.key)
        loss = mse_loss(rate, self.targets[part])
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self._update_scaler()
        self.rates[part] = rate.detach()
        if self.average is not None:
            self.average.lerp_(self.weight.detach(), 1 - self.decays[step])

    def _update_scaler(self) -> None:
        """Counts the step as skipped if the scaler lowers its scale: the gradients were not finite."""
        before = self.scaler.scale(self.one)
        self.scaler.update()
        if self.scaler.is_enabled():
            self.skipped += self.scaler.scale(self.one) < before
