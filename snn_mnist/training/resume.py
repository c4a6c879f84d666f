"""Which settings a resumed run uses, and in which directory it continues."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import Config
from snn_mnist.settings.words import show
from snn_mnist.storage import checkpoint
from snn_mnist.storage.directory import LATEST, LEVELS
from snn_mnist.storage.position import Best, Position
from snn_mnist.training.conversion import DEFAULT_MODE, Conversion

HYPERPARAMETERS = ("betas", "eps", "weight_decay", "amsgrad", "maximize", "dampening", "nesterov")  # beyond our flags


@dataclass(frozen=True)
class Resumed:
    """A run before its first step, new or resumed."""

    config: Config
    state: dict[str, Any]  # the content of the resumed checkpoint; {} for a new run
    folder: Path | None = None  # the directory that it goes on in; None: a new one
    why_elsewhere: str = ""  # why a resumed run goes on in a new directory
    conversion: Conversion | None = None  # of a run that trains an ANN

    @property
    def position(self) -> Position:
        """Where the run goes on; a new directory has its own best epoch, whose weights lie in it."""
        saved = Position.of(self.state)
        best = saved.best if self.folder else Best()
        ours = self.folder or "config" not in self.state  # the tutorial's checkpoints have no directory to go on in
        return replace(saved, best=best, max_test_acc=float(saved.max_test_acc) if ours else 0.0)


def resume(config: Config, conversion: Conversion | None = None) -> Resumed:
    """The run that these settings describe; UsageError when its checkpoint can't go on with them."""
    if config.resume is None:
        return Resumed(config, {}, conversion=conversion and Conversion(conversion.mode or DEFAULT_MODE))
    path = checkpoint.find(config.resume)
    state = checkpoint.load(path)
    config = _resolve(config, state)
    if conversion:
        conversion = _resolve_conversion(conversion, path, state)
    folder, why_elsewhere = _directory_to_continue(config, path, state)
    if "ann" in state and not conversion:  # the optimiser, and the steps of a begun epoch, are the ANN's
        state = {name: state[name] for name in ("net", "epoch", "config")}
        folder, why_elsewhere = None, f"{path} was converted from an ANN, and learns on as a spiking network"
    return Resumed(config, state, folder, why_elsewhere, conversion)


def _resolve_conversion(conversion: Conversion, path: Path, state: dict[str, Any]) -> Conversion:
    if "ann" not in state:
        raise UsageError(f"{path} is not of a conversion; name one that `convert` wrote, or use train -resume")
    mode = state["ann"]["mode"]
    if conversion.mode not in (None, mode):
        raise UsageError(f"can't resume {path}: mode {mode} → {conversion.mode} changes the result; start a new run")
    return Conversion(mode)


def _resolve(config: Config, state: dict[str, Any]) -> Config:
    """The settings of a resumed run: its own, and over them what the user gave now."""
    if "config" in state:
        source = str(config.resume)
        resolved = config.on_top_of(state["config"], source)
        changed = resolved.changes_of_fixed_settings(state["config"])
        if changed and not config.force:
            raise UsageError(
                f"can't resume {source}: {', '.join(changed)} changes the result; "
                "remove that flag, start a new run, or give -force"
            )
        return resolved
    groups = state.get("optimizer", {}).get("param_groups") or [{}]
    known = {name: groups[0][name] for name in ("lr", "momentum") if name in groups[0] and name not in config.given}
    print(f"{config.resume} says nothing of T, tau, b or the data: using {config.T}, {config.tau}, {config.b}, "
          f"{config.dataset}; give the flags if it was trained otherwise")  # fmt: skip
    guessed = "sgd" if "momentum" in groups[0] else "adam"
    opt = config.opt if "opt" in config.given or not groups[0] else guessed
    return replace(config, opt=opt, **known)


def _directory_to_continue(config: Config, path: Path, state: dict[str, Any]) -> tuple[Path | None, str]:
    """The directory of the resumed run, when its latest checkpoint goes on with the same fixed settings in the same
    place; else None, for a new one with metrics and a best epoch of its own, and the reason."""
    reason = ""
    if path.name != LATEST or not (path.parent / "config.yaml").is_file():
        reason = f"{path} is not the {LATEST} of a run directory"
    elif changed := config.changes_of_fixed_settings(state.get("config", {})):
        reason = ", ".join(changed)
    elif _elsewhere(config, path.parent):
        reason = f"-out-dir {config.out_dir}"
    return (None, reason) if reason else (path.parent, "")


def _elsewhere(config: Config, folder: Path) -> bool:
    """Whether -out-dir, given on the command line and not by -config alone, is a place where `last` would not find the
    run."""
    if "out_dir" not in config.flags:
        return False
    runs = folder.resolve(), folder.parent.resolve() / folder.name  # the second where the run is a link
    return Path(config.out_dir).resolve() not in [place for run in runs for place in (run, *run.parents[:LEVELS])]


def restore_optimizer(optimizer: Any, state: dict[str, Any], config: Config) -> None:
    """The moments or momentum of a checkpoint, with the settings of this run's optimiser."""
    saved = state.get("optimizer")
    if not saved:
        return
    ours, theirs = optimizer.param_groups[0], saved["param_groups"][0]
    slots = saved["state"].get(0, {})
    of_another = bool(slots) and ("exp_avg" in slots) != ("betas" in ours)
    changed = [
        f"{name} {show(theirs[name])} → {show(ours[name])}"
        for name in HYPERPARAMETERS
        if name in ours and name in theirs and _plain(theirs[name]) != _plain(ours[name])
    ]
    if (of_another or changed) and not config.force:
        what = ", ".join(changed) or f"its optimiser was not {config.opt}"
        raise UsageError(f"can't resume {config.resume}: {what}; start a new run, or give -force")
    if of_another:
        print(f"{config.resume} has the state of another optimiser, which is not used")
        return
    optimizer.load_state_dict({"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]})


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def check_position(config: Config, state: dict[str, Any], steps: int) -> None:
    """Refuses a checkpoint from within an epoch when the rest of that epoch would have other settings or batches."""
    step, rates = state["step"], state["running"]["rates"]
    remedy = "finish that epoch with the old settings first"
    if changed := config.changes_of_fixed_settings(state.get("config", {})):
        raise SNNError(
            f"{config.resume} was saved within an epoch, after {step} steps, whose rest needs the same settings, not "
            f"{', '.join(changed)}; {remedy}"
        )
    if step > steps or len(rates) != step * config.b:
        raise SNNError(
            f"{config.resume} was saved within an epoch, after {step} steps with {len(rates)} images, which does not "
            f"fit {steps} steps of b {config.b}; {remedy}"
        )
