"""The figures of a run: learning curves, receptive fields, confusion matrix, accuracy against T.

`train` writes them at the end of a run, `plot` draws them again from its files. matplotlib is imported when the first
one is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from snn_mnist.storage.atomic_files import write_file
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.visualizing import drawing
from snn_mnist.visualizing.drawing import BLUE, GREEN, GREY, VERMILLION, own_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from snn_mnist.network.scoring import Score

CONVERSION = "conversion.png"  # of the verb convert
OF_THE_ANN = "Curves of the ANN, which was trained and then converted"
CURVES, WEIGHTS, CONFUSION, AGAINST_T = "curves.png", "weights.png", "confusion.png", "accuracy_against_T.png"


# ---------------------------------------------------------------------------- for train and plot


def write_run_figures(
    folder: Path, weight: Tensor, test: Score | None, class_names: Sequence[str], notes: Sequence[str] = ()
) -> list[Path]:
    """The four figures of a finished run into its directory; returns their files. Without a test only the curves.

    weight [10, 784]; test: the test split at several readout steps up to T; the curves come from folder/metrics.csv.
    """
    curves = write(folder / CURVES, learning_curves({folder.name: read_metrics(folder / "metrics.csv")}, notes))
    return [curves, *(write_network_figures(folder, weight, test, class_names) if test else ())]


def write_network_figures(folder: Path, weight: Tensor, test: Score, class_names: Sequence[str]) -> list[Path]:
    """Receptive fields, confusion matrix and accuracy against T."""
    return [
        write(folder / WEIGHTS, receptive_fields(weight, class_names)),
        write(folder / CONFUSION, confusion_matrix(test.confusion(), class_names)),
        write(folder / AGAINST_T, accuracy_against_T(test.readout_steps, _accuracies(test))),
    ]


def _accuracies(test: Score) -> list[float]:
    return [test.accuracy(m) for m in range(len(test.readout_steps))]


# ---------------------------------------------------------------------------- files


def write(path: Path, figure: Figure, flag: str = "-out-dir") -> Path:
    """Writes the figure as a PNG; `flag` is the one that named the file."""
    buffer = io.BytesIO()
    with own_style():
        figure.savefig(buffer, format="png")
    write_file(path, buffer.getvalue(), flag)
    return path


# ---------------------------------------------------------------------------- the figures


@own_style()
def learning_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], notes: Sequence[str] = (), comparable: bool = True
) -> Figure:
    """Accuracy and loss against epochs; runs: name → rows of metrics.csv. Each of several runs has its colour.

    notes: lines below the title. comparable: whether the title may say which run is the best.
    """
    several = len(runs) > 1
    shown = _parts(runs)
    names = [_clipped(name) for name in runs] if several else []
    keys = [PARTS[part][2] for part in shown] if len(shown) > 1 or not several else []
    figure = drawing.own_figure((10.0, 4.9))
    left, right = figure.subplots(1, 2)
    every = max(1, max(len(rows) for rows in runs.values()) // 20)  # rows between two marks, the same for all runs
    lines = []
    for number, rows in enumerate(runs.values()):
        for part in shown:
            colour, style, _ = PARTS[part]
            marker = "o"
            if several:
                colour, marker = drawing.curve_mark(number)
            if len(shown) == 1:
                style = "-"
            for axes, unit, factor in ((left, "acc", 100), (right, "loss", 1)):
                points = [(row["epochs"], factor * row[f"{part}_{unit}"]) for row in rows if f"{part}_{unit}" in row]
                line = axes.plot(
                    *np.array(points).reshape(-1, 2).T, color=colour, linestyle=style, linewidth=2, marker=marker,
                    markevery=every,
                )[0]  # fmt: skip
        lines.append(line)
    if several:
        handles = lines + [_sample_line(PARTS[part][1]) for part in shown if keys]
    else:
        handles = left.lines
    unit = ", test images" if not keys and shown == ["test"] else ""
    drawing.style(left, "", "epochs", f"accuracy in %{unit}", int_x_ticks=True)
    drawing.style(right, "", "epochs", f"loss (MSE){unit}" if unit else "loss (mean squared error)", int_x_ticks=True)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    drawing.legend_below(figure, handles, [*names, *keys], scale=LEGEND)
    drawing.heading(figure, "\n".join([*([_curves_title(runs)] if comparable else []), *notes]))
    return figure


def _parts(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What is drawn of these runs: 'train', 'val', 'test'."""
    shown = [part for part in PARTS if any(f"{part}_acc" in row for rows in runs.values() for row in rows)]
    if len(runs) > 1:
        shown = [part for part in shown if part != "val"]  # more than two lines per run could not be distinguished
    if len(runs) > len(drawing.COLOURS) and "test" in shown:
        shown = ["test"]
    return shown


def without_curve(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The runs of which there is nothing to draw beside the others: of many runs only the tests are drawn."""
    columns = {f"{part}_acc" for part in _parts(runs)}
    return [name for name, rows in runs.items() if columns and not any(columns & row.keys() for row in rows)]


def _clipped(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[1 - LONGEST // 2 :]}"


LEGEND = 0.8  # size of its text to that of the figure
LONGEST = 64  # characters of a name in a legend
PARTS = {
    "train": (VERMILLION, "--", "training images"),
    "val": (GREEN, ":", "held-out images"),
    "test": (BLUE, "-", "test images"),
}


def _sample_line(style: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=GREY, linestyle=style, linewidth=2)  # type: ignore[arg-type]


def _curves_title(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    finals = {}  # name → epochs and test accuracy of the last test
    for name, rows in runs.items():
        tested = [row for row in rows if "test_acc" in row]
        if tested:
            finals[name] = (tested[-1]["epochs"], 100 * tested[-1]["test_acc"])
    if not finals:
        return "Not tested on the test images"
    best = max(finals, key=lambda name: finals[name][1])
    epochs, accuracy = finals[best]
    if len(runs) == 1:
        return f"{accuracy:.2f} % of the test images right after {epochs} epoch{'s' if epochs > 1 else ''}"
    return f"Highest at the end: {_clipped(best)}, {accuracy:.2f} % of the test images"


# Colours are computed for the pixels of the data, not for the many more pixels of the picture.
PIXELATED: dict[str, Any] = {"interpolation": "nearest", "interpolation_stage": "rgba"}


@own_style()
def receptive_fields(weight: Tensor, class_names: Sequence[str]) -> Figure:
    """weight [10, 784]: the weights of each neuron as an image, all on one colour scale symmetric about 0."""
    from matplotlib.patches import Rectangle

    images = weight.detach().cpu().float().numpy().reshape(2, 5, 28, 28)
    limit = float(np.quantile(np.abs(images), 0.995)) or 1.0  # a few extreme weights would make all others pale
    figure = drawing.own_figure((9.0, 4.4))
    axes = figure.add_subplot()
    # one axes with gaps (NaN) instead of ten axes: laid out and drawn three times as fast
    across, down = 28 + 2, 28 + 7
    mosaic = np.full((2 * down, 5 * across), np.nan, np.float32)
    for (row, column), name in zip(np.ndindex(2, 5), class_names, strict=True):
        top, left = row * down + 7, column * across
        mosaic[top : top + 28, left : left + 28] = images[row, column]
        axes.text(left + 13.5, top - 2, name, ha="center", fontsize=drawing.text_size(), in_layout=False)
        frame = Rectangle((left - 0.5, top - 0.5), 28, 28, fill=False, linewidth=0.8)
        frame.set_in_layout(False)
        axes.add_patch(frame)
    shown = axes.imshow(mosaic, cmap="RdBu_r", vmin=-limit, vmax=limit, **PIXELATED)
    axes.set_axis_off()
    drawing.add_colorbar(axes, shown, "weight", extend="both")
    drawing.heading(figure, "A pixel's spike excites the neuron where its weight is red, inhibits it where blue")
    return figure


@own_style()
def confusion_matrix(confusion: Tensor, class_names: Sequence[str]) -> Figure:
    """confusion [10, 10]: images by label (row) and prediction (column); colour: share of the label's images."""
    from matplotlib.colors import PowerNorm

    counts = confusion.cpu().numpy()
    shares = 100 * counts / counts.sum(1, keepdims=True).clip(min=1)
    figure = drawing.own_figure((8.6, 7.4))
    axes = figure.add_subplot()
    # errors are a few percent: a linear scale would show the diagonal only
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.4, vmin=0, vmax=100), **PIXELATED)
    size = drawing.text_size()
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 20 else "black"
            axes.text(
                column, row, f"{count}", ha="center", va="center", color=colour, fontsize=0.75 * size, in_layout=False
            )  # fmt: skip
    drawing.style(axes, confusion_title(counts, class_names), "prediction", "label")
    long = max(map(len, class_names)) > 2
    axes.set_xticks(range(len(class_names)), class_names, rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(range(len(class_names)), class_names)
    bar = drawing.add_colorbar(axes, image, "% of the label's images")
    bar.set_ticks([0, 1, 5, 20, 50, 100])
    return figure


def confusion_title(counts: np.ndarray, class_names: Sequence[str]) -> str:
    right = 100 * np.trace(counts) / max(counts.sum(), 1)
    wrong = counts - np.diag(np.diag(counts))
    if not wrong.any():
        return f"{right:.2f} % right"
    most = np.argwhere(wrong == wrong.max())
    if len(most) > 1:
        return f"{right:.2f} % right; most frequent errors: {len(most)} kinds ({wrong.max()}× each)"
    label, prediction = most[0]
    often = f"{class_names[label]} taken for {class_names[prediction]} ({wrong.max()}×)"
    return f"{right:.2f} % right; most frequent error: {often}"


@own_style()
def accuracy_against_T(readout_steps: Sequence[int], accuracies: Iterable[float]) -> Figure:
    """Accuracy (share of 1) when the rates are read after readout_steps[m] time steps."""
    percent = 100 * np.array(list(accuracies))
    figure = drawing.own_figure()
    axes = figure.add_subplot()
    axes.plot(readout_steps, percent, color=BLUE, linewidth=2, marker="o", markersize=6)
    _log_steps(axes, readout_steps[-1])
    early = min(range(len(readout_steps)), key=lambda m: abs(readout_steps[m] - readout_steps[-1] / 10))
    title = f"{_steps(readout_steps[-1])}: {percent[-1]:.2f} % right"
    if early < len(readout_steps) - 1:
        title = f"{_steps(readout_steps[early])}: {percent[early]:.1f} % right; "
        title += f"{readout_steps[-1]} steps: {percent[-1]:.1f} %"
    drawing.style(axes, title, "time steps T", "test accuracy in %")
    axes.grid(alpha=0.3)
    return figure


def _log_steps(axes: Any, last: int) -> None:
    """A logarithmic axis of time steps, 1, 2, 5, 10, … up to the last."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(
        FixedLocator([m * 10**e for e in range(len(str(last))) for m in (1, 2, 5) if m * 10**e <= last])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:g}")


@own_style()
def conversion(readout_steps: Sequence[int], networks: Mapping[str, Sequence[float]], ann: float) -> Figure:
    """Accuracy in % after readout_steps[m] time steps of one or more spiking networks, beside that of an ANN."""
    figure = drawing.own_figure()
    axes = figure.add_subplot()
    for number, (name, percent) in enumerate(networks.items()):
        colour = drawing.COLOURS[number]
        axes.plot(readout_steps, percent, color=colour, linewidth=2, marker="o", markersize=6, label=name)
    axes.axhline(ann, color=GREY, linestyle="--", linewidth=1.8, label=f"ANN: {ann:.2f} %")
    _log_steps(axes, readout_steps[-1])
    ends = ", ".join(f"{percent[-1]:.2f} % ({name})" for name, percent in networks.items())
    axes.set_ylim(bottom=ann - 12)  # the first steps would make the rest a line
    drawing.style(axes, f"{_steps(readout_steps[-1])}: {ends}", "time steps T", "test accuracy in %")
    axes.grid(alpha=0.3)
    drawing.legend_below(figure, *axes.get_legend_handles_labels())
    return figure


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
