"""Verb `trace`: one image through a checkpoint, every time step of it, as arrays and pictures.

    python -m snn_mnist trace -resume last -index 0

Writes into a directory of its own:
    v_t_array.npy   [T, 10] float32  membrane potentials V[t], after the reset, as in the tutorial's file
    s_t_array.npy   [T, 10] float32  output spikes S[t], 0 or 1
    trace.npz       both, and: h_t_array [T, 10] potentials H[t] before the reset, x_t_array [T, 10] input
                    currents X[t], image [28, 28] uint8, input_spikes [28, 28] number of spikes of each pixel,
                    firing_rates [10], index, label, verdict (the prediction), T, seed
    input.png       the image beside the number of spikes of each pixel
    spikes.png      the raster of the ten neurons, with their firing rates
    voltages.png    V[t] of the ten neurons as colours
    winner.png      the potential of the predicted class's neuron; if it is wrong, the label's neuron too
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_mnist.cli.shared_options import (
    checkpoint_option,
    open_checkpoint,
    out_dir_option,
    saved_option,
    seed_option,
    tau_option,
)
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import Config, train_option
from snn_mnist.settings.options import Options, option
from snn_mnist.storage.atomic_files import make_directory, write_file

if TYPE_CHECKING:
    from snn_mnist.data.datasets import Dataset
    from snn_mnist.network.saved_network import SavedNetwork
    from snn_mnist.network.trace import Trace

V_FILE, S_FILE, ALL_FILE = "v_t_array.npy", "s_t_array.npy", "trace.npz"


@dataclass(frozen=True, kw_only=True)
class TraceOptions(Options):
    """Settings of `trace`. None means: as in the checkpoint."""

    resume: str = checkpoint_option()
    out_dir: str = out_dir_option()
    index: tuple[int, ...] = option((0,), "Images", "which test images, counted from 0", low=0)
    misclassified: int = option(0, "Images", "instead, this many misclassified images, from the first on", low=0)
    T: int | None = saved_option("T", "Images")
    tau: float | None = tau_option("Images")
    seed: int | None = seed_option("Images")
    out: str | None = option(
        None, "Files", "where arrays and pictures go", path="DIR", shown="trace_INDEX next to the checkpoint"
    )
    dataset: str | None = saved_option("dataset", "Data", help="what to show")
    data_dir: str = train_option("data_dir")


def run(options: TraceOptions) -> int:
    from snn_mnist.data.datasets import load_dataset

    if "index" in options.given and options.misclassified:
        raise UsageError("-index names images and -misclassified finds them; give one of the two")
    loaded = open_checkpoint(options)
    config = loaded.config
    data = load_dataset(config.dataset, config.data_dir)
    several = options.misclassified > 1 or len(options.index) > 1
    for trace in find_traces(options, loaded, data):
        print("\n" + describe(trace, data.class_names))
        folder = Path(options.out or loaded.path.parent)
        if several or not options.out:
            folder /= f"trace_{trace.index}"
        print(f"written to {save(trace, config, data.class_names, folder)}")
    return 0


def find_traces(options: TraceOptions, loaded: SavedNetwork, data: Dataset) -> Iterator[Trace]:
    """The traces of the images that -index names, or of the first ones that are misclassified."""
    from snn_mnist.network.trace import misclassified, trace_image

    count = len(data.test)
    if not options.misclassified:
        if (largest := max(options.index)) >= count:
            raise UsageError(f"-index {largest}: {data.name} has {count:,} test images; give numbers up to {count - 1}")
        yield from (trace_image(loaded.net, data, index, loaded.config) for index in dict.fromkeys(options.index))
        return
    found = 0
    for trace in itertools.islice(misclassified(loaded.net, data, loaded.config), options.misclassified):
        yield trace
        found += 1
    if not found:
        raise SNNError(f"the network classifies all {count:,} test images correctly; choose some with -index")
    if found < options.misclassified:
        print(f"\nthe network misclassifies only these {found} test images")


def describe(trace: Trace, class_names: Sequence[str]) -> str:
    """The firing rate of each class, and the prediction."""
    width = max(5, *map(len, class_names))
    lines = [f"test image {trace.index}, label {class_names[trace.label]}", f"{'class':>{width}}  firing rate"]
    for number, (name, rate) in enumerate(zip(class_names, trace.rates, strict=True)):
        mark = "  <- prediction" if number == trace.prediction else ""
        lines.append(f"{name:>{width}}  {rate:.3f}  {'#' * round(30 * float(rate))}{mark}".rstrip())
    correct = "right" if trace.prediction == trace.label else f"wrong, it is {class_names[trace.label]}"
    prediction = f"prediction: {class_names[trace.prediction]} ({correct})"
    if not trace.s.any():
        prediction += "; no neuron fired, which counts as the first class"
    elif trace.tied:
        prediction += "; several classes fired equally often, and the first of them counts"
    return "\n".join([*lines, prediction])


def save(trace: Trace, config: Config, class_names: Sequence[str], wanted: Path) -> Path:
    """Write all files of a trace into the wanted directory; returns it.

    A directory with the arrays of another trace is left alone: -2, -3, … is then appended to the name.
    """
    from snn_mnist.visualizing import run_figures, trace_figures

    arrays, folder, number = array_files(trace, config), wanted, 1
    while any((folder / n).is_file() and (folder / n).read_bytes() != arrays[n] for n in (V_FILE, S_FILE)):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    make_directory(folder, "-out")
    for name, content in arrays.items():
        write_file(folder / name, content, "-out")
    pictures = {
        "input.png": trace_figures.shown_image(trace, class_names),
        "spikes.png": trace_figures.raster(trace, class_names),
        "voltages.png": trace_figures.voltages(trace, class_names, config.v_threshold),
        "winner.png": trace_figures.winner(trace, class_names, config.v_threshold, config.v_reset),
    }
    for name, picture in pictures.items():
        run_figures.write(folder / name, picture, "-out")
    return folder


def array_files(trace: Trace, config: Config) -> dict[str, bytes]:
    """The contents of the array files, by name."""
    import numpy as np

    everything: dict[str, Any] = {
        "v_t_array": trace.v, "s_t_array": trace.s, "h_t_array": trace.h, "x_t_array": trace.x, "image": trace.image,
        "input_spikes": trace.input_spikes, "firing_rates": trace.rates, "index": trace.index, "label": trace.label,
        "verdict": trace.prediction, "T": len(trace.s), "seed": config.seed,
    }  # fmt: skip
    files = {name: io.BytesIO() for name in (V_FILE, S_FILE, ALL_FILE)}
    np.save(files[V_FILE], trace.v)
    np.save(files[S_FILE], trace.s)
    np.savez_compressed(files[ALL_FILE], **everything)
    return {name: file.getvalue() for name, file in files.items()}
