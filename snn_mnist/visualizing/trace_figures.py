"""The figures of one traced image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from snn_mnist.network.trace import Trace
from snn_mnist.visualizing import drawing
from snn_mnist.visualizing.drawing import BLUE, VERMILLION, own_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from snn_mnist.network.trace import Trace

LONGEST = 60  # time steps of a voltage trace that can be distinguished in a figure


@own_style()
def shown_image(trace: Trace, class_names: Sequence[str]) -> Figure:
    """The image beside the number of spikes of each pixel."""
    figure = drawing.own_figure((8.4, 4.2))
    left, right = figure.subplots(1, 2)
    image = left.imshow(trace.image, cmap="gray", vmin=0, vmax=255)
    counts = right.imshow(trace.input_spikes, cmap="viridis", vmin=0, vmax=len(trace.s))
    bars = ((left, image, "pixel value"), (right, counts, f"spikes in {len(trace.s)} time steps"))
    for axes, shown, label in bars:
        axes.set_xticks([])
        axes.set_yticks([])
        drawing.add_colorbar(axes, shown, label, shrink=0.8)
    label, total = class_names[trace.label], trace.input_spikes.sum()
    drawing.heading(figure, f"Test image {trace.index}, label {label}: {total:,} input spikes in {len(trace.s)} steps")
    return figure


def _name_neurons(axes: Axes, class_names: Sequence[str]) -> None:
    axes.set_yticks(range(len(class_names)), class_names)


@own_style()
def raster(trace: Trace, class_names: Sequence[str]) -> Figure:
    """When each output neuron fired, and how often; the prediction in another colour."""
    figure = drawing.own_figure((8.6, 5.0))
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    colours = [VERMILLION if number == trace.prediction else BLUE for number in range(len(class_names))]
    drawing.draw_raster(axes, trace.s == 1, colours)
    drawing.draw_rates(beside, trace.rates, colours)
    drawing.style(beside, "", "firing rate", "")
    beside.tick_params(labelleft=False)
    drawing.style(axes, "", "time step $t$", "output neuron", int_x_ticks=True)
    _name_neurons(axes, class_names)
    drawing.heading(figure, _outcome(trace, class_names))
    return figure


def _outcome(trace: Trace, class_names: Sequence[str]) -> str:
    rate, name, label = trace.rates[trace.prediction], class_names[trace.prediction], class_names[trace.label]
    if not trace.s.any():
        return f"No neuron fires; the label is {label}"
    outcome = "and is right" if trace.prediction == trace.label else f"but the label is {label}"
    return f"Neuron {name} fires most, in {100 * rate:.0f} % of the steps, {outcome}"


@own_style()
def voltages(trace: Trace, class_names: Sequence[str], v_threshold: float) -> Figure:
    """V[t] of all ten neurons."""
    figure = drawing.own_figure((8.6, 5.0))
    axes = figure.add_subplot()
    image = drawing.draw_heatmap(axes, trace.v, vmax=v_threshold)
    drawing.style(axes, "", "time step $t$", "output neuron", int_x_ticks=True)
    _name_neurons(axes, class_names)
    drawing.add_colorbar(axes, image, f"V[t] after the reset (threshold {v_threshold:g})")
    drawing.heading(figure, "Membrane potentials after each step: a spike resets them")
    return figure


@own_style()
def winner(trace: Trace, class_names: Sequence[str], v_threshold: float, v_reset: float | None) -> Figure:
    """The potential of the predicted class's neuron, and below it that of the label's neuron if it is another."""
    numbers = [trace.prediction] + ([trace.label] if trace.label != trace.prediction else [])
    figure = drawing.own_figure((8.6, 4.4 if len(numbers) == 1 else 6.8))
    steps = min(len(trace.s), LONGEST)
    panels = figure.subplots(len(numbers), 1, sharex=True, squeeze=False)[:, 0]
    for axes, number in zip(panels, numbers, strict=True):
        drawing.draw_potential(axes, trace.h[:steps, number], trace.v[:steps, number], trace.s[:steps, number] == 1)
        drawing.mark_levels(axes, v_threshold, v_reset)
        role = "prediction" if number == trace.prediction else "label"
        count = int(trace.s[:, number].sum())
        title = f"Neuron {class_names[number]} ({role}): {count} spikes in {len(trace.s)} steps"
        drawing.style(axes, title, "", "membrane potential", int_x_ticks=True)
    drawing.style(panels[-1], "", _time_label(steps, len(trace.s)), "membrane potential", int_x_ticks=True)
    return figure


def _time_label(steps: int, total: int) -> str:
    return "time step $t$" + ("" if steps == total else f" (the first {steps} of {total})")
