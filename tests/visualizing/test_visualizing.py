"""Figures from arrays: what they show, what they refuse, and that they leave nothing global behind."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from snn_mnist.core import neuron, surrogate
from snn_mnist.visualizing import drawing
from snn_mnist.visualizing import plots as visualizing

LABELS = ("a title", "time step t", "neuron")


def spikes(steps=20, neurons=6):
    return (torch.rand(steps, neurons, generator=torch.Generator().manual_seed(0)) < 0.4).float()


def overlaps(figure):
    """Pairs of visible texts of a figure that cover each other, and texts that stick out of it."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]
    ticks = {
        label for axes in figure.axes for axis in axes._axis_map.values() for label in axis.get_ticklabels(which="both")
    }
    shown = []
    for axes in figure.axes:
        for axis in axes._axis_map.values():
            low, high = sorted(axis.get_view_interval())
            if axes.axison and axis.get_visible():
                inside = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
                shown += [t.label1 for t in inside if t.label1.get_visible() and t.label1.get_text()]
    texts = [t for t in texts if t not in ticks] + shown
    boxes = [(t.get_text(), t.get_window_extent(renderer).padded(-1)) for t in texts]
    width, height = figure.canvas.get_width_height()
    out = [text for text, box in boxes if box.x0 < -2 or box.y0 < -2 or box.x1 > width + 2 or box.y1 > height + 2]
    pairs = [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other)]
    return out + pairs


FIGURES = {
    "heatmap": lambda: visualizing.plot_2d_heatmap(torch.rand(20, 6), *LABELS),
    "heatmap of many": lambda: visualizing.plot_2d_heatmap(torch.rand(500, 200), *LABELS, x_max=50),
    "raster": lambda: visualizing.plot_1d_spikes(spikes(), *LABELS),
    "raster of many": lambda: visualizing.plot_1d_spikes(spikes(300, 64), *LABELS, figsize=(12, 8), dpi=200),
    "raster without rates": lambda: visualizing.plot_1d_spikes(spikes(), *LABELS, plot_firing_rate=False),
    "feature map": lambda: visualizing.plot_2d_feature_map(torch.rand(10, 28, 28), 2, 5, 2, "ten maps"),
    "one neuron": lambda: visualizing.plot_one_neuron_v_s(torch.rand(80), spikes(80, 1)),
    "before the reset": lambda: visualizing.plot_one_neuron_v_s(torch.rand(80), spikes(80, 1), h=torch.rand(80, 1)),
    "soft reset": lambda: visualizing.plot_one_neuron_v_s(torch.rand(30), spikes(30, 1), v_threshold=2.5, v_reset=None),
    "surrogate": lambda: visualizing.plot_surrogate_function(surrogate.ATan()),
    "surrogates": lambda: visualizing.plot_surrogate_function([surrogate.Sigmoid(a) for a in (0.5, 1, 2, 4, 8)]),
    "curves": lambda: visualizing.plot_curves({f"τ = {n}": torch.rand(40) for n in range(9)}, *LABELS),
    "a long title": lambda: visualizing.plot_curves({"a": [1, 2]}, 30 * "word ", "x", "y", figsize=(5, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_a_figure_whose_texts_stay_apart(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert overlaps(figure) == []
    if "feature" not in name:
        assert all(axes.get_xlabel() or axes.get_ylabel() or axes.get_title(loc="left") for axes in figure.axes)


def test_3d_bars_have_their_heights_and_axes():
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    figure = visualizing.plot_2d_bar_in_3d(values, "t", "neuron", "time step", "V", int_z_ticks=True)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_zlabel()) == ("neuron", "time step", "V")
    heights = {round(max(float(corner[2]) for corner in bar._segment3d), 6) for bar in axes.patches}
    assert heights == {1, 2, 3, 4, 5, 6}
    figure.canvas.draw()


def test_heatmap_shows_the_values_time_to_the_right():
    values = np.arange(12.0).reshape(4, 3)  # [T, N]
    figure = visualizing.plot_2d_heatmap(values, *LABELS)
    image = figure.axes[0].images[0]
    assert np.array_equal(image.get_array(), values.T)
    assert image.origin == "lower"
    assert tuple(image.get_extent()) == (-0.5, 3.5, -0.5, 2.5)
    scaled = visualizing.plot_2d_heatmap(values, *LABELS, x_max=100, plot_colorbar=False)
    assert scaled.axes[0].get_xlim()[1] == 100
    assert len(scaled.axes) == 1


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
    assert grid.mask[:, 3].all()  # the space between
    assert grid.mask[3, 8]  # no sixth map


def test_one_neuron_marks_threshold_and_reset():
    node = neuron.LIFNode(step_mode="m", store_v_seq=True, v_threshold=0.7, v_reset=-0.2)
    s = node(torch.full((30, 1), 2.0))
    above, below = visualizing.plot_one_neuron_v_s(node.v_seq, s, 0.7, -0.2).axes  # [T, 1] is fine
    curve, threshold, reset = above.lines
    assert np.allclose(curve.get_ydata(), node.v_seq[:, 0])
    assert "after the reset" in above.get_ylabel()  # the line never reaches the threshold
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
    assert "after" not in above.get_ylabel()


def test_surrogate_figure_has_step_primitive_and_gradient():
    atan = surrogate.ATan(alpha=3.0)
    left, right = visualizing.plot_surrogate_function(atan).axes
    step, primitive = left.lines
    x = torch.as_tensor(primitive.get_xdata())
    assert np.array_equal(step.get_ydata(), (x >= 0).double())
    assert np.allclose(primitive.get_ydata(), atan.primitive(x))
    assert np.allclose(right.lines[0].get_ydata(), atan.gradient(x))


@pytest.mark.parametrize("name", surrogate.SURROGATES)
def test_every_surrogate_can_be_drawn(name):
    module = surrogate.SURROGATES[name]()
    left, right = visualizing.plot_surrogate_function(module).axes
    assert len(left.lines) == (1 if module.formula.primitive is None else 2)
    assert np.isfinite(right.lines[0].get_ydata()).all()


@pytest.mark.parametrize("values", [torch.rand(5, 4, requires_grad=True).bfloat16(), torch.ones(5, 4) == 1, [[0, 1]]])
def test_tensors_and_arrays_of_any_type(values):
    assert isinstance(visualizing.plot_2d_heatmap(values, *LABELS), Figure)


@pytest.mark.parametrize(
    "draw, words",
    [
        (lambda: visualizing.plot_2d_heatmap(torch.rand(5), *LABELS), r"array must have shape \[T, N\].*\[5\]"),
        (lambda: visualizing.plot_2d_heatmap(torch.rand(0, 3), *LABELS), r"\[0, 3\]"),
        (lambda: visualizing.plot_2d_heatmap([["a"]], *LABELS), "numbers"),
        (lambda: visualizing.plot_2d_bar_in_3d(torch.rand(2, 2, 2), *LABELS, "z"), r"\[2, 2, 2\]"),
        (lambda: visualizing.plot_1d_spikes(torch.rand(5, 2, 1), *LABELS), r"spikes must have shape \[T, N\]"),
        (lambda: visualizing.plot_1d_spikes(torch.full((5, 2), 0.5), *LABELS), "zeros and ones, but has 0.5"),
        (lambda: visualizing.plot_2d_feature_map(torch.rand(4, 4), 1, 1), r"x3d must have shape \[C, W, H\]"),
        (lambda: visualizing.plot_2d_feature_map(torch.rand(5, 4, 4), 2, 2), "no room for the 5 maps"),
        (lambda: visualizing.plot_2d_feature_map(torch.rand(1, 4, 4), 1, 1, space=-1), "space=-1"),
        (lambda: visualizing.plot_one_neuron_v_s(torch.rand(5, 2), torch.zeros(5, 2)), r"v must have shape \[T\]"),
        (lambda: visualizing.plot_one_neuron_v_s(torch.rand(5), torch.zeros(6)), "5 time steps and s has 6"),
        (lambda: visualizing.plot_one_neuron_v_s(torch.rand(5), torch.zeros(5), h=torch.rand(6)), "and h has 6"),
        (lambda: visualizing.plot_surrogate_function(torch.sigmoid), "surrogate module"),
        (lambda: visualizing.plot_surrogate_function([]), "surrogate module"),
        (lambda: visualizing.plot_curves({}, *LABELS), "empty"),
        (lambda: visualizing.plot_curves({"a": [1, 2]}, *LABELS, x=[1]), "x has 1 values"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_value_errors_that_say_so(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


def test_colours_are_told_apart_without_colour_vision():
    """Machado, Oliveira and Fernandes (2009), severity 1: also seen so, any two colours differ."""
    deficiencies = {
        "protanopia": [
            [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
        ],
    }  # fmt: skip
    colours = np.array([matplotlib.colors.to_rgb(colour) for colour in drawing.COLOURS])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    for name, matrix in deficiencies.items():
        seen = (linear @ np.array(matrix).T).clip(0, 1) ** (1 / 2.4)
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[~np.eye(len(seen), dtype=bool)]
        assert distances.min() > 0.15, name


def test_no_pyplot_no_display_no_global_state(tmp_path):
    code = (
        "import sys, torch; from snn_mnist import visualizing as v\n"
        "assert not any(m.startswith('matplotlib') for m in sys.modules), 'imported too early'\n"
        "import matplotlib; before = matplotlib.rcParams.copy()\n"
        "v.plot_1d_spikes(torch.ones(4, 3), 't', 'x', 'y').savefig('a.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "import matplotlib.pyplot as plt\n"
        "figure = v.plot_2d_heatmap(torch.ones(4, 3), 't', 'x', 'y')\n"
        "assert plt.gcf() is figure  # so that plt.show() shows it\n"
    )
    environment = {
        "PATH": "",
        "MPLCONFIGDIR": matplotlib.get_configdir(),
        "PYTHONPATH": ":".join(filter(None, sys.path)),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
