"""Parts of figures: colours, text sizes, legends, rasters."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
GREY = "#777777"
SIZE, DPI = (8.0, 5.0), 150


# ---------------------------------------------------------------------------- layout


def own_figure(figsize: tuple[float, float] = SIZE, dpi: int = DPI, legend: float = 0) -> Figure:
    """A figure without pyplot: it needs no display, and no global state refers to it.

    legend: inches at the bottom besides, for a legend below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(figsize[0], figsize[1] + legend), dpi=dpi, layout="constrained")
    figure.legend_inches = legend
    FigureCanvasAgg(figure)
    return figure


def text_size(figure: Figure) -> float:
    """Points: 13 for 8 × 5 inches, and in proportion."""
    width, height = figure.get_size_inches()
    return _points(width, height - getattr(figure, "legend_inches", 0))


def _points(width: float, height: float) -> float:
    return max(7.0, 1.65 * min(width, 1.6 * height))


def style(
    axes: Axes, title: str, xlabel: str, ylabel: str, int_x_ticks: bool = False, int_y_ticks: bool = False
) -> None:
    """Title, labels and text sizes, set on the axes themselves: ticks are made later, when rcParams may differ."""
    figure: Any = axes.figure
    size = text_size(figure)
    if title:
        spec = axes.get_subplotspec()
        columns = spec.get_gridspec().ncols if spec else 1
        text = wrapped(title, figure.get_size_inches()[0] / columns, 1.08 * size)
        axes.set_title(text, fontsize=1.08 * size, loc="left", pad=0.6 * size)
    axes.set_xlabel(xlabel, fontsize=size)
    axes.set_ylabel(ylabel, fontsize=size)
    axes.tick_params(labelsize=0.9 * size)
    for side in ("top", "right"):
        if side in axes.spines:
            axes.spines[side].set_visible(False)
    if int_x_ticks:
        whole_ticks(axes.xaxis)
    if int_y_ticks:
        whole_ticks(axes.yaxis)


def heading(figure: Figure, text: str) -> None:
    """A title over all axes of the figure, flush left."""
    size = 1.08 * text_size(figure)
    text = "\n".join(wrapped(line, figure.get_size_inches()[0], size) for line in text.split("\n"))
    figure.suptitle(text, fontsize=size, x=0.01, horizontalalignment="left")


def wrapped(text: str, width: float, size: float) -> str:
    """A title broken into lines that fit `width` inches less the axis labels at its left."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    longest = len(text)
    while longest > 20:
        lines = textwrap.wrap(text, longest, break_long_words=False)
        widest = max(text_to_path.get_text_width_height_descent(line, font, False)[0] for line in lines)
        if widest <= 0.86 * width * 72:
            return "\n".join(lines)
        longest = min(longest - 1, int(longest * 0.95 * width * 72 / widest))
    return textwrap.fill(text, 20, break_long_words=False)


def legend_below(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int | None = None, scale: float = 0.9
) -> None:
    """A legend under the axes, where it covers nothing; scale: its text to that of the figure."""
    size, width = text_size(figure), figure.get_size_inches()[0]
    rows = _legend_rows(labels, width, scale * size)
    columns = columns or -(-len(labels) // rows)  # rows of equal length
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize=scale * size,
        frameon=False,
    )


def _legend_rows(labels: Sequence[str], width: float, size: float) -> int:
    widest = (max(map(len, labels)) * 0.6 + 4) * size / 72  # inches, about
    return -(-len(labels) // max(1, int(width / widest)))


def legend_height(labels: Sequence[str], figsize: tuple[float, float], scale: float = 0.9) -> float:
    """The inches that `legend_below` takes below axes of this size."""
    size = scale * _points(*figsize)
    return _legend_rows(labels, figsize[0], size) * 1.6 * size / 72


def add_colorbar(axes: Any, image: Any, label: str, **options: Any) -> Any:
    """axes: one, or an array of those that share the colours."""
    first = np.ravel(axes)[0]
    figure = first.get_figure()
    bar = figure.colorbar(image, ax=axes, pad=0.02, **options)
    size = text_size(figure)
    bar.set_label(label, fontsize=size)
    bar.ax.tick_params(labelsize=0.9 * size)
    return bar


def colour_map(name: str) -> Any:
    from matplotlib import colormaps

    return colormaps[name]


def whole_ticks(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = sorted(axis.get_view_interval())
    every: Any = {"nbins": 12} if high - low <= 12 else {}  # a tick for each of ten neurons
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10], **every))


def few_ticks(count: int) -> tuple[np.ndarray]:
    return (np.arange(0, count, max(1, -(-count // 10))),)


def curve_style(index: int, count: int, ordered: bool = False) -> tuple[Any, str]:
    """Colour and line style of curve `index` of `count`; the line style changes after seven colours.

    ordered: the curves belong to values in order, so the colours follow a scale.
    """
    if ordered:
        return colour_map("viridis")(0.92 * index / max(count - 1, 1)), "-"
    return COLOURS[index % len(COLOURS)], ("-", "--", ":", "-.")[index // len(COLOURS) % 4]


def curve_mark(index: int) -> tuple[str, str]:
    """Colour and marker of curve `index`, for curves whose line style says something else."""
    return COLOURS[index % len(COLOURS)], "osD^vP"[index // len(COLOURS) % 6]


# ---------------------------------------------------------------------------- drawing


def draw_heatmap(axes: Axes, values: np.ndarray, x_max: float | None = None, **options: Any) -> Any:
    """values [T, N]"""
    steps, neurons = values.shape
    right = steps - 0.5 if x_max is None else x_max
    left = -0.5 if x_max is None else -0.5 * x_max / steps
    return axes.imshow(
        values.T,
        extent=(left, right, -0.5, neurons - 0.5),
        **{"aspect": "auto", "origin": "lower", "interpolation": "nearest", "cmap": "viridis"} | options,
    )


def draw_raster(axes: Axes, fired: np.ndarray, colours: Sequence[Any] | None = None) -> None:
    """fired [T, N] bool; colours [N] of the neurons, black by default."""
    steps, neurons = fired.shape
    width = float(np.clip(300 / steps, 0.5, 3))
    for neuron in range(neurons):
        at = np.flatnonzero(fired[:, neuron])
        colour = BLACK if colours is None else colours[neuron]
        axes.vlines(at, neuron - 0.4, neuron + 0.4, colors=colour, linewidth=width)
    axes.set_xlim(-0.5, steps - 0.5)
    axes.set_ylim(-0.5, neurons - 0.5)


def draw_rates(axes: Axes, rates: np.ndarray, colours: Sequence[Any] | None = None) -> None:
    """Horizontal bars of rates [N], each with its number if there are at most 16."""
    from matplotlib.ticker import FixedLocator

    axes.barh(np.arange(len(rates)), rates, height=0.8, color=BLUE if colours is None else colours)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    axes.tick_params(labelleft=False)
    if len(rates) <= 16:
        size = 0.8 * text_size(axes.figure)  # type: ignore[arg-type]
        for neuron, rate in enumerate(rates):
            inside = rate > 0.55
            axes.text(
                rate - 0.03 if inside else rate + 0.03, neuron, f"{rate:.2f}", va="center", fontsize=size,
                ha="right" if inside else "left", color="white" if inside else "black",
            )  # fmt: skip


def draw_spike_train(axes: Axes, fired: np.ndarray) -> None:
    """fired [T] bool: one tick per spike."""
    axes.vlines(np.flatnonzero(fired), 0, 1, colors=VERMILLION, linewidth=2 if len(fired) <= 200 else 1)
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 1])
    margin = 0.02 * len(fired)
    axes.set_xlim(-0.5 - margin, len(fired) - 0.5 + margin)


def draw_potential(axes: Axes, h: np.ndarray, v: np.ndarray, fired: np.ndarray) -> None:
    """A line through H[t] and, where the neuron fires, down to V[t]; a dot on top for each spike."""
    times = np.repeat(np.arange(len(h)), 2)
    heights = np.stack([h, v], 1).ravel()
    axes.plot(times, heights, color=BLUE, linewidth=1.5)
    at = np.flatnonzero(fired)
    axes.plot(at, h[at], "o", color=SKY, markeredgecolor=BLUE, markersize=4)


def mark_levels(axes: Axes, v_threshold: float, v_reset: float | None) -> None:
    """Dashed lines at threshold and reset, named at the right edge."""
    size = 0.9 * text_size(axes.figure)  # type: ignore[arg-type]
    levels = [(v_threshold, "threshold", VERMILLION, "--", "center")]
    if v_reset is not None:  # below the threshold: the names stand on different sides of the two lines
        levels = [(v_threshold, "threshold", VERMILLION, "--", "bottom"), (v_reset, "reset", GREEN, ":", "top")]
    for height, name, colour, line, side in levels:
        axes.axhline(height, color=colour, linestyle=line, linewidth=1.8)
        axes.annotate(
            f"{name}\n{height:g}", (1, height), xycoords=("axes fraction", "data"), xytext=(5, 0),
            textcoords="offset points", va=side, color=colour, fontsize=size,
        )  # fmt: skip


def plain_log_ticks(axis: Any) -> None:
    """0.001 and 0.003 instead of powers of ten, on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
