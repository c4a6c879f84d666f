"""Parts of figures: style, ticks, legends, rasters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Those of Okabe and Ito (2008), which colour-blind readers can distinguish."""
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = COLOURS
GREY = "#777777"
Size = tuple[float, float]  # inches
SIZE, DPI = (8.0, 5.0), 150
TICK_SIZE = 11  # points


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Draw with matplotlib's defaults, not the user's settings: usetex needs LaTeX, image.origin turns images."""
    import matplotlib
    from cycler import cycler

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc("font", size=12)
        matplotlib.rc("figure", titlesize="medium")
        matplotlib.rc("axes", titlesize="medium", titlelocation="left")
        matplotlib.rc("axes", prop_cycle=cycler(linestyle=("-", "--", ":", "-.")) * cycler(color=COLOURS))
        matplotlib.rc("axes.spines", top=False, right=False)
        matplotlib.rc("lines", linewidth=2)
        matplotlib.rc("grid", alpha=0.3)
        yield


def own_figure(figsize: Size = SIZE, dpi: int = DPI) -> Figure:
    """Return a figure without pyplot: it needs no display, and no global state refers to it."""
    from matplotlib.figure import Figure

    return Figure(figsize=figsize, dpi=dpi, layout="constrained")


def style(
    axes: Axes, title: str, xlabel: str, ylabel: str, int_x_ticks: bool = False, int_y_ticks: bool = False
) -> None:
    """Set title, labels and ticks; the text size of ticks too, which are made when the figure is saved."""
    axes.set_title(title, wrap=True)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.tick_params(labelsize=TICK_SIZE)
    if int_x_ticks:
        whole_ticks(axes.xaxis)
    if int_y_ticks:
        whole_ticks(axes.yaxis)


def whole_ticks(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def heading(figure: Figure, text: str) -> None:
    """Set a title over all axes of the figure, flush left."""
    figure.suptitle(text, x=0.01, horizontalalignment="left", wrap=True)


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Add a legend under the axes, where it covers nothing; the figure becomes taller by it."""
    width, height = figure.get_size_inches()
    columns = max(1, int(12 * width / (max(map(len, labels)) + 6)))  # about 12 letters an inch
    rows = -(-len(labels) // columns)
    figure.set_size_inches(width, height + 0.23 * rows)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=-(-len(labels) // rows), fontsize="small", frameon=False
    )


def add_colorbar(axes: Axes, image: Any, label: str, **options: Any) -> Any:
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02, label=label, **options)
    bar.ax.tick_params(labelsize=TICK_SIZE)
    return bar


def mosaic(maps: np.ndarray, nrows: int, ncols: int, space: int) -> np.ndarray:
    """Return maps [C, H, W] side by side, row by row, with NaN between them."""
    _, height, width = maps.shape
    grid = np.full((nrows * (height + space) - space, ncols * (width + space) - space), np.nan)
    for index, one in enumerate(maps):
        top, left = index // ncols * (height + space), index % ncols * (width + space)
        grid[top : top + height, left : left + width] = one
    return grid


def fields_and_limit(weight: Tensor) -> tuple[np.ndarray, float]:
    """Return weight [10 votes, 784] as images [10 votes, 28, 28], and the end of their colour scale."""
    fields = weight.detach().cpu().float().numpy().reshape(-1, 28, 28)
    share = 0.995 if len(fields) == 10 else 0.98  # a few extreme weights would make all others pale
    return fields, float(np.quantile(np.abs(fields), share)) or 1.0


def rows_of_classes(fields: np.ndarray) -> np.ndarray:
    """Return fields [10 votes, 28, 28] side by side: a row for each class, in several lines if it has many neurons."""
    votes = len(fields) // 10
    lines = max(1, round((votes / 10) ** 0.5))  # about as wide as high
    rows = [mosaic(each, lines, -(-votes // lines), 2) for each in fields.reshape(10, votes, 28, 28)]
    return mosaic(np.stack(rows), 10, 1, 2 if lines == 1 else 10)


def draw_potential(axes: Axes, h: np.ndarray, v: np.ndarray, fired: np.ndarray) -> None:
    """Draw a line through H[t] and, where the neuron fires, down to V[t]; a dot on top for each spike."""
    axes.plot(np.repeat(np.arange(len(h)), 2), np.stack([h, v], 1).ravel(), color=BLUE, linewidth=1.5)
    at = np.flatnonzero(fired)
    axes.plot(at, h[at], "o", color=SKY, markeredgecolor=BLUE, markersize=4)


def mark_levels(axes: Axes, v_threshold: float, v_reset: float | None) -> None:
    """Draw dashed lines at threshold and reset, named at the right edge."""
    for height, name, colour, line, side in (
        (v_threshold, "threshold", VERMILLION, "--", "bottom"),
        (v_reset, "reset", GREEN, ":", "top"),
    ):
        if height is not None:
            axes.axhline(height, color=colour, linestyle=line)
            look: Any = {"transform": axes.get_yaxis_transform(), "va": side, "color": colour, "fontsize": "small"}
            axes.text(1.01, height, f"{name}\n{height:g}", **look)
