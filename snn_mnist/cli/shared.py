"""What several verbs share: settings, the checkpoint that they open, results as text and JSON."""

import json
import os
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from snn_mnist.errors import UsageError
from snn_mnist.settings.config import CHECKPOINT, Config, data_variable, train_option
from snn_mnist.settings.options import Options, option
from snn_mnist.storage.atomic_files import write_file
from snn_mnist.storage.checkpoint import find_checkpoint, newest_run
from snn_mnist.storage.metrics import mean_std
from snn_mnist.storage.runs import is_group
from snn_mnist.terminal import report, wrapped

if TYPE_CHECKING:
    from snn_mnist.network.network import SavedNetwork

SAVED = "the checkpoint's"


def saved_option(name: str, shown: str = SAVED, **changes: Any) -> Any:
    """Return a setting of `train` that a checkpoint knows. None, the default, means: as in the checkpoint."""
    return train_option(name, default=None, shown=shown, **changes)


def data_dir_option(**changes: Any) -> Any:
    return train_option("data_dir", default=data_variable, shown="$SNN_MNIST_DATA, else the checkpoint's", **changes)


@dataclass(frozen=True, kw_only=True)
class SavedNetworkOptions(Options):
    """Settings of the verbs that read a network from a checkpoint. None means: as in the checkpoint."""

    resume: str = option(None, "Files", CHECKPOINT, metavar="PATH", required=True)
    out_dir: str = train_option("out_dir", help="where last finds the newest run")
    T: int | None = saved_option("T")
    tau: float | None = saved_option("tau", f"{SAVED}, 2.0 for one that has none")
    net: str | None = saved_option(
        "net", help="file of its network", shown="the copy in the run directory of a checkpoint trained with -net"
    )
    seed: int | None = saved_option("seed", group="Network", help="seed of the spikes")
    data_dir: str | None = data_dir_option()


def json_option() -> Any:
    return option(None, "Files", "write all results there; - is stdout", metavar="FILE")


def open_checkpoint(options: Any) -> "SavedNetwork":
    """Return the network that -resume names, with the given settings in place of its own; print what it is."""
    from snn_mnist.network.network import load_network

    changes = {name: getattr(options, name, None) for name in ("T", "tau", "net", "seed", "dataset", "data_dir")}
    loaded = load_network(options.resume, **changes)
    config = loaded.config
    always = {} if config.encoding == "poisson" else {"repeats": f"encoding {config.encoding} is always the same"}
    notes = options.without_effect(config.unused | always)
    if loaded.trained_on not in ("", config.dataset):
        notes.append(f"the images are of {config.dataset}, the network was trained on {loaded.trained_on}")
    if not loaded.has_settings:
        assumed = f"using {config.tau:g}, {config.T} and {config.dataset}"
        notes.append(f"the checkpoint does not hold tau, T and the data set: {assumed}")
    for note in notes:
        report(f"note: {note}")
    if getattr(options, "json", None) != "-":
        about = f"epoch {loaded.epochs}, trained on {loaded.trained_on or config.dataset}"
        network = f", tau {config.tau:g}" if config.neuron == "lif" and not config.net else ""
        network += f", network {config.net}" if config.net else ""
        network += f", {config.votes} neurons per class" if config.votes > 1 else ""
        network += f", {config.encoding} encoding" if config.encoding != "poisson" else ""
        print(wrapped(f"{loaded.path} ({about}), T {config.T}{network}, seed {config.seed}"))
    return loaded


def resolve_runs(options: Any) -> Any:
    """Return the settings with the newest run for `last`; UsageError for a -resume or picture that is not there."""

    def resolved(path: str) -> str:
        return str(newest_run(options.out_dir)) if path == "last" else path

    if "runs" in options.given:
        options = replace(options, runs=tuple(map(resolved, options.runs)))
    if resume := getattr(options, "resume", None):
        options = replace(options, resume=resolved(resume))
        if not (isinstance(options, Config) and is_group(options.resume)):
            find_checkpoint(options.resume)
    if missing := [name for name in getattr(options, "images", ()) if name != "-" and not os.path.exists(name)]:
        raise UsageError(f"there is no {', '.join(missing)}; name picture files, directories of them, or - for stdin")
    return options


def spread(values: list[float]) -> dict[str, Any]:
    """Return mean, standard deviation (n - 1; 0 for a single value), median and range of repeated measurements."""
    mean, std = mean_std(values)
    middle = {"mean": mean, "std": std or 0.0, "median": statistics.median(values)}
    return middle | {"low": min(values), "high": max(values), "values": values}


def publish(where: str | None, results: dict[str, Any], text: str = "") -> None:
    """Print the text, and write the results to the file that -json names; where that is -, print them instead."""
    if text and where != "-":
        print(text, flush=True)
    if where:
        write_output(where, json.dumps(results, indent=2) + "\n", "-json")


def write_output(where: str, text: str, flag: str) -> None:
    """Write text to the file that a flag names, whole or not at all; - is standard output."""
    if where == "-":
        print(text, end="")
    else:
        write_file(where, text, flag)
