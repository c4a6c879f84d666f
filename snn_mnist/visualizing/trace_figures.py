"""The figures of one traced image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from snn_mnist.visualizing import drawing
from snn_mnist.visualizing.drawing import BLUE, VERMILLION, own_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from snn_mnist.network.trace import Trace

LONGEST = 60  # time steps of a voltage trace that can be distinguished in a figure
SIZE = (8.6, 5.0)


@own_style()
def shown_image(trace: Trace, class_names: Sequence[str]) -> Figure:
    """Draw the image beside the number of spikes of each pixel."""
    steps = len(trace.s)
    figure = drawing.own_figure((8.4, 4.2))
    left, right = figure.subplots(1, 2)
    image = left.imshow(trace.image, cmap="gray", vmin=0, vmax=255)
    counts = right.imshow(trace.input_spikes, vmin=0, vmax=steps)
    for axes, shown, label in ((left, image, "pixel value"), (right, counts, f"spikes in {steps} time steps")):
        axes.set(xticks=[], yticks=[])
        drawing.add_colorbar(axes, shown, label, shrink=0.8)
    label, total = class_names[trace.label], trace.input_spikes.sum()
    drawing.heading(figure, f"Test image {trace.index}, label {label}: {total:,} input spikes in {steps} steps")
    return figure


@own_style()
def raster(trace: Trace, class_names: Sequence[str]) -> Figure:
    """Draw when each output neuron fired, and how often; the prediction in another colour."""
    figure = drawing.own_figure(SIZE)
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    colours = [VERMILLION if number == trace.prediction else BLUE for number in range(len(class_names))]
    drawing.style(beside, "", "firing rate", "")
    drawing.draw_raster(axes, beside, trace.s == 1, colours)
    drawing.style(axes, "", "time step $t$", "output neuron", int_x_ticks=True)
    axes.set_yticks(range(len(class_names)), class_names)
    name, label = class_names[trace.prediction], class_names[trace.label]
    outcome = "and is right" if trace.prediction == trace.label else f"but the label is {label}"
    title = f"Neuron {name} fires most, in {100 * trace.rates[trace.prediction]:.0f} % of the steps, {outcome}"
    drawing.heading(figure, title if trace.s.any() else f"No neuron fires; the label is {label}")
    return figure


@own_style()
def voltages(trace: Trace, class_names: Sequence[str], v_threshold: float) -> Figure:
    """Draw V[t] of all ten neurons as colours."""
    figure = drawing.own_figure(SIZE)
    axes = figure.add_subplot()
    image = drawing.draw_heatmap(axes, trace.v, vmax=v_threshold)
    title = "Membrane potentials after each step: a spike resets them"
    drawing.style(axes, title, "time step $t$", "output neuron", int_x_ticks=True)
    axes.set_yticks(range(len(class_names)), class_names)
    drawing.add_colorbar(axes, image, f"V[t] after the reset (threshold {v_threshold:g})")
    return figure


@own_style()
def winner(trace: Trace, class_names: Sequence[str], v_threshold: float, v_reset: float | None) -> Figure:
    """Draw the potential of the predicted class's neuron, and below it that of the label's neuron if it is another."""
    numbers = list(dict.fromkeys([trace.prediction, trace.label]))
    figure = drawing.own_figure((SIZE[0], 2.0 + 2.4 * len(numbers)))
    total = len(trace.s)
    steps = min(total, LONGEST)
    label = "time step $t$" + ("" if steps == total else f" (the first {steps} of {total})")
    for axes, number in zip(figure.subplots(len(numbers), sharex=True, squeeze=False).flat, numbers, strict=True):
        drawing.draw_potential(axes, trace.h[:steps, number], trace.v[:steps, number], trace.s[:steps, number] == 1)
        drawing.mark_levels(axes, v_threshold, v_reset)
        role = "prediction" if number == trace.prediction else "label"
        title = f"Neuron {class_names[number]} ({role}): {int(trace.s[:, number].sum())} spikes in {total} steps"
        drawing.style(axes, title, label if number == numbers[-1] else "", "membrane potential", int_x_ticks=True)
    return figure
