"""The position of a run, as training counts it and as a checkpoint holds it; read from a file without PyTorch."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from snn_mnist.errors import SNNError
from snn_mnist.storage.atomic_files import reason


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


class PlainValues(pickle.Unpickler):
    """Reads the plain values of a checkpoint. Its tensors become None: nothing that a file names is imported or run."""

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else lambda *_: None

    def persistent_load(self, pid: Any) -> None:
        return None


def read_plain(file: Path) -> dict[str, Any]:
    """Return a checkpoint with None for its tensors; SNNError where it is damaged, OSError where there is none."""
    with file.open("rb") as stream:
        try:
            archive = zipfile.ZipFile(stream)
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            state = dict(PlainValues(io.BytesIO(archive.read(name))).load())
            Position.of(state)
            return state
        except Exception as error:  # meaningless bytes can fail anywhere in the unpickler
            raise SNNError(f"{file} is damaged ({reason(error)})") from error
