"""Settings that several verbs share."""

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from snn_mnist.errors import UsageError
from snn_mnist.settings.config import CHECKPOINT, Config
from snn_mnist.settings.fields import Options, like, option, optional, options_of, path
from snn_mnist.terminal import fit_terminal

SAVED = "the checkpoint's"
LAST = "last"


def checkpoint_option() -> Any:
    return option(None, path(), "Files", CHECKPOINT, required=True)


def out_dir_option() -> Any:
    return like(Config, "out_dir", help="where last finds the newest run")


def resolve_runs(options: Options) -> Options:
    """The same settings, with the path of the newest run of -out-dir in place of the word `last`.

    UsageError for a path that is none, while -out-dir holds a run of that name.
    """
    from snn_mnist.storage.directory import newest_run

    changes: dict[str, Any] = {}
    for name in ("resume", "runs"):
        value = getattr(options, name, None)
        if value == LAST or (isinstance(value, tuple) and LAST in value):
            newest = str(newest_run(getattr(options, "out_dir")))  # noqa: B009
            changes[name] = newest if value == LAST else tuple(newest if each == LAST else each for each in value)
        elif name in options.given:
            for path in (value,) if isinstance(value, str) else value or ():
                inside = os.path.normpath(os.path.join(getattr(options, "out_dir", ""), path))
                if not os.path.exists(path) and os.path.isdir(inside):
                    raise UsageError(f"there is no {path} here; did you mean {inside}?")
    return replace(options, **changes) if changes else options


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


def tell(notes: Iterable[str]) -> None:
    """Each note is a line on stderr."""
    for note in notes:
        print(fit_terminal(f"snn_mnist: note: {note}", sys.stderr), file=sys.stderr)


def tell_idle(options: Options, config: Config, device: str = "") -> None:
    """Names the flags that have no effect on a checkpoint with these settings, and on this type of device."""
    tell(options.without_effect(config.idle(device)))
