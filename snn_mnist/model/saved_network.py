"""A trained network, loaded from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_mnist.model.network import SNN
from snn_mnist.runs import checkpoint
from snn_mnist.runs.config import Config


@dataclass(frozen=True)
class SavedNetwork:
    """A checkpoint as a network, with the settings it was trained with."""

    path: Path
    config: Config
    net: SNN
    has_settings: bool  # False: a checkpoint of another program, to which the tutorial's settings are applied
    epoch: int


def load_network(path: str, **changes: Any) -> SavedNetwork:
    """The network of a checkpoint; `changes` that are not None replace its settings."""
    file = checkpoint.find(path)
    state = checkpoint.load(file)
    settings = dict(state.get("config", {})) | {name: value for name, value in changes.items() if value is not None}
    config = Config.from_mapping(settings, str(file))
    net = SNN.from_config(config)
    net.load_state_dict(state["net"])
    return SavedNetwork(file, config, net, "config" in state, state.get("epoch", -1))
