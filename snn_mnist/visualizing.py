"""Pictures of spikes, potentials, surrogates and feature maps.

Every function takes tensors or arrays and returns the matplotlib Figure; `figure.savefig(FILE)` saves it. No
window system is needed. Where a program has imported matplotlib.pyplot, the figure becomes pyplot's current
one, so that `plt.show()` shows it; otherwise nothing global is touched. Colours are viridis and those of Okabe
and Ito (2008), which colour-blind readers can tell apart. Text grows with `figsize`, so that a figure can be
halved and read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "plot_1d_spikes",
    "plot_2d_bar_in_3d",
    "plot_2d_feature_map",
    "plot_2d_heatmap",
    "plot_curves",
    "plot_one_neuron_v_s",
    "plot_surrogate_function",
]

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
GREY = "#777777"
SIZE, DPI = (8.0, 5.0), 150


# ---------------------------------------------------------------------------- the functions


def plot_2d_heatmap(
    array: Any,
    title: str,
    xlabel: str,
    ylabel: str,
    int_x_ticks: bool = True,
    int_y_ticks: bool = True,
    plot_colorbar: bool = True,
    colorbar_y_label: str = "magnitude",
    x_max: float | None = None,
    figsize: tuple[float, float] = SIZE,
    dpi: int = DPI,
) -> Figure:
    """array [T, N], e.g. the potentials of N neurons, as colours: time runs right, neurons run up.

    x_max: what the right end of the time axis is called, T where it is None.
    """
    values = _array(array, "array", ("T", "N"))
    figure = new_figure(figsize, dpi)
    axes = figure.add_subplot()
    image = draw_heatmap(axes, values, x_max)
    style(axes, title, xlabel, ylabel, int_x_ticks, int_y_ticks)
    if plot_colorbar:
        add_colorbar(axes, image, colorbar_y_label)
    return figure


def plot_2d_bar_in_3d(
    array: Any,
    title: str,
    xlabel: str,
    ylabel: str,
    zlabel: str,
    int_x_ticks: bool = True,
    int_y_ticks: bool = True,
    int_z_ticks: bool = False,
    dpi: int = DPI,
    figsize: tuple[float, float] = SIZE,
) -> Figure:
    """array [T, N] as T rows of N bars: x counts the N columns, y the T rows, the height is the value."""
    values = _array(array, "array", ("T", "N"))
    figure = new_figure(figsize, dpi)
    axes: Any = figure.add_subplot(projection="3d")
    rows, columns = values.shape
    for row in range(rows - 1, -1, -1):  # from the back to the front
        colours = colour_map("viridis")(np.full(columns, row / max(rows - 1, 1)))
        bars = {"width": 0.8, "color": colours, "edgecolor": "white", "alpha": 0.9}
        axes.bar(np.arange(columns), values[row], zs=row, zdir="y", **bars)
    style(axes, title, xlabel, ylabel, int_x_ticks, int_y_ticks)
    size = text_size(figure)
    axes.set_zlabel(zlabel, fontsize=size, labelpad=size)
    axes.xaxis.labelpad = axes.yaxis.labelpad = size
    axes.set_xticks(*_few_ticks(columns)) if int_x_ticks else None
    axes.set_yticks(*_few_ticks(rows)) if int_y_ticks else None
    if int_z_ticks:
        _whole_ticks(axes.zaxis)
    axes.set_box_aspect(None, zoom=0.86)  # else the labels are cut
    return figure


def plot_1d_spikes(
    spikes: Any,
    title: str,
    xlabel: str,
    ylabel: str,
    int_x_ticks: bool = True,
    int_y_ticks: bool = True,
    plot_firing_rate: bool = True,
    firing_rate_map_title: str = "firing rate",
    figsize: tuple[float, float] = SIZE,
    dpi: int = DPI,
) -> Figure:
    """The raster of spikes [T, N], zeros and ones: a row of ticks a neuron, and its firing rate beside it."""
    fired = _spikes(_array(spikes, "spikes", ("T", "N")), "spikes")
    figure = new_figure(figsize, dpi)
    if not plot_firing_rate:
        axes = figure.add_subplot()
    else:
        axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
        draw_rates(beside, fired.mean(0))
        style(beside, "", firing_rate_map_title, "")
    draw_raster(axes, fired)
    style(axes, "", xlabel, ylabel, int_x_ticks, int_y_ticks)
    heading(figure, title)
    return figure


def plot_2d_feature_map(
    x3d: Any,
    nrows: int,
    ncols: int,
    space: int = 2,
    title: str = "",
    figsize: tuple[float, float] = SIZE,
    dpi: int = DPI,
) -> Figure:
    """x3d [C, W, H]: C maps in a grid of nrows × ncols, row by row, `space` pixels apart, all on one scale."""
    maps = _array(x3d, "x3d", ("C", "W", "H"))
    if nrows < 1 or ncols < 1 or nrows * ncols < len(maps):
        raise ValueError(f"nrows={nrows} times ncols={ncols} leaves no room for the {len(maps)} maps of x3d")
    if space < 0:
        raise ValueError(f"space={space} must be 0 or more pixels")
    _, width, height = maps.shape
    grid = np.full((nrows * (width + space) - space, ncols * (height + space) - space), np.nan)
    for place, one in enumerate(maps):
        top, left = place // ncols * (width + space), place % ncols * (height + space)
        grid[top : top + width, left : left + height] = one
    figure = new_figure(figsize, dpi)
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_invalid(grid), cmap="viridis", interpolation="nearest")
    style(axes, title, "", "")
    axes.axis("off")
    rows, columns = grid.shape
    add_colorbar(axes, image, "value", shrink=min(1.0, 1.15 * rows / columns * figsize[0] / figsize[1]))
    return figure


def plot_one_neuron_v_s(
    v: Any,
    s: Any,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    title: str = "$V[t]$ and $S[t]$ of the neuron",
    figsize: tuple[float, float] = SIZE,
    dpi: int = DPI,
) -> Figure:
    """Potential v [T] and spikes s [T] of one neuron, with its threshold and reset ([T, 1] is fine too)."""
    potential = _array(_one_neuron(v), "v", ("T",))
    fired = _spikes(_array(_one_neuron(s), "s", ("T",)), "s")
    if len(potential) != len(fired):
        raise ValueError(
            f"v has {len(potential)} time steps and s has {len(fired)}; give both over the same T"
        )
    figure = new_figure(figsize, dpi)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    above.plot(
        potential, color=BLUE, marker="o" if len(potential) <= 50 else "", markersize=4, label="$V[t]$"
    )
    mark_levels(above, v_threshold, v_reset)
    style(above, title, "", "membrane potential $V$")
    above.tick_params(labelbottom=False)
    draw_spike_train(below, fired)
    style(below, "", "time step $t$", "spikes $S$", int_x_ticks=True)
    figure.align_ylabels([above, below])
    return figure


def plot_surrogate_function(
    surrogate_function: Any, figsize: tuple[float, float] = SIZE, dpi: int = DPI, x_max: float = 2.5
) -> Figure:
    """The Heaviside step, the primitive and the gradient of a surrogate, or of several, in one figure.

    surrogate_function: a module of core.surrogate such as ATan(alpha=2.0), or a list of them.
    """
    several = surrogate_function if isinstance(surrogate_function, list | tuple) else [surrogate_function]
    if not several or not all(hasattr(one, "gradient") and hasattr(one, "formula") for one in several):
        raise ValueError(
            f"surrogate_function={surrogate_function!r} must be a surrogate module, such as surrogate.ATan(), "
            "or a list of them"
        )
    import torch

    x = torch.linspace(-x_max, x_max, 1001, dtype=torch.float64)
    figure = new_figure(figsize, dpi)
    left, right = figure.subplots(1, 2)
    left.plot(x, (x >= 0).double(), color=BLACK, linewidth=2.5, label="Heaviside step")
    for place, one in enumerate(several):
        colour, line = _look(place, len(several))
        label = _surrogate_label(one)
        if one.formula.primitive is not None:
            left.plot(x, one.primitive(x), color=colour, linestyle=line, linewidth=2, label=label)
        right.plot(x, one.gradient(x), color=colour, linestyle=line, linewidth=2, label=label)
    style(left, "forward: step and primitive", "$x = H - V_{threshold}$", "spike $S$")
    style(right, "backward: gradient $g(x)$", "$x = H - V_{threshold}$", "$dS/dx$")
    handles, labels = left.get_legend_handles_labels()
    more = zip(*right.get_legend_handles_labels(), strict=True)
    extra = [(handle, label) for handle, label in more if label not in labels]
    legend_below(figure, handles + [h for h, _ in extra], labels + [label for _, label in extra])
    if len(several) == 1:
        heading(figure, f"{type(several[0]).__name__}: a step forward, a smooth gradient backward")
    return figure


def plot_curves(
    curves: Mapping[str, Any],
    title: str,
    xlabel: str,
    ylabel: str,
    x: Any = None,
    int_x_ticks: bool = True,
    log_y: bool = False,
    ordered: bool = False,
    figsize: tuple[float, float] = SIZE,
    dpi: int = DPI,
) -> Figure:
    """One line [T] for each entry of `curves` (name → values) over x [T], by default 0, 1, 2, …

    ordered: the names are steps of one scale (such as alpha = 0.1 … 8), so the colours are too.
    """
    if not curves:
        raise ValueError("curves is empty; give {name: values [T]}")
    figure = new_figure(figsize, dpi)
    axes = figure.add_subplot()
    places = None if x is None else _array(x, "x", ("T",))
    for number, (name, values) in enumerate(curves.items()):
        heights = _array(values, f"curves[{name!r}]", ("T",))
        if places is not None and len(places) != len(heights):
            raise ValueError(
                f"x has {len(places)} values and curves[{name!r}] has {len(heights)}; give as many"
            )
        colour, line = _look(number, len(curves), ordered)
        at = np.arange(len(heights)) if places is None else places
        marker = "o" if len(heights) <= 30 else ""
        axes.plot(
            at, heights, color=colour, linestyle=line, linewidth=2, marker=marker, markersize=5, label=name
        )
    if log_y:
        axes.set_yscale("log")
    style(axes, title, xlabel, ylabel, int_x_ticks)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        legend_below(figure, *axes.get_legend_handles_labels())
    return figure


# ---------------------------------------------------------------------------- what they take


def _array(values: Any, name: str, axes: tuple[str, ...]) -> np.ndarray:
    """A tensor or an array as float64; ValueError unless it has these axes and is not empty."""
    if hasattr(values, "detach"):  # a torch tensor, on whatever device and of whatever type
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array [{', '.join(axes)}] of numbers ({error})") from error
    if array.ndim != len(axes) or array.size == 0:
        raise ValueError(f"{name} must have shape [{', '.join(axes)}], but has {list(array.shape)}")
    return array


def _one_neuron(values: Any) -> Any:
    """[T, 1] as [T]."""
    shape = tuple(getattr(values, "shape", ()))
    return values.reshape(shape[0]) if len(shape) > 1 and all(n == 1 for n in shape[1:]) else values


def _spikes(values: np.ndarray, name: str) -> np.ndarray:
    """[…] bool; ValueError where a value is neither 0 nor 1."""
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        raise ValueError(f"{name} must hold zeros and ones, but has {wrong[0]:g}")
    return values == 1


# ---------------------------------------------------------------------------- how they look


def new_figure(figsize: tuple[float, float], dpi: int) -> Figure:
    """pyplot's where the caller's program uses pyplot, else one that belongs to nobody."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        return pyplot.figure(figsize=figsize, dpi=dpi, layout="constrained")
    return own_figure(figsize, dpi)


def own_figure(figsize: tuple[float, float] = SIZE, dpi: int = DPI) -> Figure:
    """A figure without pyplot: it needs no display and is freed like any object."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def text_size(figure: Figure) -> float:
    """Points: 13 for 8 × 5 inches, and in proportion."""
    width, height = figure.get_size_inches()
    return max(7.0, 1.65 * min(width, 1.6 * height))


def style(
    axes: Axes, title: str, xlabel: str, ylabel: str, int_x_ticks: bool = False, int_y_ticks: bool = False
) -> None:
    """Title, labels and sizes, set on the axes: ticks are made later and would not see rcParams of now."""
    size = text_size(axes.get_figure(root=True))  # type: ignore[call-arg, arg-type]
    if title:
        axes.set_title(title, fontsize=1.08 * size, loc="left", pad=0.6 * size)
    axes.set_xlabel(xlabel, fontsize=size)
    axes.set_ylabel(ylabel, fontsize=size)
    axes.tick_params(labelsize=0.9 * size)
    for side in ("top", "right"):
        if side in axes.spines:
            axes.spines[side].set_visible(False)
    if int_x_ticks:
        _whole_ticks(axes.xaxis)
    if int_y_ticks:
        _whole_ticks(axes.yaxis)


def heading(figure: Figure, text: str) -> None:
    """A title over all axes of the figure, flush left."""
    figure.suptitle(text, fontsize=1.08 * text_size(figure), x=0.01, horizontalalignment="left")


def legend_below(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int | None = None
) -> None:
    """Under the axes, where it can cover nothing."""
    size, width = text_size(figure), figure.get_size_inches()[0]
    widest = (max(map(len, labels)) * 0.6 + 4) * 0.9 * size / 72  # inches, about
    fitting = max(1, min(len(labels), int(width / widest)))
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns or fitting,
        fontsize=0.9 * size,
        frameon=False,
    )


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


def _whole_ticks(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = sorted(axis.get_view_interval())
    every = {"nbins": 12} if high - low <= 12 else {}  # every neuron of ten gets its number
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, **every))


def _few_ticks(count: int) -> tuple[np.ndarray]:
    return (np.arange(0, count, max(1, -(-count // 10))),)


def _look(place: int, count: int, ordered: bool = False) -> tuple[Any, str]:
    """Colour and line style of curve `place` of `count`; after seven colours the style changes as well."""
    if ordered:
        return colour_map("viridis")(0.92 * place / max(count - 1, 1)), "-"
    return COLOURS[place % len(COLOURS)], ("-", "--", ":", "-.")[place // len(COLOURS) % 4]


def _surrogate_label(one: Any) -> str:
    greek = {"alpha": "α", "beta": "β"}
    parameters = [f"{greek.get(name, name)}={value:g}" for name, value in one.parameters_of_formula.items()]
    return ", ".join([type(one).__name__, *parameters])


# ---------------------------------------------------------------------------- parts of a picture


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
    """fired [T, N] bool; colours [N] of the neurons, black where there are none."""
    steps, neurons = fired.shape
    width = float(np.clip(300 / steps, 0.5, 3))
    for neuron in range(neurons):
        at = np.flatnonzero(fired[:, neuron])
        colour = BLACK if colours is None else colours[neuron]
        axes.vlines(at, neuron - 0.4, neuron + 0.4, colors=colour, linewidth=width)
    axes.set_xlim(-0.5, steps - 0.5)
    axes.set_ylim(-0.5, neurons - 0.5)


def draw_rates(axes: Axes, rates: np.ndarray, colours: Sequence[Any] | None = None) -> None:
    """Bars of rates [N] to the right, each with its number where there is room for it."""
    from matplotlib.ticker import FixedLocator

    axes.barh(np.arange(len(rates)), rates, height=0.8, color=BLUE if colours is None else colours)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    axes.tick_params(labelleft=False)
    if len(rates) <= 16:
        size = 0.8 * text_size(axes.get_figure(root=True))  # type: ignore[call-arg, arg-type]
        for neuron, rate in enumerate(rates):
            inside = rate > 0.55
            axes.text(
                rate - 0.03 if inside else rate + 0.03, neuron, f"{rate:.2f}", va="center", fontsize=size,
                ha="right" if inside else "left", color="white" if inside else "black",
            )  # fmt: skip


def draw_spike_train(axes: Axes, fired: np.ndarray) -> None:
    """fired [T] bool: one tick a spike."""
    axes.vlines(np.flatnonzero(fired), 0, 1, colors=VERMILLION, linewidth=2 if len(fired) <= 200 else 1)
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 1])
    margin = 0.02 * len(fired)
    axes.set_xlim(-0.5 - margin, len(fired) - 0.5 + margin)


def mark_levels(axes: Axes, v_threshold: float, v_reset: float | None) -> None:
    """Dashed lines at threshold and reset, named at the right edge."""
    size = 0.9 * text_size(axes.get_figure(root=True))  # type: ignore[call-arg, arg-type]
    levels = [(v_threshold, "threshold", VERMILLION, "--")]
    if v_reset is not None:
        levels.append((v_reset, "reset", GREEN, ":"))
    for height, name, colour, line in levels:
        axes.axhline(height, color=colour, linestyle=line, linewidth=1.8)
        axes.annotate(
            f"{name}\n{height:g}", (1, height), xycoords=("axes fraction", "data"), xytext=(5, 0),
            textcoords="offset points", va="center", color=colour, fontsize=size,
        )  # fmt: skip
