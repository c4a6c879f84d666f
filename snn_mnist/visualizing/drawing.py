"""Parts of figures: colours, text sizes, legends, rasters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
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
STYLE: Any = {
    "axes.titlelocation": "left", "axes.titlesize": "medium", "figure.titlesize": "medium", "axes.titlepad": 8.0,
    "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip


# ---------------------------------------------------------------------------- style and layout


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Draw with matplotlib's defaults, whatever the user's settings are: usetex needs LaTeX, image.origin turns images.

    As a decorator or a context; what it changes is undone at its end.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def own_figure(figsize: tuple[float, float] = SIZE, dpi: int = DPI) -> Figure:
    """A figure without pyplot: it needs no display, and no global state refers to it.

    Its text size, which `own_style` ends with the figure's function, is 13 points for 8 × 5 inches, and in proportion.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["font.size"] = max(7.0, 1.65 * min(figsize[0], 1.6 * figsize[1]))
    figure = Figure(figsize=figsize, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def text_size() -> float:
    """Points of the figure that is being drawn."""
    import matplotlib

    return matplotlib.rcParams["font.size"]


def style(
    axes: Axes, title: str, xlabel: str, ylabel: str, int_x_ticks: bool = False, int_y_ticks: bool = False
) -> None:
    """Title, labels and ticks. Sizes are set on the ticks, which are made when the figure is saved."""
    if title:
        axes.set_title(title, wrap=True)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.tick_params(labelsize=0.9 * text_size())
    if int_x_ticks:
        whole_ticks(axes.xaxis)
    if int_y_ticks:
        whole_ticks(axes.yaxis)


def heading(figure: Figure, text: str) -> None:
    """A title over all axes of the figure, flush left."""
    figure.suptitle(text, x=0.01, horizontalalignment="left", wrap=True)


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], scale: float = 0.9) -> None:
    """A legend under the axes, where it covers nothing; the figure becomes taller by it. scale: its text size."""
    size, (width, height) = scale * text_size(), figure.get_size_inches()
    columns = max(1, int(72 * width / ((max(map(len, labels)) * 0.6 + 4) * size)))
    rows = -(-len(labels) // columns)
    figure.set_size_inches(width, height + 1.6 * size / 72 * rows)
    columns = -(-len(labels) // rows)  # rows of equal length
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=size, frameon=False)


def add_colorbar(axes: Any, image: Any, label: str, **options: Any) -> Any:
    """axes: one, or an array of those that share the colours."""
    first = np.ravel(axes)[0]
    figure = first.get_figure()
    bar = figure.colorbar(image, ax=axes, pad=0.02, label=label, **options)
    bar.ax.tick_params(labelsize=0.9 * text_size())
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
        size = 0.8 * text_size()
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
    size = 0.9 * text_size()
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
