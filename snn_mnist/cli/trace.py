"""Verb `trace`: one image through a checkpoint, every time step of it, as arrays and pictures.

    python -m snn_mnist trace -resume last -index 0

docs/how-it-works.md lists the files that it writes into a directory of its own.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_mnist.cli.shared import SavedNetworkOptions, open_checkpoint, saved_option
from snn_mnist.errors import UsageError
from snn_mnist.settings.options import option
from snn_mnist.storage.atomic_files import make_directory, write_file

if TYPE_CHECKING:
    from snn_mnist.data.datasets import Dataset
    from snn_mnist.network.network import SavedNetwork
    from snn_mnist.network.trace import Trace


@dataclass(frozen=True, kw_only=True)
class TraceOptions(SavedNetworkOptions):
    """Settings of `trace`."""

    index: tuple[int, ...] = option((0,), "Images", "which test images, counted from 0", low=0)
    misclassified: int = option(0, "Images", "instead, this many misclassified images, from the first on", low=0)
    out: str | None = option(
        None, "Files", "where arrays and pictures go", metavar="DIR", shown="trace_INDEX next to the checkpoint"
    )
    dataset: str | None = saved_option("dataset", help="what to show")


def run(options: TraceOptions) -> int:
    from snn_mnist.data.datasets import load_dataset

    if "index" in options.given and options.misclassified:
        raise UsageError("-index names images and -misclassified finds them; give one of the two")
    loaded = open_checkpoint(options)
    data = load_dataset(loaded.config.dataset, loaded.config.data_dir)
    folder, several = Path(options.out or loaded.path.parent), options.misclassified > 1 or len(options.index) > 1
    for trace in find_traces(options, loaded, data):
        print("\n" + describe(trace, data.class_names))
        own = folder / f"trace_{trace.index}" if several or not options.out else folder
        print(f"written to {save(trace, loaded, data.class_names, own)}")
    return 0


def find_traces(options: TraceOptions, loaded: SavedNetwork, data: Dataset) -> Iterator[Trace]:
    """Yield the traces of the images that -index names, or of the first ones that are misclassified."""
    from snn_mnist.network.trace import misclassified, trace_image

    if not options.misclassified:
        if (largest := max(options.index)) >= (count := len(data.test)):
            raise UsageError(f"-index {largest}: {data.name} has {count:,} test images; give numbers up to {count - 1}")
        yield from (trace_image(loaded.net, data, index, loaded.config) for index in dict.fromkeys(options.index))
        return
    found = 0
    for trace in itertools.islice(misclassified(loaded.net, data, loaded.config), options.misclassified):
        yield trace
        found += 1
    if found < options.misclassified:
        print(f"\nthe network misclassifies only {found} test images")


def describe(trace: Trace, class_names: Sequence[str]) -> str:
    """Return the firing rate of each class, and the prediction."""
    width = max(5, *map(len, class_names))
    lines = [f"test image {trace.index}, label {class_names[trace.label]}"]
    lines.append(f"{'class':>{width}}  firing rate" + (f", mean of {trace.votes} neurons" if trace.votes > 1 else ""))
    for number, (name, rate) in enumerate(zip(class_names, trace.rates, strict=True)):
        mark = "  <- prediction" if number == trace.prediction else ""
        lines.append(f"{name:>{width}}  {rate:.3f}  {'#' * round(30 * float(rate))}{mark}".rstrip())
    correct = "right" if trace.prediction == trace.label else f"wrong, it is {class_names[trace.label]}"
    prediction = f"prediction: {class_names[trace.prediction]} ({correct})"
    if not trace.s.any():
        prediction += "; no neuron fired, which counts as the first class"
    elif (trace.rates == trace.rates.max()).sum() > 1:
        prediction += "; several classes fired equally often, and the first of them counts"
    return "\n".join([*lines, prediction])


def save(trace: Trace, loaded: SavedNetwork, class_names: Sequence[str], wanted: Path) -> Path:
    """Write all files of a trace into the wanted directory; return it.

    A directory with the arrays of another trace is left alone: -2, -3, … is then appended to the name.
    """
    import numpy as np

    from snn_mnist.visualizing import run_figures as figures

    node = loaded.net.spiking
    arrays: dict[str, Any] = {"v_t_array": trace.v, "s_t_array": trace.s, "h_t_array": trace.h, "x_t_array": trace.x}
    arrays |= {"image": trace.image, "input_spikes": trace.input_spikes, "firing_rates": trace.rates}
    arrays |= {"index": trace.index, "label": trace.label, "verdict": trace.prediction}
    v, s, every = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(v, trace.v)
    np.save(s, trace.s)
    np.savez_compressed(every, **arrays, T=len(trace.s), seed=loaded.config.seed)
    folder, number = wanted, 1
    while (path := folder / "v_t_array.npy").is_file() and path.read_bytes() != v.getvalue():
        folder = wanted.with_name(f"{wanted.name}-{(number := number + 1)}")
    make_directory(folder, "-out")
    for name, buffer in {"v_t_array.npy": v, "s_t_array.npy": s, "trace.npz": every}.items():
        write_file(folder / name, buffer.getvalue(), "-out")
    levels: Any = [None if level is None else float(level) for level in (node.v_threshold, node.v_reset)]
    pictures = {
        "input.png": figures.shown_image(trace, class_names),
        "spikes.png": figures.raster(trace, class_names),
        "voltages.png": figures.voltages(trace, class_names, levels[0]),
        "winner.png": figures.winner(trace, class_names, *levels),
    }
    for name, picture in pictures.items():
        figures.write(folder / name, picture, "-out")
    return folder
