"""Settings that several verbs share."""

import os
from typing import Any

from snn_mnist.runs.config import CHECKPOINT, Config
from snn_mnist.runs.fields import like, option, optional, options_of, path

SAVED = "the checkpoint's"


def checkpoint_option() -> Any:
    return option(None, path(), "Files", CHECKPOINT, required=True)


def saved_option(name: str, group: str, shown: str = SAVED, **changes: Any) -> Any:
    """A setting of `train` that a checkpoint knows. None, the default, means: as in the checkpoint."""
    kinds = {each.name: each.kind for each in options_of(Config)}
    return like(Config, name, group=group, default=lambda: None, kind=optional(kinds[name]), shown=shown, **changes)


def tau_option(group: str) -> Any:
    return saved_option("tau", group, f"{SAVED}, 2.0 for one that has none")


def seed_option(group: str) -> Any:
    return saved_option("seed", group, help="seed of the spikes")


def data_directory(options: Any, config: Config) -> str:
    """The user's, if given as a flag or variable, else that of the checkpoint's run."""
    given = "data_dir" in options.given or os.environ.get("SNN_MNIST_DATA")
    return options.data_dir if given else config.data_dir


def json_option() -> Any:
    return option(None, optional(path("FILE")), "Files", "write all results there; - is stdout")
