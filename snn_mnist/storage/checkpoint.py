"""Checkpoints, found in run directories: plain types and tensors, written whole, checked when they are read.

Keys `net` (`layer.1.weight`), `optimizer`, `epoch` (index of the last finished epoch) and `max_test_acc` are the
tutorial's, so that its script and this program read each other's checkpoints. Ours are `version`, `config`, `step`
(steps done in the next epoch), `running` (the results of those steps), `raw` (the state that is trained, where `net`
holds its moving average), `code` (the SHA-256 of the user's files, see network/own.py), `scaler`, `best` and `ann`
(what a converted network was made of: the ANN's `weight`, the `scale` by which `net` is smaller, and the `mode` that
chose it).

PyTorch is imported only where tensors are saved or loaded: `load_plain` reads position and settings without it.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError, UsageError, reason
from snn_mnist.settings.config import Config
from snn_mnist.storage.atomic_files import write_file

LATEST, BEST = "checkpoint_latest.pth", "checkpoint_max.pth"
LEVELS = 2  # that runs lie below -out-dir at most, as those of -seeds do
VERSION = 1
WEIGHT, CLASSES, PIXELS = "layer.1.weight", 10, 784
DIRECTORY = 0x10  # an attribute of a zip entry; torch.load takes uninitialised memory for the content of such an entry


@dataclass
class Best:
    """The epoch that checkpoint_max.pth holds, chosen by validation accuracy, or without -val by test accuracy."""

    epochs: int = 0  # that were finished with it; 0: none yet
    score: float = -math.inf
    test_acc: float = 0.0


@dataclass
class Position:
    """The progress of a run."""

    epochs: int = 0  # finished; also the index of the next one, from which its spikes and batch order follow
    step: int = 0  # steps done of the next epoch
    seconds: float = 0.0  # spent on those steps
    max_test_acc: float = 0.0
    best: Best = field(default_factory=Best)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Position:
        """Return the position in a checkpoint, whose `epoch` is the index of the last finished one."""
        seconds = state.get("running", {}).get("seconds", 0.0)
        best = Best(**state.get("best", {}))
        return cls(state.get("epoch", -1) + 1, state.get("step", 0), seconds, state.get("max_test_acc", 0.0), best)

    def entries(self) -> dict[str, Any]:
        """Return the entries of a checkpoint for this position, without the seconds."""
        best = asdict(self.best)
        return {"epoch": self.epochs - 1, "step": self.step, "max_test_acc": self.max_test_acc, "best": best}

    def take_test(self, row: Mapping[str, Any]) -> bool:
        """Note the test in an epoch's row of metrics; return whether the epoch is the best one so far."""
        test_acc = row.get("test_acc", 0.0)  # not there with -no-test
        self.max_test_acc = max(self.max_test_acc, test_acc)
        score = row.get("val_acc", test_acc)
        if score <= self.best.score:
            return False
        self.best = Best(row["epochs"], score, test_acc)
        return True


def save(path: Path, state: dict[str, Any], flag: str = "-out-dir") -> None:
    """Write a checkpoint; a reader sees the old one or the new one, even if the process dies meanwhile."""
    import torch

    buffer = io.BytesIO()  # torch.save straight to a full disk raises a RuntimeError that does not mention the disk
    torch.save({"version": VERSION, **state}, buffer)
    write_file(path, buffer.getvalue(), flag)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the checked content of a checkpoint, ours or the tutorial's; SNNError names the file and what is wrong.

    torch.load(weights_only=True) executes nothing of the file, but does not compare the checksums of the zip archive
    that the file is.
    """
    import torch

    path = find_checkpoint(path)
    with _reading(path):
        with zipfile.ZipFile(path) as archive:
            if name := archive.testzip():
                raise ValueError(f"the checksum of {name!r:.80} is wrong")
            if any(entry.external_attr & DIRECTORY for entry in archive.infolist()):
                raise ValueError("it has a directory among its entries")
        state = dict(torch.load(path, map_location="cpu", weights_only=True))
        _check(state)
        return state


def load_plain(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a checkpoint with None for its tensors; errors are those of `load`."""
    path = find_checkpoint(path)
    with _reading(path), zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        state = dict(_PlainValues(io.BytesIO(archive.read(name))).load())
        Position.of(state)
        return state


class _PlainValues(pickle.Unpickler):
    """Reads the plain values of a checkpoint. Its tensors become None: nothing that a file names is imported or run."""

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else lambda *_: None

    def persistent_load(self, pid: Any) -> None:
        return None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SNNError(f"{path} can't be read ({reason(error)}); check its permissions") from error
    except Exception as error:  # meaningless bytes can fail anywhere in the unpickler, and meaningless values in _check
        told = isinstance(error, ValueError | SNNError | zipfile.BadZipFile)
        what = reason(error) if told else f"{type(error).__name__}: {reason(error)}"
        if isinstance(error, pickle.UnpicklingError):
            what = "it holds more than plain values and tensors"
        raise SNNError(f"{path} is damaged or not a checkpoint ({what}); name another checkpoint") from error


def votes(state: dict[str, Any]) -> int:
    """Return the neurons per class of the weights in a checkpoint."""
    return max(1, len(state["net"][WEIGHT]) // CLASSES)


def _check(state: dict[str, Any]) -> None:
    """Raise an exception unless what training and evaluation use is there, with its shape and range."""
    if (version := state.get("version", VERSION)) > VERSION:
        raise ValueError(f"version {version} is newer than this program reads, {VERSION}: update snn_mnist")
    position, config = Position.of(state), Config.from_mapping(state.get("config", {}))
    if config.net is None and set(state["net"]) != {WEIGHT}:
        raise ValueError(f"its network has {', '.join(map(str, state['net']))[:80] or 'nothing'}, not {WEIGHT}")
    if not (0 <= position.epochs < 2**31 and 0 <= position.step < 2**31 and 0 <= position.max_test_acc <= 1):
        raise ValueError(f"its position is {position}")
    dict(state.get("code", {}))
    slots = state.get("optimizer", {}).get("state", {}).get(0, {})
    tensors = {f"{part} {name}": tensor for part in ("net", "raw") for name, tensor in state.get(part, {}).items()}
    shapes: dict[str, Any] = dict.fromkeys(tensors)
    if config.net is None:
        tensors |= {"ann": state["ann"]["weight"]} if "ann" in state else {}
        tensors |= {name: slot for name, slot in slots.items() if name != "step" and slot is not None}
        shapes = dict.fromkeys(tensors, (CLASSES * (config.votes if "config" in state else votes(state)), PIXELS))
    if position.step:
        tensors["running"], shapes["running"] = state["running"]["rates"], (position.step * config.b, CLASSES)
    for name, tensor in tensors.items():
        if shapes[name] not in (None, tuple(tensor.shape)):
            raise ValueError(f"{name} has the shape {list(tensor.shape)}, not {list(shapes[name])}")
        if shapes[name] and not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise ValueError(f"{name} is not of finite floating-point numbers")


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Return the checkpoint file that `-resume` names: a file, or the latest one of a run directory."""
    file = Path(path, LATEST) if os.path.isdir(path) else Path(path)
    if not os.path.isfile(file):
        raise UsageError(f"there is no checkpoint {file}; name a checkpoint file or a run directory")
    return file


def run_directories(folder: Path, levels: int = LEVELS) -> list[Path]:
    """Return the folder if it is a run's, else those of the runs in it and in the directories in it, by name.

    Directories that can't be read, such as lost+found, are passed over.
    """
    if os.path.isfile(folder / "metrics.csv") or os.path.isfile(folder / LATEST):
        return [folder]
    found = []
    with suppress(OSError):
        for child in sorted(folder.iterdir()) if levels else ():
            found += run_directories(child, levels - 1)
    return found


def newest_run(out_dir: str) -> Path:
    """Return the run in a directory whose latest checkpoint was written last; UsageError where there is none."""
    runs = [run for run in run_directories(Path(out_dir)) if os.path.isfile(run / LATEST)]
    if not runs:
        raise UsageError(f"there is no run in {out_dir}; train one, or give the -out-dir of the runs")
    return max(runs, key=lambda run: ((run / LATEST).stat().st_mtime_ns, run))
