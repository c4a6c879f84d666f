"""The position of a run, and its exact image as a checkpoint.

`snapshot` and `restore` are inverses: a run that is restored continues bit for bit as if it had never stopped. Spikes
and batch orders are functions of (seed, epoch, …), so no generator state is saved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from snn_mnist.storage.checkpoint import WEIGHT
from snn_mnist.training.learner import Learner
from snn_mnist.training.resume import Resumed, check_position, restore_optimizer


@dataclass
class Best:
    """The epoch that checkpoint_max.pth holds, chosen by validation accuracy, or without -val by test accuracy."""

    epoch: int = -1
    score: float = -math.inf
    test_acc: float = 0.0


@dataclass
class Position:
    """How far a run has come."""

    epoch: int = 0  # finished epochs
    step: int = 0  # steps done of the next one
    seconds: float = 0.0  # spent on those steps
    max_test_acc: float = 0.0
    best: Best = field(default_factory=Best)

    def take_test(self, row: Mapping[str, Any]) -> bool:
        """Notes the test in an epoch's row of metrics; whether the epoch is the best one so far."""
        test_acc = row.get("test_acc", 0.0)  # not there with -no-test
        self.max_test_acc = max(self.max_test_acc, test_acc)
        score = row.get("val_acc", test_acc)
        if score <= self.best.score:
            return False
        self.best = Best(row["epoch"], score, test_acc)
        return True


def snapshot(learner: Learner, position: Position) -> dict[str, Any]:
    """The content of a checkpoint: the finished epochs, and the steps done of the next."""
    config = learner.config
    state: dict[str, Any] = {
        "net": {WEIGHT: learner.tested_weight.cpu()},
        "optimizer": learner.optimizer.state_dict(),
        "epoch": position.epoch - 1,
        "max_test_acc": position.max_test_acc,
        "scaler": learner.scaler.state_dict(),
        "step": position.step,
        "best": vars(position.best),
        "config": config.to_mapping(),
    }
    if learner.conversion:
        state |= learner.conversion.checkpoint(learner.tested_weight.cpu(), learner.data)
    if learner.average is not None:
        state["raw"] = learner.net.weight.detach().cpu()
    if position.step:
        rates = learner.rates[: position.step * config.b].cpu().clone()  # not the storage of the whole epoch
        state["running"] = {"rates": rates, "seconds": position.seconds, "skipped": int(learner.skipped)}
    return state


def restore(resumed: Resumed, learner: Learner) -> Position:
    """Puts the state of a checkpoint into a learner; returns the position to go on from."""
    state, position = resumed.state, Position()
    if not state:
        learner.prepare()
        return position
    config = learner.config
    tested = state["ann"]["weight"] if learner.conversion else state["net"][WEIGHT]
    with torch.no_grad():
        learner.net.weight.copy_(state.get("raw", tested))
        if learner.average is not None:
            learner.average.copy_(tested)
    restore_optimizer(learner.optimizer, state, config)
    if state.get("scaler"):
        learner.scaler.load_state_dict(state["scaler"])
    if resumed.folder:  # a new directory has its own best epoch, whose weights lie in it
        position.best = Best(**state.get("best", {}))
    if resumed.folder or "config" not in state:  # the tutorial's checkpoints have no directory to go on in
        position.max_test_acc = float(state.get("max_test_acc", 0.0))
    position.epoch, position.step = state.get("epoch", -1) + 1, state.get("step", 0)
    if position.step:
        running = state["running"]
        check_position(config, state, learner.data.steps)
        learner.rates[: position.step * config.b] = running["rates"].to(learner.rates)
        position.seconds = float(running["seconds"])
        learner.skipped += running.get("skipped", 0)
    learner.prepare()
    return position
