"""Checkpoints: plain types and tensors, written whole or not at all, checked before they are believed.

Keys `net` (`layer.1.weight`), `optimizer`, `epoch` (index of the last finished epoch) and `max_test_acc` are the
tutorial's, so that its script and this program read each other's; `version`, `step`, `config`, `scaler`, `running`
and `ema` are ours.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_mnist.errors import SNNError

VERSION = 1
LATEST, BEST = "checkpoint_latest.pth", "checkpoint_max.pth"
WEIGHT, SHAPE = "layer.1.weight", (10, 784)
MAX_BYTES = 256 << 20


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes state to a temporary file beside `path`, syncs it and renames it: a reader sees the old or the new."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            torch.save({"version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except (OSError, RuntimeError) as fault:  # torch.save turns a failed write into a RuntimeError
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise SNNError(f"{path} can't be written ({_reason(fault)}); free space or choose another -out-dir") from fault


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_directory(folder: Path) -> None:
    """Makes a rename in this folder last."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(fault: BaseException) -> str:
    text = getattr(fault, "strerror", None) or str(fault) or type(fault).__name__
    return " ".join(text.split("\n")[0].split())


def find(place: str | os.PathLike[str]) -> Path:
    """The checkpoint file that `-resume` names: a file, or the latest one of a run directory."""
    path = Path(place)
    if path.is_dir():
        if not (path / LATEST).is_file():
            raise SNNError(f"no {LATEST} in {path}; name a checkpoint file or a run directory")
        return path / LATEST
    if not path.is_file():
        raise SNNError(f"there is no checkpoint {path}; name a checkpoint file or a run directory")
    return path


def load(place: str | os.PathLike[str]) -> dict[str, Any]:
    """The checked content of a checkpoint, ours or the tutorial's. SNNError names the file and what is wrong."""
    path = find(place)

    def damaged(what: str, remedy: str = "name another checkpoint") -> SNNError:
        return SNNError(f"{path} {what}; {remedy}")

    try:
        if path.stat().st_size > MAX_BYTES:
            raise damaged(f"has {path.stat().st_size} bytes, too many for a checkpoint of this network")
        if not zipfile.is_zipfile(path):
            raise damaged("is no checkpoint (not a torch.save archive, or cut short)")
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise damaged("unpacks to more than a checkpoint of this network holds")
            broken = archive.testzip()  # torch.load itself checks no checksums
        if broken:
            raise damaged(f"is damaged (checksum of {broken})")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SNNError:
        raise
    except OSError as fault:
        raise SNNError(f"{path} can't be read ({_reason(fault)}); check its permissions") from fault
    except Exception as fault:  # the unpickler of damaged or hostile files raises almost anything
        raise damaged(f"can't be loaded ({type(fault).__name__}: {_reason(fault)})") from fault
    return _checked(state, damaged)


def _checked(state: Any, damaged: Any) -> dict[str, Any]:
    if not isinstance(state, dict) or not isinstance(state.get("net"), dict):
        raise damaged("is no checkpoint of this program (it has no 'net')")
    version = state.get("version", VERSION)
    if not isinstance(version, int) or version < 1:
        raise damaged(f"has version {version!r}, which is none")
    if version > VERSION:
        raise damaged(f"has version {version}, newer than this program reads ({VERSION})", "update snn_mnist")
    weight = state["net"].get(WEIGHT)
    if not isinstance(weight, Tensor) or set(state["net"]) != {WEIGHT}:
        raise damaged(f"is of another network (its 'net' has {', '.join(map(str, state['net'])) or 'nothing'})")
    if tuple(weight.shape) != SHAPE or weight.is_sparse:
        raise damaged(f"has weights of shape {list(weight.shape)}, not {list(SHAPE)}")
    if not weight.is_floating_point():
        raise damaged(f"has weights of type {weight.dtype}, not floating point")
    if not torch.isfinite(weight).all():
        raise damaged("has weights that are not finite numbers")
    for key, low in (("epoch", -1), ("step", 0)):
        if key in state and (not isinstance(state[key], int) or isinstance(state[key], bool) or state[key] < low):
            raise damaged(f"has {key} {state[key]!r}, not a number from {low}")
    if not isinstance(state.get("max_test_acc", 0.0), int | float):
        raise damaged(f"has max_test_acc {state['max_test_acc']!r}, not a number")
    for key in ("optimizer", "config", "scaler", "running"):
        if key in state and not isinstance(state[key], dict):
            raise damaged(f"has a {key} that is no dictionary")
    _check_optimizer(state.get("optimizer", {}), damaged)
    ema = state.get("ema")
    if ema is not None and (not isinstance(ema, Tensor) or tuple(ema.shape) != SHAPE):
        raise damaged("has averaged weights of another shape")
    return state


def _check_optimizer(optimizer: dict[str, Any], damaged: Any) -> None:
    for slots in optimizer.get("state", {}).values() if isinstance(optimizer.get("state", {}), dict) else [None]:
        if not isinstance(slots, dict):
            raise damaged("has an optimizer state that is no dictionary")
        for name, value in slots.items():
            if isinstance(value, Tensor):
                if value.dim() and tuple(value.shape) != SHAPE:
                    raise damaged(f"has optimizer state {name} of shape {list(value.shape)}, not {list(SHAPE)}")
                if not torch.isfinite(value).all():
                    raise damaged(f"has optimizer state {name} that is not finite")
