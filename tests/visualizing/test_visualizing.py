"""Figures from arrays: what they show, what they refuse, and that they leave nothing global behind."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from snn_mnist import visualizing
from snn_mnist.core import neuron, surrogate

LABELS = ("a title", "time step t", "neuron")


def spikes(steps=20, neurons=6):
    return (torch.rand(steps, neurons, generator=torch.Generator().manual_seed(0)) < 0.4).float()


def overlaps(figure):
    """Pairs of visible texts of a figure that cover each other, and texts that stick out of it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes_of_figure = [axis for axes in figure.axes for axis in axes._axis_map.values()]
    ticks = {label for axis in axes_of_figure for label in axis.get_ticklabels(which="both")}
    shown = [text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text not in ticks]
    for axis in axes_of_figure:
        low, high = sorted(axis.get_view_interval())
        if axis.axes.axison and axis.get_visible():
            inside = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            shown += [tick.label1 for tick in inside if tick.label1.get_visible()]
    shown = [text for text in shown if text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer()).padded(-1)) for text in shown]
    width, height = canvas.get_width_height()
    out = [text for text, box in boxes if box.x0 < -2 or box.y0 < -2 or box.x1 > width + 2 or box.y1 > height + 2]
    return out + [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other)]


FIGURES = {
    "heatmap": lambda: visualizing.plot_2d_heatmap(torch.rand(20, 6), *LABELS),
    "raster": lambda: visualizing.plot_1d_spikes(spikes(), *LABELS),
    "raster of many": lambda: visualizing.plot_1d_spikes(spikes(300, 64), *LABELS, figsize=(12, 8), dpi=200),
    "raster without rates": lambda: visualizing.plot_1d_spikes(spikes(), *LABELS, plot_firing_rate=False),
    "feature map": lambda: visualizing.plot_2d_feature_map(torch.rand(10, 28, 28), 2, 5, 2, "ten maps"),
    "before the reset": lambda: visualizing.plot_one_neuron_v_s(torch.rand(80), spikes(80, 1), h=torch.rand(80, 1)),
    "soft reset": lambda: visualizing.plot_one_neuron_v_s(torch.rand(30), spikes(30, 1), v_threshold=2.5, v_reset=None),
    "surrogate": lambda: visualizing.plot_surrogate_function(surrogate.ATan()),
    "surrogates": lambda: visualizing.plot_surrogate_function([surrogate.Sigmoid(a) for a in (0.5, 1, 2, 4, 8)]),
    "curves": lambda: visualizing.plot_curves({f"τ = {n}": torch.rand(40) for n in range(9)}, *LABELS),
    "a long title": lambda: visualizing.plot_curves({"a": [1, 2]}, 20 * "word ", "x", "y", figsize=(5, 4)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_texts_of_a_figure_stay_apart(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure) and overlaps(figure) == []


def test_3d_bars_have_their_heights_and_axes():
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    axes = visualizing.plot_2d_bar_in_3d(values, "t", "neuron", "time step", "V", int_z_ticks=True).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_zlabel()) == ("neuron", "time step", "V")
    heights = {round(max(float(corner[2]) for corner in bar._segment3d), 6) for bar in axes.patches}
    assert heights == {1, 2, 3, 4, 5, 6}


def test_heatmap_shows_the_values_time_to_the_right():
    values = np.arange(12.0).reshape(4, 3)  # [T, N]
    image = visualizing.plot_2d_heatmap(values, *LABELS).axes[0].images[0]
    assert np.array_equal(image.get_array(), values.T) and image.origin == "lower"
    assert tuple(image.get_extent()) == (-0.5, 3.5, -0.5, 2.5)
    (scaled,) = visualizing.plot_2d_heatmap(values, *LABELS, x_max=100, plot_colorbar=False).axes
    assert scaled.get_xlim()[1] == 100


def test_raster_has_one_tick_a_spike_and_the_rates():
    s = spikes()
    left, right = visualizing.plot_1d_spikes(s, *LABELS).axes
    drawn = {(round(x), n) for n, lines in enumerate(left.collections) for ((x, _), _) in lines.get_segments()}
    assert drawn == {(t, n) for t, n in s.nonzero().tolist()}
    assert np.allclose([bar.get_width() for bar in right.patches], s.mean(0))


def test_feature_maps_lie_row_by_row():
    maps = torch.stack([torch.full((2, 3), float(c)) for c in range(5)])
    grid = visualizing.plot_2d_feature_map(maps, 2, 3, space=1).axes[0].images[0].get_array()
    assert grid.shape == (2 * 2 + 1, 3 * 3 + 2)
    assert [grid[0, 0], grid[0, 4], grid[0, 8], grid[3, 0], grid[3, 4]] == [0, 1, 2, 3, 4]
    assert grid.mask[:, 3].all() and grid.mask[3, 8]  # the space between, no sixth map


def test_one_neuron_marks_threshold_and_reset():
    node = neuron.LIFNode(step_mode="m", store_v_seq=True, v_threshold=0.7, v_reset=-0.2)
    s = node(torch.full((30, 1), 2.0))
    above, below = visualizing.plot_one_neuron_v_s(node.v_seq, s, 0.7, -0.2).axes  # [T, 1] is fine
    curve, threshold, reset = above.lines
    assert np.allclose(curve.get_ydata(), node.v_seq[:, 0]) and "after the reset" in above.get_ylabel()
    assert [set(line.get_ydata()) for line in (threshold, reset)] == [{0.7}, {-0.2}]
    assert len(below.collections[0].get_segments()) == int(s.sum())


def test_one_neuron_with_the_potential_before_the_reset():
    """IF with an input of 0.4 fires in steps 2 and 5: up to 1.2, down to 0, with a dot on top."""
    h, v, s = [0.4, 0.8, 1.2, 0.4, 0.8, 1.2], [0.4, 0.8, 0, 0.4, 0.8, 0], [0, 0, 1, 0, 0, 1]
    above = visualizing.plot_one_neuron_v_s(v, s, h=h).axes[0]
    line, dots = above.lines[:2]
    assert line.get_xdata().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert line.get_ydata().tolist() == [0.4, 0.4, 0.8, 0.8, 1.2, 0, 0.4, 0.4, 0.8, 0.8, 1.2, 0]
    assert (dots.get_xdata().tolist(), dots.get_ydata().tolist()) == ([2, 5], [1.2, 1.2])


@pytest.mark.parametrize("name", ["atan", "super_spike"])
def test_a_surrogate_is_drawn_as_step_primitive_and_gradient(name):
    module = surrogate.SURROGATES[name]()
    left, right = visualizing.plot_surrogate_function(module).axes
    x = torch.as_tensor(right.lines[0].get_xdata())
    assert np.array_equal(left.lines[0].get_ydata(), (x >= 0).double())
    assert np.allclose(right.lines[0].get_ydata(), module.gradient(x))
    if module.formula.primitive is not None:
        assert np.allclose(left.lines[1].get_ydata(), module.primitive(x))
        assert left.lines[1].get_color() == right.lines[0].get_color()


@pytest.mark.parametrize("values", [torch.rand(5, 4, requires_grad=True).bfloat16(), torch.ones(5, 4) == 1, [[0, 1]]])
def test_tensors_and_arrays_of_any_type(values):
    assert isinstance(visualizing.plot_2d_heatmap(values, *LABELS), Figure)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: visualizing.plot_2d_heatmap(torch.rand(5), *LABELS), r"shape \[T, N\].*\[5\]"),
        (lambda: visualizing.plot_2d_heatmap(torch.rand(0, 3), *LABELS), r"\[0, 3\]"),
        (lambda: visualizing.plot_2d_feature_map(torch.rand(5, 4, 4), 2, 2), "no room for the 5 maps"),
        (lambda: visualizing.plot_one_neuron_v_s(torch.rand(5, 2), torch.zeros(5, 2)), r"shape \[T\]"),
        (lambda: visualizing.plot_curves({"a": [1, 2]}, *LABELS, x=[1]), "same first dimension"),
    ],
)
def test_wrong_shapes_are_value_errors_that_say_so(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


def test_no_pyplot_no_display_no_global_state(tmp_path):
    code = (
        "import sys; from snn_mnist import visualizing as v\n"
        "assert not {'torch', 'matplotlib'} & sys.modules.keys(), 'imported too early'\n"
        "import matplotlib; before = matplotlib.rcParams.copy()\n"
        "v.plot_1d_spikes([[1, 0]], 't', 'x', 'y').savefig('a.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "import matplotlib.pyplot as plt\n"
        "figure = v.plot_2d_heatmap([[1, 0]], 't', 'x', 'y')\n"
        "assert plt.gcf() is figure  # so that plt.show() shows it\n"
    )
    path = ":".join(filter(None, sys.path))
    environment = {"PATH": "", "MPLCONFIGDIR": matplotlib.get_configdir(), "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
