"""From settings and a checkpoint to an open run: its settings, its directory, and the state of its learner.

`snapshot` and `restore` are inverses: a run that is restored continues bit for bit as if it had never stopped. Spikes
and batch orders are functions of (seed, epoch, …), so no generator state is saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.network import own
from snn_mnist.network.ann import CALIBRATION, Conversion
from snn_mnist.network.engine import Runtime
from snn_mnist.settings.config import FIXED_ON_RESUME, Config, yaml_text
from snn_mnist.storage import atomic_files, checkpoint, environment
from snn_mnist.storage.checkpoint import LATEST, LEVELS, WEIGHT, Position, find_checkpoint
from snn_mnist.storage.metrics import METRICS, VALIDATION, MetricsFile, TensorBoard
from snn_mnist.storage.runs import run_name
from snn_mnist.training.learner import Learner


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
    path = find_checkpoint(config.resume) if config.resume else None
    state = checkpoint.load(path) if path else {}
    conversion = conversion and conversion.resumed(state, config.resume)
    if not path:
        return Resumed(config, state, conversion=conversion)
    if "config" not in state:
        return Resumed(_settings_of_another_program(config, state), state, None, f"{path} is of another program")
    saved = state["config"]
    config, edited = own.with_copies(config.on_top_of(saved, str(path)), state, path.parent)
    changed = ", ".join(edited + config.changes(Config.from_mapping(saved), FIXED_ON_RESUME))
    if changed and not config.force:
        remedy = "remove that flag, start a new run, or give -force"
        raise UsageError(f"can't resume {config.resume}: {changed} changes the result; {remedy}")
    if changed and state["step"]:
        begun = f"{config.resume} was saved within an epoch, after {state['step']} steps"
        raise SNNError(f"{begun}, which can't end with {changed}; finish that epoch with the old settings first")
    elsewhere = changed
    if "ann" in state and not conversion:  # the optimiser, and the steps of a begun epoch, are the ANN's
        state = {name: state[name] for name in ("net", "epoch", "config")}
        elsewhere = f"{path} was converted from an ANN, and continues as a spiking network"
    elif path.name != LATEST or not path.with_name("config.yaml").is_file():
        elsewhere = f"{path} is not the {LATEST} of a run directory"
    elif not changed and "out_dir" in config.flags and not _is_found_in(path.parent, Path(config.out_dir)):
        elsewhere = f"-out-dir {config.out_dir}"
    if elsewhere:  # the best epoch of a new directory is its own, whose weights lie in it
        state = {name: value for name, value in state.items() if name not in ("best", "max_test_acc")}
    if changes := config.changes(Config.from_mapping(saved), ("lr", "schedule", "epochs")):
        ends = f"; the cosine of the learning rate now ends after {config.epochs} epochs"
        print(f"changed on resume: {', '.join(changes)}{ends if config.schedule == 'cosine' else ''}")
    return Resumed(config, state, None if elsewhere else path.parent, elsewhere, conversion)


def _is_found_in(run: Path, out_dir: Path) -> bool:
    """Return whether `last` with this -out-dir finds the run, also where it is a link."""
    places = run.resolve(), run.parent.resolve() / run.name
    return out_dir.resolve() in [place for each in places for place in (each, *each.parents[:LEVELS])]


def _settings_of_another_program(config: Config, state: dict[str, Any]) -> Config:
    """Return the settings for a checkpoint without any: those of its optimiser, for the rest the user's."""
    print(
        f"{config.resume} does not record T, tau, b or the data set: using {config.T}, {config.tau}, {config.b}, "
        f"{config.dataset}; give the flags if it was trained with other values"
    )
    config = replace(config, votes=checkpoint.votes(state))
    groups = state.get("optimizer", {}).get("param_groups")
    if not groups:
        return config
    known = {name: groups[0][name] for name in ("lr", "momentum") if name in groups[0]}
    known["opt"] = "sgd" if "momentum" in known else "adam"
    return replace(config, **{name: value for name, value in known.items() if name not in config.given})


@dataclass(frozen=True)
class RunFiles:
    """The open files of a run, made by `open_files`."""

    folder: Path
    metrics: MetricsFile
    tensorboard: TensorBoard

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint, whole or not at all."""
        checkpoint.save(self.folder / name, state)


@contextmanager
def open_files(resumed: Resumed, runtime: Runtime, sources: Mapping[str, bytes]) -> Iterator[RunFiles]:
    """Open the resumed directory, else a new one; meanwhile no other process trains in it.

    sources: the user's files, by the names of their copies.
    """
    config, folder, conversion, epochs = resumed.config, resumed.folder, resumed.conversion, resumed.position.epochs
    if resumed.why_elsewhere:
        print(f"continuing {config.resume} in a new directory: {resumed.why_elsewhere}")
    if not folder:
        name = conversion.run_name(config) if conversion else run_name(config)
        folder = atomic_files.new_run_directory(config.out_dir, config.name or name)
    elif config.name:
        print(f"-name {config.name} is not used: the run continues in its own directory")
    with atomic_files.exclusive_lock(folder):
        if resumed.folder and Position.of(checkpoint.load(folder)) != resumed.position:
            raise SNNError(f"{folder} has meanwhile been trained by another process; resume it again")
        metrics = MetricsFile(folder / "metrics.csv", METRICS + (VALIDATION if config.val else ()), epochs)
        for file in folder.glob(f".*{atomic_files.TEMPORARY}"):  # of a process that was killed while it wrote
            file.unlink(missing_ok=True)
        verb = f"convert -mode {conversion.mode}" if conversion else "train"
        atomic_files.write_file(folder / "config.yaml", yaml_text(config.to_mapping(), verb))
        for name, source in sources.items():
            atomic_files.write_file(folder / name, source)
        environment.note_environment(folder / "environment.json", str(runtime), config.resume)
        with closing(TensorBoard(folder, epochs)) as tensorboard:
            tensorboard.begin(config)
            yield RunFiles(folder, metrics, tensorboard)


def snapshot(learner: Learner, position: Position) -> dict[str, Any]:
    """Return the content of a checkpoint: weights, optimiser, and the steps done of a begun epoch."""
    config, data = learner.config, learner.data
    state: dict[str, Any] = {
        "net": on_cpu(learner.tested),
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "config": config.to_mapping(),
        **position.entries(),
    }
    if learner.sources:
        state["code"] = {name: own.digest(source) for name, source in learner.sources.items()}
    if learner.conversion:
        images = data.dataset.train.images[data.learned[:CALIBRATION]]
        state |= learner.conversion.entries(state["net"][WEIGHT], images)
    if learner.average is not None:
        state["raw"] = on_cpu(learner.net.state_dict())
    if position.step:
        rates = learner.rates[: position.step * config.b].cpu().clone()  # not the storage of the whole epoch
        state["running"] = {"rates": rates, "seconds": position.seconds, "skipped": int(learner.skipped)}
    return state


def on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def restore(state: dict[str, Any], learner: Learner) -> Position:
    """Put the state of a checkpoint, {} for a new run, into a learner; return the position from which it continues."""
    position = Position.of(state)
    if state:
        tested = {WEIGHT: state["ann"]["weight"]} if "ann" in state else state["net"]
        learner.net.load_state_dict(state.get("raw", tested))
        for name, average in (learner.average or {}).items():
            average.copy_(tested[name])
        saved, now = state.get("optimizer", {}), learner.optimizer.state_dict()["param_groups"]
        if saved.get("state") and ("betas" in saved["param_groups"][0]) == ("betas" in now[0]):  # else of another kind
            learner.optimizer.load_state_dict({"state": saved["state"], "param_groups": now})
        if state.get("scaler"):
            learner.scaler.load_state_dict(state["scaler"])
    if position.step:
        rates = state["running"]["rates"]
        learner.rates[: len(rates)] = rates.to(learner.rates)
        learner.skipped += state["running"]["skipped"]
    learner.prepare()
    return position
