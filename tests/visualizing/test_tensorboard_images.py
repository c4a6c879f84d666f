"""The pictures of a run in TensorBoard: their colours, their text, and what a reader of the event file finds."""

import io

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from snn_mnist.data.datasets import DIGITS, FASHION
from snn_mnist.storage.metrics import TensorBoard
from snn_mnist.visualizing import tensorboard_images as images
from tests.visualizing.test_run_figures import random_score


def test_receptive_fields_have_the_colours_of_the_figure():
    weight = torch.linspace(-1, 1, 7840)[torch.randperm(7840)].reshape(10, 784)
    found = images.receptive_fields(weight)[2::5, 2::5].astype(float)  # the middle of a weight's 5 x 5 pixels
    limit = np.quantile(weight.abs(), 0.995)
    expected = colormaps["RdBu_r"]((weight.numpy().reshape(10, 28, 28) / limit + 1) / 2)[..., :3] * 255
    for number in range(10):
        top, left = number // 5 * 30, number % 5 * 30
        assert np.abs(found[top : top + 28, left : left + 28] - expected[number]).max() < 4  # of matplotlib's 256 steps


@pytest.mark.parametrize(("votes", "shape"), [(3, (596, 176)), (40, (670, 598))])
def test_several_neurons_per_class_are_rows(votes, shape):
    assert images.receptive_fields(torch.randn(10 * votes, 784)).shape == (*shape, 3)


@pytest.mark.parametrize("names", [DIGITS, FASHION])
def test_each_count_is_readable_in_a_cell_of_its_colour(names):
    counts = torch.diag(torch.full((10,), 900)) + torch.arange(100).reshape(10, 10) % 13
    found = images.confusion_matrix(counts, names).astype(float)
    shares = (counts / counts.sum(1, keepdim=True)).numpy()
    left, top = found.shape[1] - 10 * images.CELL, images.MARGIN
    for row, column in np.ndindex(10, 10):
        y, x = top + images.CELL * row, left + images.CELL * column
        cell = found[y : y + images.CELL, x : x + images.CELL]
        colour = np.array(colormaps["Blues"](shares[row, column] ** 0.4)[:3]) * 255
        assert np.abs(cell[0, 0] - colour).max() < 4
        contrast = np.abs(cell - cell[0, 0]).max()
        assert contrast > 100 if counts[row, column] else contrast == 0
    assert found[top:, 4 : left - 4].min() < 50 and found[:, 0].min() == 255  # names, which are not cut off


def test_an_event_file_has_the_images_and_histograms_of_an_epoch(tmp_path):
    tested, weight = random_score(), torch.randn(10, 784)
    board = TensorBoard(tmp_path, 3)
    for summary in images.summaries(weight, tested, DIGITS):
        board.add(step=4, summary=summary)
    board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(events.Tags()["images"]) == ["confusion_matrix", "receptive_fields"]
    for tag in events.Tags()["images"]:
        (event,) = events.Images(tag)
        picture = Image.open(io.BytesIO(event.encoded_image_string))
        assert event.step == 4 and picture.size == (event.width, event.height)
    own, others = (events.Histograms(f"firing_rate/{n}")[0] for n in ("neuron_of_the_label", "the_other_neurons"))
    rates = tested.rates()
    labels_rates = rates[torch.arange(len(rates)), tested.labels]
    assert own.histogram_value.num == 200 and others.histogram_value.num == 1800
    assert own.histogram_value.sum == pytest.approx(labels_rates.sum().item(), rel=1e-5)
    assert others.histogram_value.sum == pytest.approx((rates.sum() - labels_rates.sum()).item(), rel=1e-5)


@pytest.mark.parametrize("epochs", [1, 2, 7, 10, 20, 99, 100, 1000])
def test_pictures_are_due_about_ten_times_a_run_and_at_its_ends(epochs):
    due = [epoch for epoch in range(1, epochs + 1) if images.due(epoch, epochs)]
    assert {1, epochs} <= set(due) and len(due) <= min(epochs, 21)
