"""The figures of a run: learning curves, receptive fields, confusion matrix, accuracy against T; and of one image.

`train` writes those of a run at its end, `plot` draws them again from its files; `trace` draws an image's. matplotlib
is imported when the first one is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from snn_mnist.kernels.spikes import latency_step
from snn_mnist.storage.atomic_files import write_file
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.visualizing import drawing, plot_1d_spikes, plot_2d_heatmap
from snn_mnist.visualizing.drawing import BLUE, COLOURS, GREEN, GREY, VERMILLION, own_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from snn_mnist.network.scoring import Score
    from snn_mnist.network.trace import Trace

Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # name -> rows of metrics.csv
OF_THE_ANN = "Curves of the ANN, which was trained and then converted"
CURVES = "curves.png"
LOSSES = {"mse": "mean squared error", "ce": "cross-entropy"}
LONGEST = 112  # characters of a name in a legend
SHOWN = 60  # time steps of a voltage trace that can be distinguished in a figure
TRACE = (8.6, 5.0)  # inches, of the figures of an image
ROWS = 12  # neurons of one class in a figure of an image, if a class has several
PARTS = {
    "train": (VERMILLION, "--", "training images"),
    "val": (GREEN, ":", "held-out images"),
    "test": (BLUE, "-", "test images"),
}
# Colours are computed for the pixels of the data, not for the many more pixels of the picture.
PIXELATED: dict[str, Any] = {"interpolation": "nearest", "interpolation_stage": "rgba"}


def write_run_figures(
    folder: Path, weight: Tensor | None, test: Score | None, class_names: Sequence[str], **curves: Any
) -> list[Path]:
    """Write the four figures of a finished run into its directory; return their files. Without a test only the curves.

    weight [10 votes, 784], None for a network of the user's own; test: the test split at several readout steps up to T;
    the curves come from folder/metrics.csv, `curves` are further arguments of learning_curves.
    """
    figure = learning_curves({folder.name: read_metrics(folder / "metrics.csv")}, **curves)
    return [write(folder / CURVES, figure), *(write_network_figures(folder, weight, test, class_names) if test else ())]


def write_network_figures(folder: Path, weight: Tensor | None, test: Score, class_names: Sequence[str]) -> list[Path]:
    """Write receptive fields, confusion matrix and accuracy against T."""
    accuracies = {"": [100 * test.accuracy(m) for m in range(len(test.readout_steps))]}
    fields = [] if weight is None else [write(folder / "weights.png", receptive_fields(weight, class_names))]
    return [
        *fields,
        write(folder / "confusion.png", confusion_matrix(test.confusion(), class_names)),
        write(folder / "accuracy_against_T.png", accuracy_against_T(test.readout_steps, accuracies)),
    ]


def write(path: Path, figure: Figure, flag: str = "-out-dir") -> Path:
    """Write the figure as a PNG; `flag` is the one that named the file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    with own_style():
        FigureCanvasAgg(figure).print_png(buffer)  # draws once; savefig draws twice, the first time without pixels
    write_file(path, buffer.getvalue(), flag)
    return path


@own_style()
def learning_curves(
    runs: Runs, notes: Sequence[str] = (), comparable: bool = True, losses: Collection[str] = ("mse",)
) -> Figure:
    """Draw accuracy and loss against epochs; runs: name → rows of metrics.csv. Each of several runs has its colour.

    notes: lines below the title. comparable: whether the title may say which run is the best. losses: of the runs.
    """
    several, parts = len(runs) > 1, _parts(runs)
    figure = drawing.own_figure((10.0, 4.9))
    panels = figure.subplots(1, 2)
    every = max(1, max(map(len, runs.values())) // 20)  # rows between two marks, of which the last row has one
    for number, (run, rows) in enumerate(runs.items()):
        name = run if len(run) <= LONGEST else f"{run[: LONGEST // 2]}…{run[1 - LONGEST // 2 :]}"
        for part in parts:
            colour, line, images = PARTS[part]
            look = {"color": colour, "linestyle": line, "marker": "o", "label": images}
            if several:
                marker = "osD^vP"[number // len(COLOURS) % 6]
                look = {"color": COLOURS[number % len(COLOURS)], "linestyle": "-", "marker": marker, "label": name}
            for axes, unit, factor in zip(panels, ("acc", "loss"), (100, 1), strict=True):
                key = f"{part}_{unit}"
                points = np.array([(row["epochs"], factor * row[key]) for row in rows if key in row])
                axes.plot(*points.reshape(-1, 2).T, markevery=((len(points) - 1) % every, every), **look)
    of = f", {PARTS[parts[0]][2]}" if several and parts else ""
    loss = " or ".join(LOSSES[each] for each in LOSSES if each in losses)
    for axes, label in zip(panels, (f"accuracy in %{of}", f"{loss}{of}"), strict=True):
        drawing.style(axes, "", "epochs", label, int_x_ticks=True)
        axes.grid()
    drawing.legend_below(figure, *panels[0].get_legend_handles_labels())
    drawing.heading(figure, "\n".join([*([_curves_title(runs)] if comparable else []), *notes]))
    return figure


def _parts(runs: Runs) -> list[str]:
    """Return what is drawn of these runs, 'train', 'val', 'test': of several runs one of them, preferably the test."""
    parts = [part for part in PARTS if any(f"{part}_acc" in row for rows in runs.values() for row in rows)]
    return parts[-1:] if len(runs) > 1 else parts


def without_curve(runs: Runs) -> list[str]:
    """Return the runs of which there is nothing to draw beside the others."""
    parts = _parts(runs)
    return [name for name, rows in runs.items() if not any(f"{part}_acc" in row for part in parts for row in rows)]


def _curves_title(runs: Runs) -> str:
    """Return a sentence about the last test of the run that ends highest."""
    tested = {name: [row for row in rows if "test_acc" in row][-1:] for name, rows in runs.items()}
    finals = {name: (rows[0]["test_acc"], rows[0]["epochs"]) for name, rows in tested.items() if rows}
    if not finals:
        return "Not tested on the test images"
    best = max(finals, key=lambda name: finals[name])
    accuracy, epochs = finals[best]
    if len(runs) == 1:
        return f"{accuracy:.2%} of the test images right after {epochs} epoch{'s' if epochs > 1 else ''}"
    return f"Highest at the end: {best[:LONGEST]}, {accuracy:.2%} of the test images"


@own_style()
def receptive_fields(weight: Tensor, class_names: Sequence[str]) -> Figure:
    """Draw weight [10 votes, 784]: each neuron's as an image, with votes a row per class, on one scale about 0."""
    from matplotlib import colormaps

    fields, limit = drawing.fields_and_limit(weight)
    votes = len(fields) // len(class_names)
    # One axes with gaps instead of one for each: laid out and drawn three times as fast.
    if votes == 1:
        above = np.full((len(fields), 7, 28), np.nan)  # room for the name
        tiles, size = drawing.mosaic(np.concatenate([above, fields], 1), 2, 5, 2), (9.0, 4.4)
        title = "A pixel's spike excites the neuron where its weight is red, inhibits it where blue"
    else:
        tiles = drawing.rows_of_classes(fields)
        size = (2.2 + 9.5 * tiles.shape[1] / len(tiles), 10.0)
        title = f"{votes} neurons per class: a pixel excites a neuron where red, inhibits it where blue"
    figure = drawing.own_figure(size)
    axes = figure.add_subplot()
    colours = colormaps["RdBu_r"].with_extremes(bad="lightgrey")
    shown = axes.imshow(tiles, cmap=colours, vmin=-limit, vmax=limit, **PIXELATED)
    drawing.add_colorbar(axes, shown, "weight", extend="both", aspect=20 if votes == 1 else 50)
    for number, name in enumerate(class_names):
        if votes == 1:
            axes.text(number % 5 * 30 + 13.5, number // 5 * 37 + 5, name, ha="center", in_layout=False)
        else:
            axes.text(-0.01 * len(tiles), (number + 0.5) * len(tiles) / 10, name, ha="right", va="center")
    axes.set_axis_off()
    drawing.heading(figure, title)
    return figure


@own_style()
def confusion_matrix(confusion: Tensor, class_names: Sequence[str]) -> Figure:
    """Draw confusion [10, 10]: images by label (row) and prediction (column); colour: share of the label's images."""
    from matplotlib.colors import PowerNorm

    counts = confusion.cpu().numpy()
    shares = 100 * counts / counts.sum(1, keepdims=True).clip(min=1)
    figure = drawing.own_figure((8.6, 7.4))
    axes = figure.add_subplot()
    # Errors are a few percent: a linear scale would show the diagonal only.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.4, vmin=0, vmax=100), **PIXELATED)
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 20 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, in_layout=False)
    title = f"{np.trace(counts) / max(counts.sum(), 1):.2%} right"
    wrong = counts - np.diag(np.diag(counts))
    most = np.argwhere((wrong == wrong.max()) & (wrong > 0))
    if len(most) == 1:
        label, prediction = (class_names[index] for index in most[0])
        title += f"; most frequent error: {label} taken for {prediction} ({wrong.max()}×)"
    drawing.style(axes, title, "prediction", "label")
    long = max(map(len, class_names)) > 2
    axes.set_xticks(range(len(class_names)), class_names, rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(range(len(class_names)), class_names)
    drawing.add_colorbar(axes, image, "% of the label's images", ticks=[0, 1, 5, 20, 50, 100])
    return figure


@own_style()
def accuracy_against_T(
    readout_steps: Sequence[int], curves: Mapping[str, Sequence[float]], ann: float | None = None
) -> Figure:
    """Draw the accuracy in % after readout_steps[m] time steps of one network, or of several beside that of an ANN."""
    last = readout_steps[-1]
    ends = [f"{percent[-1]:.2f}% {'right' if ann is None else f'({name})'}" for name, percent in curves.items()]
    ticks = [m * 10**e for e in range(len(str(last))) for m in (1, 2, 5) if 1.3 * m * 10**e < last]
    ticks += [last]  # nearer to it their labels would overlap
    figure = drawing.own_figure()
    axes = figure.add_subplot()
    for name, percent in curves.items():
        axes.plot(readout_steps, percent, marker="o", label=name)
    axes.set_xscale("log")
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    drawing.style(axes, f"T = {last}: {', '.join(ends)}", "time steps T", "test accuracy in %")
    axes.grid()
    if ann is not None:
        axes.axhline(ann, color=GREY, linestyle="--", label=f"ANN: {ann:.2f}%")
        if min(map(min, curves.values())) < ann - 12:  # the first steps would make the rest a line
            axes.set_ylim(bottom=ann - 12)
            axes.set_xlabel(f"time steps T (accuracies below {ann - 12:.0f}% are not drawn)")
        drawing.legend_below(figure, *axes.get_legend_handles_labels())
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, (low + high - 1) / 2), max(high, (low + high + 1) / 2))  # the noise of a few images is small
    return figure


# ---------------------------------------------------------------------------- a traced image


@own_style()
def shown_image(trace: Trace, class_names: Sequence[str]) -> Figure:
    """Draw the image beside the network's input: the number of spikes of each pixel, its value, or its spike's step."""
    steps, label = len(trace.s), class_names[trace.label]
    at = np.ma.array(latency_step(trace.image.astype(int), steps), mask=trace.image == 0)
    values, most, scale = {
        "poisson": (trace.input_spikes, steps, f"spikes in {steps} time steps"),
        "constant": (trace.image / 255, 1, "input at each step"),
        "latency": (at, steps - 1, "time step of the pixel's spike"),
    }[trace.encoding]
    spikes = "a constant current" if trace.encoding == "constant" else f"{trace.input_spikes.sum():,} input spikes"
    figure = drawing.own_figure((8.4, 4.2))
    left, right = figure.subplots(1, 2)
    image = left.imshow(trace.image, cmap="gray", vmin=0, vmax=255)
    given = right.imshow(values, vmin=0, vmax=most)
    for axes, shown, title in ((left, image, "pixel value"), (right, given, scale)):
        axes.set(xticks=[], yticks=[])
        drawing.add_colorbar(axes, shown, title, shrink=0.8)
    drawing.heading(figure, f"Test image {trace.index}, label {label}: {spikes} in {steps} steps")
    return figure


@own_style()
def raster(trace: Trace, class_names: Sequence[str]) -> Figure:
    """Draw when each output neuron fired, and how often; the prediction in another colour. See Trace.shown."""
    name, label, shown = class_names[trace.prediction], class_names[trace.label], trace.shown(ROWS)
    who, verb = (f"Neuron {name} fires", "is") if trace.votes == 1 else (f"The neurons of {name} fire", "are")
    outcome = f"and {verb} right" if trace.prediction == trace.label else f"but the label is {label}"
    title = f"{who} most, in {100 * trace.rates[trace.prediction]:.0f} % of the steps, {outcome}"
    title = title if trace.s.any() else f"No neuron fires; the label is {label}"
    if trace.votes > ROWS:
        title += f"\nShown: {ROWS} of {trace.votes} neurons per class, the most spikes on top"
    figure = plot_1d_spikes(trace.s[:, shown], title, "time step $t$", "output neuron", figsize=TRACE)
    axes, beside = figure.axes
    axes.set_yticks(range(len(shown)), _neuron_names(trace, shown, class_names))
    for row, neuron in enumerate(shown):
        for part in (axes.collections[row], beside.patches[row]):
            part.set_color(VERMILLION if neuron // trace.votes == trace.prediction else BLUE)
    return figure


def _neuron_names(trace: Trace, neurons: Sequence[int], class_names: Sequence[str]) -> list[str]:
    """Return names of neurons: of their class, with their number within it if it has several."""
    return [class_names[n // trace.votes] + (f" #{n % trace.votes}" if trace.votes > 1 else "") for n in neurons]


@own_style()
def voltages(trace: Trace, class_names: Sequence[str], v_threshold: float) -> Figure:
    """Draw V[t] of all ten neurons as colours. See Trace.shown for several per class."""
    shown = trace.shown(ROWS)
    title = "Membrane potentials after each step: a spike resets its neuron's potential"
    bar = f"V[t] after the reset (threshold {v_threshold:g})"
    labels = title, "time step $t$", "output neuron"
    figure = plot_2d_heatmap(trace.v[:, shown], *labels, colorbar_y_label=bar, figsize=TRACE)
    axes = figure.axes[0]
    axes.images[0].set_clim(vmax=v_threshold)
    axes.set_yticks(range(len(shown)), _neuron_names(trace, shown, class_names))
    return figure


@own_style()
def winner(trace: Trace, class_names: Sequence[str], v_threshold: float, v_reset: float | None) -> Figure:
    """Draw the potential of the predicted class's neuron, and below it that of the label's neuron if it is another.

    Of several neurons per class, typical ones of prediction and rival (see Trace).
    """
    other = trace.label if trace.votes == 1 else trace.rival
    roles = {trace.rival: "next class", trace.label: "label", trace.prediction: "prediction"}
    numbers = [trace.typical(number) for number in dict.fromkeys([trace.prediction, other])]
    figure = drawing.own_figure((TRACE[0], 2.0 + 2.4 * len(numbers)))
    total = len(trace.s)
    steps = min(total, SHOWN)
    label = "time step $t$" + ("" if steps == total else f" (the first {steps} of {total})")
    for axes, number in zip(figure.subplots(len(numbers), sharex=True, squeeze=False).flat, numbers, strict=True):
        drawing.draw_potential(axes, trace.h[:steps, number], trace.v[:steps, number], trace.s[:steps, number] == 1)
        drawing.mark_levels(axes, v_threshold, v_reset)
        of, within = divmod(number, trace.votes)
        role = ("" if trace.votes == 1 else "typical of the ") + roles[of]
        name = f"Neuron {class_names[of]}" if trace.votes == 1 else f"Class {class_names[of]}, neuron {within}"
        title = f"{name} ({role}): {int(trace.s[:, number].sum())} spikes in {total} steps"
        title += f"; mean of its class {total * trace.rates[of]:.1f}" if trace.votes > 1 else ""
        drawing.style(axes, title, label if number == numbers[-1] else "", "membrane potential", int_x_ticks=True)
    return figure
