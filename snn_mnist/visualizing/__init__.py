"""Pictures of spikes, potentials, surrogates and feature maps, under the names of `spikingjelly.visualizing`.

Every function takes tensors or arrays and returns the matplotlib Figure; `figure.savefig(FILE)` saves it. No window
system is needed. If the program has imported matplotlib.pyplot, the figure becomes pyplot's current one, so that
`plt.show()` shows it; otherwise no global state changes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from snn_mnist.visualizing import drawing
from snn_mnist.visualizing.drawing import BLACK, BLUE, DPI, SIZE, VERMILLION, Size, own_style

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
    figsize: Size = SIZE,
    dpi: int = DPI,
) -> Figure:
    """Draw array [T, N], e.g. the potentials of N neurons, as colours: time runs right, neurons run up.

    x_max: the label of the right end of the time axis; None means T.
    """
    values = _array(array, "T", "N")
    steps, neurons = values.shape
    left, right = (-0.5, steps - 0.5) if x_max is None else (-0.5 * x_max / steps, x_max)
    extent = (left, right, -0.5, neurons - 0.5)
    figure = _new_figure(figsize, dpi)
    axes = figure.add_subplot()
    image = axes.imshow(values.T, aspect="auto", origin="lower", interpolation="nearest", extent=extent)
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
    figsize: Size = SIZE,
) -> Figure:
    """Draw array [T, N] as T rows of N bars: x counts the N columns, y the T rows, the height is the value."""
    from matplotlib import colormaps

    values = _array(array, "T", "N")
    rows, columns = values.shape
    figure = _new_figure(figsize, dpi)
    axes: Any = figure.add_subplot(projection="3d")
    colours = colormaps["viridis"](np.linspace(0, 1, rows))
    for row in range(rows - 1, -1, -1):  # from the back to the front
        colour = [colours[row]] * columns
        axes.bar(range(columns), values[row], zs=row, zdir="y", color=colour, edgecolor="white", alpha=0.9)
    drawing.style(axes, title, xlabel, ylabel, int_x_ticks, int_y_ticks)
    axes.set_zlabel(zlabel)
    axes.xaxis.labelpad = axes.yaxis.labelpad = 10
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
    figsize: Size = SIZE,
    dpi: int = DPI,
) -> Figure:
    """Draw the raster of spikes [T, N], zeros and ones: a row of ticks per neuron, and its firing rate beside it.

    Of up to 16 neurons the firing rates are also written as numbers.
    """
    fired = _array(spikes, "T", "N") != 0
    steps, neurons = fired.shape
    figure = _new_figure(figsize, dpi)
    axes, *beside = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1)) if plot_firing_rate else [figure.subplots()]
    for rates in beside:
        drawing.style(rates, "", firing_rate_map_title, "")
        bars = rates.barh(range(neurons), fired.mean(0))
        rates.set(xlim=(0, 1.4 if neurons <= 16 else 1), xticks=[0, 0.5, 1])
        rates.tick_params(labelleft=False)
        if neurons <= 16:
            rates.bar_label(bars, fmt=" %.2f", fontsize="small")
    width = float(np.clip(300 / steps, 0.5, 3))
    axes.eventplot([np.flatnonzero(train) for train in fired.T], linelengths=0.8, linewidths=width, colors=BLACK)
    axes.set(xlim=(-0.5, steps - 0.5), ylim=(-0.5, neurons - 0.5))
    drawing.style(axes, "", xlabel, ylabel, int_x_ticks, int_y_ticks)
    drawing.heading(figure, title)
    return figure


@own_style()
def plot_2d_feature_map(
    x3d: Any, nrows: int, ncols: int, space: int = 2, title: str = "", figsize: Size = SIZE, dpi: int = DPI
) -> Figure:
    """Draw x3d [C, W, H]: C maps in a grid of nrows × ncols, row by row, `space` pixels apart, on one scale."""
    maps = _array(x3d, "C", "W", "H")
    if nrows * ncols < len(maps):
        raise ValueError(f"nrows={nrows} times ncols={ncols} leaves no room for the {len(maps)} maps of x3d")
    figure = _new_figure(figsize, dpi)
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_invalid(drawing.mosaic(maps, nrows, ncols, space)), interpolation="nearest")
    drawing.style(axes, title, "", "")
    axes.axis("off")
    drawing.add_colorbar(axes, image, "value")
    return figure


@own_style()
def plot_one_neuron_v_s(
    v: Any,
    s: Any,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    title: str = "$V[t]$ and $S[t]$ of the neuron",
    figsize: Size = SIZE,
    dpi: int = DPI,
    h: Any = None,
) -> Figure:
    """Draw potential v [T] and spikes s [T] of one neuron, with its threshold and reset ([T, 1] is fine too).

    v is the potential after the reset, so it stays below the threshold. With h [T], the potential before the reset,
    the line goes through h[t] and, where the neuron fires, down to v[t].
    """
    potential, fired = _array(v, "T"), _array(s, "T") != 0
    figure = _new_figure(figsize, dpi)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    if h is None:
        above.plot(potential, color=BLUE, marker="o" if len(potential) <= 50 else "", markersize=4, linewidth=1.5)
    else:
        drawing.draw_potential(above, _array(h, "T"), potential, fired)
    drawing.mark_levels(above, v_threshold, v_reset)
    drawing.style(above, title, "", "membrane potential" + ("\n$V[t]$ after the reset" if h is None else ""))
    below.eventplot(np.flatnonzero(fired), lineoffsets=0.5, colors=VERMILLION)
    below.set(ylim=(0, 1.1), yticks=[0, 1])
    drawing.style(below, "", "time step $t$", "spikes $S$", int_x_ticks=True)
    figure.align_ylabels([above, below])
    return figure


@own_style()
def plot_surrogate_function(
    surrogate_function: Any, figsize: Size = SIZE, dpi: int = DPI, x_max: float = 2.5
) -> Figure:
    """Draw the Heaviside step, the primitive and the gradient of a surrogate, or of several, in one figure.

    surrogate_function: a module of core.surrogate such as ATan(alpha=2.0), one of your own, a function that returns
    g(x), or a list of them.
    """
    import torch

    from snn_mnist.core.surrogate import GradientSurrogate

    several = surrogate_function if isinstance(surrogate_function, list | tuple) else [surrogate_function]
    several = [one if isinstance(one, torch.nn.Module) else GradientSurrogate(one) for one in several]
    x = torch.linspace(-x_max, x_max, 1001, dtype=torch.float64)
    figure = _new_figure(figsize, dpi)
    left, right = figure.subplots(1, 2)
    left.plot(x, (x >= 0).double(), color=BLACK, linestyle="-", linewidth=2.5, label="Heaviside step")
    for one in several:
        parameters = [f"{name}={value:g}" for name, value in one.parameters_of_formula.items()]
        label = ", ".join([getattr(one, "function", type(one)).__name__, *parameters])
        label = label.replace("alpha", "α").replace("beta", "β")
        (line,) = right.plot(x, one.gradient(x), label=label)
        with contextlib.suppress(AttributeError, ValueError):  # it has no primitive
            left.plot(x, one.primitive(x), color=line.get_color(), linestyle=line.get_linestyle())
    drawing.style(left, "forward: step and primitive", "$x = H - V_{threshold}$", "spike $S$")
    drawing.style(right, "backward: gradient $g(x)$", "$x = H - V_{threshold}$", "$dS/dx$")
    handles = [left.lines[0], *right.lines]
    drawing.legend_below(figure, handles, [str(handle.get_label()) for handle in handles])
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
    figsize: Size = SIZE,
    dpi: int = DPI,
) -> Figure:
    """Draw one line [T] for each entry of `curves` (name → values) over x [T], by default 0, 1, 2, …

    ordered: the names are steps of one scale (such as alpha = 0.1 … 8), so the colours are too.
    """
    from matplotlib import colormaps

    figure = _new_figure(figsize, dpi)
    axes = figure.add_subplot()
    if ordered:
        axes.set_prop_cycle(color=colormaps["viridis"](np.linspace(0, 0.92, len(curves))))
    for name, values in curves.items():
        heights = _array(values, "T")
        at = np.arange(len(heights)) if x is None else _array(x, "T")
        axes.plot(at, heights, marker="o" if len(heights) <= 30 else "", markersize=5, label=name)
    if log_y:
        axes.set_yscale("log")
    drawing.style(axes, title, xlabel, ylabel, int_x_ticks)
    axes.grid()
    if len(curves) > 1:
        drawing.legend_below(figure, axes.lines, list(curves))
    return figure


def _array(values: Any, *axes: str) -> np.ndarray:
    """Return a tensor or an array as float64; ValueError unless it has these axes, or axes of length 1 beyond them."""
    if hasattr(values, "detach"):  # a torch tensor, on whatever device and of whatever type
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values, dtype=float)
    while array.ndim > len(axes) and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != len(axes) or array.size == 0:
        raise ValueError(f"the array must have shape [{', '.join(axes)}], but has {list(array.shape)}")
    return array


def _new_figure(figsize: Size, dpi: int) -> Figure:
    """Return a figure that pyplot shows too, if the caller's program has imported it."""
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        return pyplot.figure(figsize=figsize, dpi=dpi, layout="constrained")
    return drawing.own_figure(figsize, dpi)
