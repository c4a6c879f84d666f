"""A run as a checkpoint.

`snapshot` and `restore` are inverses: a run that is restored continues bit for bit as if it had never stopped. Spikes
and batch orders are functions of (seed, epoch, …), so no generator state is saved.
"""

from __future__ import annotations

from typing import Any

import torch

from snn_mnist.storage.checkpoint import WEIGHT
from snn_mnist.storage.position import Position
from snn_mnist.training.learner import Learner
from snn_mnist.training.resume import Resumed, check_position, restore_optimizer


def snapshot(learner: Learner, position: Position) -> dict[str, Any]:
    """The content of a checkpoint: the finished epochs, and the steps done of the next."""
    config = learner.config
    state: dict[str, Any] = {
        "net": {WEIGHT: learner.tested_weight.cpu()},
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "config": config.to_mapping(),
        **position.entries(),
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
    state, position = resumed.state, resumed.position
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
    if position.step:
        running = state["running"]
        check_position(config, state, learner.data.steps)
        learner.rates[: position.step * config.b] = running["rates"].to(learner.rates)
        learner.skipped += running.get("skipped", 0)
    learner.prepare()
    return position
