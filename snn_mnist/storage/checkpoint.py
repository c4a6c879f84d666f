"""Checkpoints: plain types and tensors, written whole or not at all, checked when they are read.

Keys `net` (`layer.1.weight`), `optimizer`, `epoch` (index of the last finished epoch) and `max_test_acc` are the
tutorial's, so that its script and this program read each other's checkpoints. Ours are `version`, `config`, `step`
(steps done in the next epoch), `running` (the results of those steps), `raw` (the trained weights, where `net` holds
their moving average), `scaler`, `best` and `ann` (what a converted network was made of: the ANN's `weight`, the `scale`
by which `net` is smaller, and the `mode` that chose it).
"""

from __future__ import annotations

import io
import math
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import Config
from snn_mnist.settings.words import brief
from snn_mnist.storage.atomic_files import reason, write_file
from snn_mnist.storage.directory import BEST as BEST
from snn_mnist.storage.directory import LATEST as LATEST
from snn_mnist.storage.directory import find

VERSION = 1
WEIGHT, SHAPE = "layer.1.weight", (10, 784)
CLASSES = SHAPE[0]
MAX_COUNT = 2**31  # of epochs and steps
MAX_BYTES = 256 << 20  # of the file and of all that it unpacks to
DIRECTORY = 0x10  # an attribute of a zip entry; torch.load takes uninitialised memory for the content of such an entry


class InvalidCheckpoint(Exception):
    """What is wrong with a checkpoint, worded to follow its path, and the remedy."""

    def __init__(self, what: str, remedy: str = "name another checkpoint") -> None:
        super().__init__(f"{what}; {remedy}")


def save(path: Path, state: dict[str, Any], flag: str = "-out-dir") -> None:
    """Writes a checkpoint; a reader sees the old one or the new one, even if the process dies meanwhile."""
    buffer = io.BytesIO()  # torch.save straight to a full disk raises a RuntimeError that does not mention the disk
    torch.save({"version": VERSION, **state}, buffer)
    write_file(path, buffer.getvalue(), flag)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The checked content of a checkpoint, ours or the tutorial's. SNNError names the file and what is wrong."""
    path = find(path)
    try:
        state = _read(path)
        _check(state)
    except OSError as error:
        raise SNNError(f"{path} can't be read ({reason(error)}); check its permissions") from error
    except InvalidCheckpoint as error:
        raise SNNError(f"{path} {error}") from error
    return state  # type: ignore[no-any-return]


def _read(path: Path) -> Any:
    """The value in a file of torch.save, its tensors on the CPU. Raises InvalidCheckpoint, OSError.

    torch.load(weights_only=True) executes nothing of the file, but it does not compare the checksums of the zip archive
    that the file is, and limits no sizes.
    """
    damaged = "is damaged or not a checkpoint"
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InvalidCheckpoint(f"{damaged} (it has {size:,} bytes)")
        with zipfile.ZipFile(path) as archive:
            if (size := sum(entry.file_size for entry in archive.infolist())) > MAX_BYTES:
                raise InvalidCheckpoint(f"{damaged} (it unpacks to {size:,} bytes)")
            if name := archive.testzip():
                raise InvalidCheckpoint(f"{damaged} (the checksum of {name!r:.80} is wrong)")
            if any(entry.external_attr & DIRECTORY for entry in archive.infolist()):
                raise InvalidCheckpoint(f"{damaged} (it has a directory among its entries)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols that torch.save does not use
            return torch.load(path, map_location="cpu", weights_only=True)
    except (InvalidCheckpoint, OSError):
        raise
    except pickle.UnpicklingError as error:
        raise InvalidCheckpoint(f"{damaged} (it holds more than plain values and tensors)") from error
    except Exception as error:  # meaningless bytes can fail anywhere in the unpickler
        raise InvalidCheckpoint(f"{damaged} ({type(error).__name__}: {reason(error)})") from error


# ---------------------------------------------------------------------------- checks


def _check(state: Any) -> None:
    """InvalidCheckpoint unless every part that training or evaluation uses has its type, shape and range."""
    if not isinstance(state, dict) or not isinstance(state.get("net"), dict):
        raise InvalidCheckpoint("is not a checkpoint of this program (it has no 'net')")
    version = state.get("version", VERSION)
    if type(version) is not int or version < 1:
        raise InvalidCheckpoint(f"has the invalid version {_shown(version)}")
    if version > VERSION:
        raise InvalidCheckpoint(
            f"has version {_shown(version)}, newer than this program reads ({VERSION})", "update snn_mnist"
        )
    if set(state["net"]) != {WEIGHT}:
        names = ", ".join(map(brief, list(state["net"])[:4])) or "nothing"
        raise InvalidCheckpoint(f"is of another network (its 'net' has {names}, not {WEIGHT})")
    _check_tensor("weights", state["net"][WEIGHT], SHAPE)
    if "raw" in state:
        _check_tensor("weights (raw)", state["raw"], SHAPE)
    for key, low in (("epoch", -1), ("step", 0)):
        _check_number(key, state.get(key, 0), low, MAX_COUNT, whole=True)
    _check_number("max_test_acc", state.get("max_test_acc", 0.0), 0, 1)
    for key in ("optimizer", "config", "scaler", "running", "best", "ann"):
        if not isinstance(state.get(key, {}), dict):
            raise InvalidCheckpoint(f"has a value of {key} that is not a dictionary")
    _check_config(state.get("config", {}))
    _check_optimizer(state.get("optimizer", {}))
    if scaler := state.get("scaler", {}):
        _check_keys("scaler", scaler, SCALER_STATE)
        for name, value in scaler.items():
            _check_number(f"scaler {name}", value, 0, 1e300)
    if best := state.get("best"):
        _check_keys("best", best, {"epochs", "score", "test_acc"})
        _check_number("best epochs", best["epochs"], 0, MAX_COUNT, whole=True)
        _check_number("best score", best["score"], -math.inf, 1)
        _check_number("best test_acc", best["test_acc"], 0, 1)
    if "ann" in state:
        ann = state["ann"]
        _check_keys("ann", ann, {"weight", "scale", "mode"})
        _check_tensor("weights (ann)", ann["weight"], SHAPE)
        _check_number("ann scale", ann["scale"], 0, 1e300)
        if not isinstance(ann["mode"], str | float):
            raise InvalidCheckpoint(f"has an ann mode {_shown(ann['mode'])} that is neither text nor a number")
    if state.get("step"):
        running = state.get("running", {})
        _check_keys("running", running, {"rates", "seconds"}, more=True)
        _check_tensor("running rates", running["rates"], (None, CLASSES))
        _check_number("running seconds", running["seconds"], 0, 1e12)
        _check_number("running skipped", running.get("skipped", 0), 0, MAX_COUNT, whole=True)


def _shown(value: Any) -> str:
    """A plain value, or the type of another: printing nested lists of a damaged file could take for ever."""
    return brief(value) if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


def _check_keys(name: str, found: dict[Any, Any], wanted: set[str], more: bool = False) -> None:
    """All wanted keys are there, and unless `more` no others."""
    name = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    if missing := wanted - set(found):
        raise InvalidCheckpoint(f"has {name} without {', '.join(sorted(missing))}")
    if not more and (extra := set(found) - wanted):
        raise InvalidCheckpoint(f"has {name} with the unknown {_shown(sorted(map(str, extra))[0])}")


def _check_tensor(name: str, value: Any, shape: tuple[int | None, ...]) -> None:
    """A tensor of finite floating-point numbers; None in the shape is any size."""
    if type(value) is not Tensor:
        raise InvalidCheckpoint(f"has {name} that are not a tensor")
    sizes = list(value.shape)
    if len(sizes) != len(shape) or any(n is not None and n != size for n, size in zip(shape, sizes, strict=True)):
        raise InvalidCheckpoint(f"has {name} of shape {sizes}, not {['any' if n is None else n for n in shape]}")
    if not value.is_floating_point():
        raise InvalidCheckpoint(f"has {name} of type {value.dtype}, not floating point")
    if not torch.isfinite(value).all():
        raise InvalidCheckpoint(f"has {name} that are not finite numbers")


def _check_number(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if type(value) not in kinds or not low <= value <= high:
        kind = "an integer" if whole else "a number"
        raise InvalidCheckpoint(f"has {name} {_shown(value)}, not {kind} from {low} to {high}")


def _check_config(config: dict[Any, Any]) -> None:
    for name, value in config.items():
        if not isinstance(value, bool | int | float | str | None):
            raise InvalidCheckpoint(f"has a setting {_shown(name)} that is neither text nor a number")
    try:
        Config.from_mapping(config)
    except UsageError as error:
        remedy = "name another checkpoint, or update snn_mnist"
        raise InvalidCheckpoint(f"has invalid settings ({error})", remedy) from error


SCALER_STATE = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
ADAM_STATE, SGD_STATE = {"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"}


def _check_optimizer(optimizer: dict[str, Any]) -> None:
    """One group of plain settings, and for the one parameter tensors of its shape."""
    if not optimizer:
        return
    _check_keys("optimizer", optimizer, {"state", "param_groups"})
    groups, state = optimizer["param_groups"], optimizer["state"]
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        raise InvalidCheckpoint("has an optimizer of something else than one group of parameters")
    if not isinstance(state, dict) or any(key != 0 or not isinstance(slots, dict) for key, slots in state.items()):
        raise InvalidCheckpoint("has an optimizer state that is not of one parameter")
    for name, value in groups[0].items():
        items = value if isinstance(value, list | tuple) else [value]
        if not all(item is None or isinstance(item, bool | int | float | str) for item in items):
            raise InvalidCheckpoint(f"has an optimizer setting {_shown(name)} that is neither text nor a number")
    for name in {"lr", "momentum"} & set(groups[0]):
        _check_number(f"optimizer {name}", groups[0][name], 0, 1e300)
    slots = state.get(0, {})
    if slots:
        _check_keys("optimizer state", slots, SGD_STATE if "momentum_buffer" in slots else ADAM_STATE)
    for name, value in slots.items():
        if name == "step" and not isinstance(value, Tensor):
            _check_number("optimizer step", value, 0, MAX_COUNT)
        elif name == "step":
            _check_tensor("optimizer steps", value, ())
        elif value is not None or name != "momentum_buffer":
            _check_tensor(f"optimizer state {name}", value, SHAPE)
