"""The numbers in the figures of a traced image, from a hand-made one that is longer than a figure shows."""

import numpy as np
import pytest

from snn_mnist.data.datasets import DIGITS
from snn_mnist.network.trace import Trace
from snn_mnist.visualizing import trace_figures


@pytest.fixture
def trace() -> Trace:
    """Image 17 of class 3, T = 80: neuron 5 fires in every second step, 3 in steps 70 and 72, beyond what is shown."""
    s = np.zeros((80, 10), np.float32)
    s[1::2, 5], s[[70, 72], 3] = 1, 1
    h = np.linspace(0, 0.5, 800, dtype=np.float32).reshape(80, 10) + s
    image, spikes = np.zeros((28, 28), np.uint8), np.zeros((28, 28), np.int64)
    image[2, 9], spikes[2, 9], spikes[4, 1] = 200, 60, 1940
    return Trace(17, 3, image, spikes, h, h, np.where(s == 1, 0, h).astype(np.float32), s)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_image_beside_its_spikes(trace):
    figure = trace_figures.shown_image(trace, DIGITS)
    left, right = (axes.images[0] for axes in figure.axes[:2])
    assert flat(figure.get_suptitle()) == "Test image 17, label 3: 2,000 input spikes in 80 steps"
    assert left.get_clim() == (0, 255) and right.get_clim() == (0, 80)
    assert np.array_equal(right.get_array(), trace.input_spikes) and np.array_equal(left.get_array(), trace.image)
    assert [axes.get_ylabel() for axes in figure.axes[2:]] == ["pixel value", "spikes in 80 time steps"]


def test_the_raster_names_prediction_and_label(trace):
    figure = trace_figures.raster(trace, DIGITS)
    assert flat(figure.get_suptitle()) == "Neuron 5 fires most, in 50 % of the steps, but the label is 3"
    spikes = [collection.get_segments() for collection in figure.axes[0].collections]
    assert [len(of_neuron) for of_neuron in spikes] == [0, 0, 0, 2, 0, 40, 0, 0, 0, 0]
    assert [segment[0][0] for segment in spikes[3]] == [70, 72]
    assert [bar.get_width() for bar in figure.axes[1].patches] == pytest.approx([0, 0, 0, 2 / 80, 0, 0.5, 0, 0, 0, 0])


def test_the_potentials(trace):
    image = trace_figures.voltages(trace, DIGITS, 1.5).axes[0].images[0]
    assert np.array_equal(image.get_array(), trace.v.T) and image.get_clim()[1] == 1.5
    assert image.origin == "lower"  # neuron 0 at the bottom, as in the raster


def test_the_winner_counts_all_spikes_also_those_beyond_what_is_shown(trace):
    figure = trace_figures.winner(trace, DIGITS, 1.0, 0.0)
    titles = [flat(axes.get_title(loc="left")) for axes in figure.axes]
    assert titles == ["Neuron 5 (prediction): 40 spikes in 80 steps", "Neuron 3 (label): 2 spikes in 80 steps"]
    assert "(the first 60 of 80)" in figure.axes[-1].get_xlabel()
    line, dots = figure.axes[0].lines[:2]
    assert np.array_equal(line.get_ydata(), np.stack([trace.h[:60, 5], trace.v[:60, 5]], 1).ravel())
    assert dots.get_xdata().tolist() == [*range(1, 60, 2)]
