"""From a checkpoint to the run that continues it: its settings, its directory, and the state of its learner.

`snapshot` and `restore` are inverses: a run that is restored continues bit for bit as if it had never stopped. Spikes
and batch orders are functions of (seed, epoch, …), so no generator state is saved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.network.ann import CALIBRATION
from snn_mnist.settings.config import Config, read_yaml
from snn_mnist.settings.options import show
from snn_mnist.storage import checkpoint
from snn_mnist.storage.checkpoint import WEIGHT
from snn_mnist.storage.directory import LATEST, LEVELS, find
from snn_mnist.storage.position import Position
from snn_mnist.training.conversion import Conversion
from snn_mnist.training.learner import Learner

HYPERPARAMETERS = ("betas", "eps", "weight_decay", "amsgrad", "maximize", "dampening", "nesterov")  # beyond our flags


@dataclass(frozen=True)
class Resumed:
    """A run before its first step, new or resumed."""

    config: Config
    state: dict[str, Any]  # the content of the resumed checkpoint; {} for a new run
    folder: Path | None = None  # where the run continues; None: in a new directory
    why_elsewhere: str = ""  # why a resumed run continues in a new directory
    conversion: Conversion | None = None  # of a run that trains an ANN

    @property
    def position(self) -> Position:
        return Position.of(self.state)


def resume(config: Config, conversion: Conversion | None = None) -> Resumed:
    """Return the run that these settings describe; UsageError when they can't continue its checkpoint."""
    if config.resume is None:
        return Resumed(config, {}, conversion=conversion and conversion.resolved({}, None))
    path = find(config.resume)
    state = checkpoint.load(path)
    conversion = conversion and conversion.resolved(state, config.resume)
    if "config" not in state:
        return Resumed(_settings_of_another_program(config, state), state, None, f"{path} is of another program")
    saved = state["config"]
    config = config.on_top_of(saved, config.resume)
    changed = ", ".join(config.changes_of_fixed_settings(saved))
    if changed and not config.force:
        raise UsageError(
            f"can't resume {config.resume}: {changed} changes the result; "
            "remove that flag, start a new run, or give -force"
        )
    if changed and state["step"]:
        raise SNNError(
            f"{config.resume} was saved within an epoch, after {state['step']} steps, whose rest needs the same "
            f"settings, not {changed}; finish that epoch with the old settings first"
        )
    elsewhere = changed
    if "ann" in state and not conversion:  # the optimiser, and the steps of a begun epoch, are the ANN's
        state = {name: state[name] for name in ("net", "epoch", "config")}
        elsewhere = f"{path} was converted from an ANN, and continues as a spiking network"
    elif path.name != LATEST or not path.with_name("config.yaml").is_file():
        elsewhere = f"{path} is not the {LATEST} of a run directory"
    elif not changed and _elsewhere(config, path.parent):
        elsewhere = f"-out-dir {config.out_dir}"
    if elsewhere:  # the best epoch of a new directory is its own, whose weights lie in it
        state = {name: value for name, value in state.items() if name not in ("best", "max_test_acc")}
    return Resumed(config, state, None if elsewhere else path.parent, elsewhere, conversion)


def _settings_of_another_program(config: Config, state: dict[str, Any]) -> Config:
    """Return the settings for a checkpoint without any: those of its optimiser, for the rest the user's."""
    groups = state.get("optimizer", {}).get("param_groups") or [{}]
    known = {name: groups[0][name] for name in ("lr", "momentum") if name in groups[0]}
    if groups[0]:
        known["opt"] = "sgd" if "momentum" in groups[0] else "adam"
    print(
        f"{config.resume} does not record T, tau, b or the data set: using {config.T}, {config.tau}, {config.b}, "
        f"{config.dataset}; give the flags if it was trained with other values"
    )
    return replace(config, **{name: value for name, value in known.items() if name not in config.given})


def _elsewhere(config: Config, folder: Path) -> bool:
    """Return whether -out-dir, given on the command line and not by -config alone, is a place where `last` would not
    find the run."""
    if "out_dir" not in config.given:
        return False
    if config.config and read_yaml(config.config).get("out_dir") == config.out_dir:
        return False
    runs = folder.resolve(), folder.parent.resolve() / folder.name  # the second where the run is a link
    return Path(config.out_dir).resolve() not in [place for run in runs for place in (run, *run.parents[:LEVELS])]


def snapshot(learner: Learner, position: Position) -> dict[str, Any]:
    """Return the content of a checkpoint: weights, optimiser, and the steps done of a begun epoch."""
    config, data = learner.config, learner.data
    state: dict[str, Any] = {
        "net": {WEIGHT: learner.tested_weight.cpu()},
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "config": config.to_mapping(),
        **position.entries(),
    }
    if learner.conversion:
        state |= learner.conversion.entries(
            learner.tested_weight.cpu(), data.dataset.train.images[data.learned[:CALIBRATION]]
        )
    if learner.average is not None:
        state["raw"] = learner.net.weight.detach().cpu()
    if position.step:
        rates = learner.rates[: position.step * config.b].cpu().clone()  # not the storage of the whole epoch
        state["running"] = {"rates": rates, "seconds": position.seconds, "skipped": int(learner.skipped)}
    return state


def restore(state: dict[str, Any], learner: Learner) -> Position:
    """Put the state of a checkpoint, {} for a new run, into a learner; return the position from which it continues."""
    position = Position.of(state)
    if state:
        tested = state["ann"]["weight"] if "ann" in state else state["net"][WEIGHT]
        with torch.no_grad():
            learner.net.weight.copy_(state.get("raw", tested))
            if learner.average is not None:
                learner.average.copy_(tested)
        _restore_optimizer(learner.optimizer, state.get("optimizer"), learner.config)
        if state.get("scaler"):
            learner.scaler.load_state_dict(state["scaler"])
    if position.step:
        rates = state["running"]["rates"]
        learner.rates[: len(rates)] = rates.to(learner.rates)
        learner.skipped += state["running"]["skipped"]
    learner.prepare()
    return position


def _restore_optimizer(optimizer: Any, saved: dict[str, Any] | None, config: Config) -> None:
    """Load the moments or momentum of a checkpoint; the settings stay those of this run."""
    if not saved:
        return
    ours, theirs = optimizer.param_groups[0], saved["param_groups"][0]
    another = bool(saved["state"]) and ("betas" in theirs) != ("betas" in ours)
    changed = [
        f"{name} {show(theirs[name])} → {show(ours[name])}"
        for name in HYPERPARAMETERS
        if name in ours and name in theirs and theirs[name] != ours[name]
    ]
    if (another or changed) and not config.force:
        what = ", ".join(changed) or f"its optimiser was not {config.opt}"
        raise UsageError(f"can't resume {config.resume}: {what}; start a new run, or give -force")
    if another:
        print(f"{config.resume} has the state of another optimiser, which is not used")
        return
    optimizer.load_state_dict({"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]})
