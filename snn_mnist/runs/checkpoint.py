"""Checkpoints: plain types and tensors, written whole or not at all, checked before they are believed.

Keys `net` (`layer.1.weight`), `optimizer`, `epoch` (index of the last finished epoch) and `max_test_acc` are the
tutorial's, so that its script and this program read each other's. Ours are `version`, `config`, `step` (steps done of
the next epoch), `running` (what those steps gave), `raw` (the weights behind averaged ones), `scaler` and `best`.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.runs import archive
from snn_mnist.runs.atomic_files import reason, write_file
from snn_mnist.runs.config import Config
from snn_mnist.runs.directory import BEST as BEST
from snn_mnist.runs.directory import LATEST as LATEST
from snn_mnist.runs.directory import find
from snn_mnist.runs.words import brief

VERSION = 1
WEIGHT, SHAPE = "layer.1.weight", (10, 784)
CLASSES = SHAPE[0]
COUNTS = 2**31  # epochs and steps stay below it

Damaged = Callable[..., SNNError]


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes state; a reader sees the old checkpoint or the new one, whatever happens meanwhile."""
    buffer = io.BytesIO()  # torch.save straight to a full disk raises a RuntimeError that says nothing of the disk
    torch.save({"version": VERSION, **state}, buffer)
    write_file(path, buffer.getvalue())


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The checked content of a checkpoint, ours or the tutorial's. SNNError names the file and what is wrong."""
    path = find(path)

    def damaged(what: str, remedy: str = "name another checkpoint") -> SNNError:
        return SNNError(f"{path} {what}; {remedy}")

    try:
        return _checked(archive.read(path), damaged)
    except OSError as error:
        raise SNNError(f"{path} can't be read ({reason(error)}); check its permissions") from error
    except archive.Unreadable as error:
        raise damaged(f"is damaged or no checkpoint ({reason(error)})") from error


def _checked(state: Any, damaged: Damaged) -> dict[str, Any]:
    """The state, when every part that training or evaluation looks at has its type, shape and range."""
    if not isinstance(state, dict) or not isinstance(state.get("net"), dict):
        raise damaged("is no checkpoint of this program (it has no 'net')")
    version = state.get("version", VERSION)
    if type(version) is not int or version < 1:
        raise damaged(f"has version {_shown(version)}, which is none")
    if version > VERSION:
        raise damaged(f"has version {_shown(version)}, newer than this program reads ({VERSION})", "update snn_mnist")
    if set(state["net"]) != {WEIGHT}:
        names = ", ".join(map(brief, list(state["net"])[:4])) or "nothing"
        raise damaged(f"is of another network (its 'net' has {names}, not {WEIGHT})")
    _check_tensor("weights", state["net"][WEIGHT], SHAPE, damaged)
    if "raw" in state:
        _check_tensor("weights (raw)", state["raw"], SHAPE, damaged)
    for key, low in (("epoch", -1), ("step", 0)):
        _check_number(key, state.get(key, 0), damaged, low, COUNTS, whole=True)
    _check_number("max_test_acc", state.get("max_test_acc", 0.0), damaged, 0, 1)
    for key in ("optimizer", "config", "scaler", "running", "best"):
        if not isinstance(state.get(key, {}), dict):
            raise damaged(f"has {key} that is no dictionary")
    _check_config(state.get("config", {}), damaged)
    _check_optimizer(state.get("optimizer", {}), damaged)
    scaler = state.get("scaler", {})
    if scaler:
        _check_keys("scaler", scaler, SCALER_STATE, damaged)
    for name, value in scaler.items():
        _check_number(f"scaler {_shown(name)}", value, damaged, 0, 1e300)
    if best := state.get("best"):
        _check_keys("best", best, {"epoch", "score", "test_acc"}, damaged)
        _check_number("best epoch", best["epoch"], damaged, -1, COUNTS, whole=True)
        _check_number("best score", best["score"], damaged, -math.inf, 1)
        _check_number("best test_acc", best["test_acc"], damaged, 0, 1)
    if state.get("step"):
        running = state.get("running", {})
        _check_keys("running", running, {"rates", "seconds"}, damaged, more=True)
        _check_tensor("running rates", running["rates"], (None, CLASSES), damaged)
        _check_number("running seconds", running["seconds"], damaged, 0, 1e12)
        _check_number("running skipped", running.get("skipped", 0), damaged, 0, COUNTS, whole=True)
    return state


def _shown(value: Any) -> str:
    """A plain value, or the type of another: a list may hold another twice, 60 levels deep, and print for ever."""
    return brief(value) if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


def _check_keys(name: str, found: dict[Any, Any], wanted: set[str], damaged: Damaged, more: bool = False) -> None:
    name = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    if missing := wanted - set(found):
        raise damaged(f"has {name} without {', '.join(sorted(missing))}")
    if not more and (extra := set(found) - wanted):
        raise damaged(f"has {name} with {_shown(sorted(map(str, extra))[0])}")


def _check_tensor(name: str, value: Any, shape: tuple[int | None, ...], damaged: Damaged) -> None:
    """A tensor of finite floating-point numbers; None in the shape is any size."""
    if type(value) is not Tensor:
        raise damaged(f"has {name} that are no tensor")
    sizes = list(value.shape)
    if len(sizes) != len(shape) or any(n is not None and n != size for n, size in zip(shape, sizes, strict=True)):
        raise damaged(f"has {name} of shape {sizes}, not {['any' if n is None else n for n in shape]}")
    if not value.is_floating_point():
        raise damaged(f"has {name} of type {value.dtype}, not floating point")
    if not torch.isfinite(value).all():
        raise damaged(f"has {name} that are not finite numbers")


def _check_number(name: str, value: Any, damaged: Damaged, low: float, high: float, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if type(value) not in kinds or not low <= value <= high:
        raise damaged(f"has {name} {_shown(value)}, not {'an integer' if whole else 'a number'} from {low} to {high}")


def _check_config(config: dict[Any, Any], damaged: Damaged) -> None:
    for name, value in config.items():
        if not isinstance(value, bool | int | float | str | None):
            raise damaged(f"has a setting {_shown(name)} that is neither text nor a number")
    try:
        Config.from_mapping(config)
    except UsageError as error:
        raise damaged(f"has impossible settings ({error})", "name another checkpoint, or update snn_mnist") from error


SCALER_STATE = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
OPTIMIZER_STATE = {"step", "exp_avg", "exp_avg_sq", "momentum_buffer"}


def _check_optimizer(optimizer: dict[str, Any], damaged: Damaged) -> None:
    """One group of plain settings, and for the one parameter tensors of its shape."""
    if not optimizer:
        return
    _check_keys("optimizer", optimizer, {"state", "param_groups"}, damaged)
    groups, state = optimizer["param_groups"], optimizer["state"]
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        raise damaged("has an optimizer of something else than one group of parameters")
    if not isinstance(state, dict) or any(key != 0 or not isinstance(slots, dict) for key, slots in state.items()):
        raise damaged("has an optimizer state that is not of one parameter")
    for name, value in groups[0].items():
        items = value if isinstance(value, list | tuple) else [value]
        if not all(item is None or isinstance(item, bool | int | float | str) for item in items):
            raise damaged(f"has an optimizer setting {_shown(name)} that is neither text nor a number")
    for name in {"lr", "momentum"} & set(groups[0]):
        _check_number(f"optimizer {name}", groups[0][name], damaged, 0, 1e300)
    slots = state.get(0, {})
    for name, value in slots.items():
        if name not in OPTIMIZER_STATE:
            raise damaged(f"has an optimizer state {_shown(name)}, unknown here")
        if name == "step" and not isinstance(value, Tensor):
            _check_number("optimizer step", value, damaged, 0, COUNTS)
        elif name == "step":
            _check_tensor("optimizer steps", value, (), damaged)
        elif value is not None or name != "momentum_buffer":
            _check_tensor(f"optimizer state {name}", value, SHAPE, damaged)
    if slots:
        sgd = "momentum_buffer" in slots
        _check_keys(
            "optimizer state", slots, {"momentum_buffer"} if sgd else {"step", "exp_avg", "exp_avg_sq"}, damaged
        )
