"""Settings that several verbs share."""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from snn_mnist.errors import UsageError
from snn_mnist.settings.config import CHECKPOINT, Config, train_option
from snn_mnist.settings.options import Options, option
from snn_mnist.terminal import fit, fit_terminal

if TYPE_CHECKING:
    from snn_mnist.network.saved_network import SavedNetwork

SAVED = "the checkpoint's"
LAST = "last"


def out_dir_option() -> Any:
    return train_option("out_dir", help="where last finds the newest run")


def json_option() -> Any:
    return option(None, "Files", "write all results there; - is stdout", path="FILE")


def saved_option(name: str, shown: str = SAVED, **changes: Any) -> Any:
    """Return a setting of `train` that a checkpoint knows. None, the default, means: as in the checkpoint."""
    return train_option(name, default=None, shown=shown, **changes)


@dataclass(frozen=True, kw_only=True)
class SavedNetworkOptions(Options):
    """Settings of the verbs that read a network from a checkpoint. None means: as in the checkpoint."""

    resume: str = option(None, "Files", CHECKPOINT, path="PATH", required=True)
    out_dir: str = out_dir_option()
    T: int | None = saved_option("T")
    tau: float | None = saved_option("tau", f"{SAVED}, 2.0 for one that has none")
    seed: int | None = saved_option("seed", group="Network", help="seed of the spikes")
    data_dir: str = train_option("data_dir")


def given_data_dir(options: Any) -> str | None:
    """Return the user's directory of data sets, given as a flag or variable; None: that of the checkpoint's run."""
    return options.data_dir if "data_dir" in options.given or os.environ.get("SNN_MNIST_DATA") else None


def open_checkpoint(options: Any, device: str = "") -> "SavedNetwork":
    """Return the network that -resume names, with the given settings in place of its own; print what it is.

    Flags without effect on it, or on this type of device, are named.
    """
    from snn_mnist.network.saved_network import load_network

    changes = {name: getattr(options, name, None) for name in ("T", "tau", "seed", "dataset")}
    loaded = load_network(options.resume, data_dir=given_data_dir(options), **changes)
    config, notes = loaded.config, options.without_effect(loaded.config.idle(device))
    if loaded.trained_on not in ("", config.dataset):
        notes.append(f"the images are of {config.dataset}, the network was trained on {loaded.trained_on}")
    if not loaded.has_settings:
        assumed = f"using {config.tau:g}, {config.T} and {config.dataset}"
        notes.append(f"the checkpoint does not hold tau, T and the data set: {assumed}")
    print_notes(notes)
    if getattr(options, "json", None) != "-":
        about = f"epoch {loaded.epochs}, trained on {loaded.trained_on or config.dataset}"
        tau = f", tau {config.tau:g}" if config.neuron == "lif" else ""
        print(fit(f"{loaded.path} ({about}), T {config.T}{tau}, seed {config.seed}"))
    return loaded


def resolve_runs(options: Options) -> Options:
    """Return the same settings, with the path of the newest run of -out-dir in place of the word `last`.

    UsageError for a path that is none, while -out-dir holds a run of that name, and for a -resume without a checkpoint:
    before seconds of imports.
    """
    from snn_mnist.storage.directory import find, newest_run
    from snn_mnist.storage.seeds import is_group

    changes: dict[str, Any] = {}
    out_dir = getattr(options, "out_dir", "")
    for name in ("resume", "runs"):
        value = getattr(options, name, None)
        if value == LAST or (isinstance(value, tuple) and LAST in value):
            newest = str(newest_run(out_dir))
            changes[name] = newest if value == LAST else tuple(newest if each == LAST else each for each in value)
        elif name in options.given:
            for path in (value,) if isinstance(value, str) else value or ():
                inside = os.path.normpath(os.path.join(out_dir, path))
                if not os.path.exists(path) and os.path.isdir(inside):
                    raise UsageError(f"there is no {path} here; did you mean {inside}?")
    options = replace(options, **changes) if changes else options
    resumed = getattr(options, "resume", None)
    if resumed and not (type(options) is Config and is_group(resumed)):
        find(resumed)
    return options


def print_notes(notes: Iterable[str]) -> None:
    """Print each note as a line on stderr."""
    for note in notes:
        print(fit_terminal(f"snn_mnist: note: {note}", sys.stderr), file=sys.stderr)
