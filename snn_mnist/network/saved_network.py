"""The network of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_mnist.network.network import SNN
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint
from snn_mnist.storage.position import Position


@dataclass(frozen=True)
class SavedNetwork:
    """A network with trained weights, and the settings it was trained with."""

    path: Path
    config: Config
    net: SNN
    has_settings: bool  # False for a checkpoint of another program: then they are the tutorial's
    epochs: int  # finished
    trained_on: str = ""  # data set, "" where it is not known


def load_network(path: str, **changes: Any) -> SavedNetwork:
    """Return the network of a checkpoint; `changes` that are not None replace its settings."""
    file = checkpoint.find_checkpoint(path)
    state = checkpoint.load(file)
    saved, given = state.get("config", {}), {name: value for name, value in changes.items() if value is not None}
    config = Config.from_mapping(saved | given, str(file))
    net = SNN.from_config(config)
    net.load_state_dict(state["net"])
    return SavedNetwork(file, config, net, "config" in state, Position.of(state).epochs, saved.get("dataset", ""))
