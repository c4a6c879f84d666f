"""Pictures of spikes, potentials, surrogates and feature maps.

Every function takes tensors or arrays and returns the matplotlib Figure; `figure.savefig(FILE)` saves it. No window
system is needed. If the program has imported matplotlib.pyplot, the figure becomes pyplot's current one, so that
`plt.show()` shows it; otherwise no global state changes. Colours are viridis and those of Okabe and Ito (2008), which
colour-blind readers can distinguish. The text size grows with `figsize`, so that a figure stays readable at half size.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from snn_mnist.visualizing import drawing
from snn_mnist.visualizing.drawing import BLACK, BLUE, DPI, SIZE, own_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@own_style()
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

    x_max: the label of the right end of the time axis; None means T.
    """
    values = _array(array, "array", ("T", "N"))
    figure = new_figure(figsize, dpi)
    axes = figure.add_subplot()
    image = drawing.draw_heatmap(axes, values, x_max)
    drawing.style(axes, title, xlabel, ylabel, int_x_ticks, int_y_ticks)
    if plot_colorbar:
        drawing.add_colorbar(axes, image, colorbar_y_label)
    return figure


@own_style()
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
        colours = drawing.colour_map("viridis")(np.full(columns, row / max(rows - 1, 1)))
        bars = {"width": 0.8, "color": colours, "edgecolor": "white", "alpha": 0.9}
        axes.bar(np.arange(columns), values[row], zs=row, zdir="y", **bars)
    drawing.style(axes, title, xlabel, ylabel, int_x_ticks, int_y_ticks)
    axes.set_zlabel(zlabel)
    axes.xaxis.labelpad = axes.yaxis.labelpad = axes.zaxis.labelpad = drawing.text_size()
    axes.set_xticks(*drawing.few_ticks(columns)) if int_x_ticks else None
    axes.set_yticks(*drawing.few_ticks(rows)) if int_y_ticks else None
    if int_z_ticks:
        drawing.whole_ticks(axes.zaxis)
    axes.set_box_aspect(None, zoom=0.86)  # else the labels are cut
    return figure


@own_style()
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
    """The raster of spikes [T, N], zeros and ones: a row of ticks per neuron, and its firing rate beside it."""
    fired = _spikes(_array(spikes, "spikes", ("T", "N")), "spikes")
    figure = new_figure(figsize, dpi)
    if not plot_firing_rate:
        axes = figure.add_subplot()
    else:
        axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
        drawing.draw_rates(beside, fired.mean(0))
        drawing.style(beside, "", firing_rate_map_title, "")
    drawing.draw_raster(axes, fired)
    drawing.style(axes, "", xlabel, ylabel, int_x_ticks, int_y_ticks)
    drawing.heading(figure, title)
    return figure


@own_style()
def plot_2d_feature_map(
    x3d: Any,
    nrows: int,
    ncols: int,
    space: int = 2,
    title: str = "",
    figsize: tuple[float, float] = SIZE,
    dpi: int = DPI,
) -> Figure:
    """x3d [C, W, H]: C maps in a grid of nrows × ncols, row by row, `space` pixels apart, on one scale."""
    maps = _array(x3d, "x3d", ("C", "W", "H"))
    if nrows < 1 or ncols < 1 or nrows * ncols < len(maps):
        raise ValueError(f"nrows={nrows} times ncols={ncols} leaves no room for the {len(maps)} maps of x3d")
    if space < 0:
        raise ValueError(f"space={space} must be 0 or more pixels")
    _, width, height = maps.shape
    grid = np.full((nrows * (width + space) - space, ncols * (height + space) - space), np.nan)
    for index, one in enumerate(maps):
        top, left = index // ncols * (width + space), index % ncols * (height + space)
        grid[top : top + width, left : left + height] = one
    figure = new_figure(figsize, dpi)
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_invalid(grid), cmap="viridis", interpolation="nearest")
    drawing.style(axes, title, "", "")
    axes.axis("off")
    rows, columns = grid.shape
    drawing.add_colorbar(axes, image, "value", shrink=min(1.0, 1.15 * rows / columns * figsize[0] / figsize[1]))
    return figure


@own_style()
def plot_one_neuron_v_s(
    v: Any,
    s: Any,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    title: str = "$V[t]$ and $S[t]$ of the neuron",
    figsize: tuple[float, float] = SIZE,
    dpi: int = DPI,
    h: Any = None,
) -> Figure:
    """Potential v [T] and spikes s [T] of one neuron, with its threshold and reset ([T, 1] is fine too).

    v is the potential after the reset, so it stays below the threshold. With h [T], the potential before the reset,
    the line goes through h[t] and, where the neuron fires, down to v[t].
    """
    potential = _array(_one_neuron(v), "v", ("T",))
    fired = _spikes(_array(_one_neuron(s), "s", ("T",)), "s")
    before = None if h is None else _array(_one_neuron(h), "h", ("T",))
    for name, values in (("s", fired), ("h", potential if before is None else before)):
        if len(potential) != len(values):
            raise ValueError(f"v has {len(potential)} time steps and {name} has {len(values)}; give the same T")
    figure = new_figure(figsize, dpi)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    if before is None:
        above.plot(potential, color=BLUE, marker="o" if len(potential) <= 50 else "", markersize=4)
    else:
        drawing.draw_potential(above, before, potential, fired)
    drawing.mark_levels(above, v_threshold, v_reset)
    label = "membrane potential\n$V[t]$ after the reset" if before is None else "membrane potential"
    drawing.style(above, title, "", label)
    above.tick_params(labelbottom=False)
    drawing.draw_spike_train(below, fired)
    drawing.style(below, "", "time step $t$", "spikes $S$", int_x_ticks=True)
    figure.align_ylabels([above, below])
    return figure


@own_style()
def plot_surrogate_function(
    surrogate_function: Any, figsize: tuple[float, float] = SIZE, dpi: int = DPI, x_max: float = 2.5
) -> Figure:
    """The Heaviside step, the primitive and the gradient of a surrogate, or of several, in one figure.

    surrogate_function: a module of core.surrogate such as ATan(alpha=2.0), or one of your own, or a list of them.
    """
    several = surrogate_function if isinstance(surrogate_function, list | tuple) else [surrogate_function]
    if not several or not all(hasattr(one, "gradient") and hasattr(one, "primitive") for one in several):
        raise ValueError(
            f"surrogate_function={surrogate_function!r} must be a surrogate module, e.g. surrogate.ATan() or a "
            "subclass of surrogate.SurrogateFunctionBase, or a list of them"
        )
    import torch

    x = torch.linspace(-x_max, x_max, 1001, dtype=torch.float64)
    figure = new_figure(figsize, dpi)
    left, right = figure.subplots(1, 2)
    left.plot(x, (x >= 0).double(), color=BLACK, linewidth=2.5, label="Heaviside step")
    for index, one in enumerate(several):
        colour, line = drawing.curve_style(index, len(several))
        label = _surrogate_label(one)
        with contextlib.suppress(NotImplementedError, ValueError):  # it has no primitive
            left.plot(x, one.primitive(x), color=colour, linestyle=line, linewidth=2, label=label)
        right.plot(x, one.gradient(x), color=colour, linestyle=line, linewidth=2, label=label)
    drawing.style(left, "forward: step and primitive", "$x = H - V_{threshold}$", "spike $S$")
    drawing.style(right, "backward: gradient $g(x)$", "$x = H - V_{threshold}$", "$dS/dx$")
    handles, labels = left.get_legend_handles_labels()
    more = zip(*right.get_legend_handles_labels(), strict=True)
    extra = [(handle, label) for handle, label in more if label not in labels]
    drawing.legend_below(figure, handles + [h for h, _ in extra], labels + [label for _, label in extra])
    if len(several) == 1:
        drawing.heading(figure, f"{type(several[0]).__name__}: a step forward, a smooth gradient backward")
    return figure


@own_style()
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
    positions = None if x is None else _array(x, "x", ("T",))
    for number, (name, values) in enumerate(curves.items()):
        heights = _array(values, f"curves[{name!r}]", ("T",))
        if positions is not None and len(positions) != len(heights):
            raise ValueError(f"x has {len(positions)} values and curves[{name!r}] has {len(heights)}; give as many")
        colour, line = drawing.curve_style(number, len(curves), ordered)
        at = np.arange(len(heights)) if positions is None else positions
        marker = "o" if len(heights) <= 30 else ""
        axes.plot(at, heights, color=colour, linestyle=line, linewidth=2, marker=marker, markersize=5, label=name)
    if log_y:
        axes.set_yscale("log")
    drawing.style(axes, title, xlabel, ylabel, int_x_ticks)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        drawing.legend_below(figure, *axes.get_legend_handles_labels())
    return figure


# ---------------------------------------------------------------------------- arguments


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


def new_figure(figsize: tuple[float, float], dpi: int) -> Figure:
    """A figure that pyplot shows too, if the caller's program has imported it; else no global state refers to it."""
    figure = drawing.own_figure(figsize, dpi)
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        return pyplot.figure(figsize=figsize, dpi=dpi, layout="constrained")
    return figure


def _surrogate_label(one: Any) -> str:
    greek = {"alpha": "α", "beta": "β"}
    parameters = [f"{greek.get(name, name)}={value:g}" for name, value in one.parameters_of_formula.items()]
    return ", ".join([type(one).__name__, *parameters])
