"""Receptive fields and confusion matrix for TensorBoard: coloured arrays.

They are made while a run trains, each in a few milliseconds. The figures of a finished run (run_figures.py) are drawn
by matplotlib, which takes half a second to import and a fifth of a second a figure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard.summary import histogram_raw, image

from snn_mnist.network.scoring import Score
from snn_mnist.visualizing.drawing import fields_and_limit, mosaic, rows_of_classes

RED_BLUE = "#053061 #2166ac #4393c3 #92c5de #d1e5f0 #f7f7f7 #fddbc7 #f4a582 #d6604d #b2182b #67001f"
BLUES = "#f7fbff #deebf7 #c6dbef #9ecae1 #6baed6 #4292c6 #2171b5 #08519c #08306b"
"""Colour scales of ColorBrewer (https://colorbrewer2.org), low to high at equal distances, as matplotlib has them."""
CELL, MARGIN = 56, 24  # pixels of the confusion matrix


def due(epoch: int, epochs: int) -> bool:
    """Return whether pictures are made after this epoch (from 1): the first, the last, and about ten times per run."""
    return epoch in (1, epochs) or epoch % max(1, epochs // 10) == 0


def summaries(weight: Tensor | None, test: Score, class_names: Sequence[str]) -> list[Summary]:
    """Return receptive fields (of the single layer) and confusion matrix as images, firing rates of the test images as
    histograms."""
    rates, labels = (test.neuron_counts / test.readout_steps[-1]).numpy(), test.labels.numpy()
    own = np.arange(rates.shape[1]) // test.votes == labels[:, None]
    fields = [] if weight is None else [image("receptive_fields", receptive_fields(weight), dataformats="HWC")]
    return [
        *fields,
        image("confusion_matrix", confusion_matrix(test.confusion(), class_names), dataformats="HWC"),
        histogram("firing_rate/neuron_of_the_label", rates[own]),
        histogram("firing_rate/the_other_neurons", rates[~own]),
    ]


def histogram(tag: str, rates: np.ndarray) -> Summary:
    """Return a histogram of firing rates in 50 bins from 0 to 1.

    torch's own computes the sum of squares by `numpy.dot`, whose threads then spin for 0.1 s beside the next training
    steps: the epoch after a picture was a fifth slower.
    """
    counts, edges = np.histogram(rates, 50, (0, 1))
    squares = float(np.square(rates, dtype=np.float64).sum())
    sums = float(rates.min()), float(rates.max()), rates.size, float(rates.sum(dtype=np.float64)), squares
    return histogram_raw(tag, *sums, edges[1:].tolist(), counts.tolist())


def receptive_fields(weight: Tensor) -> np.ndarray:
    """Return weight [10 votes, 784] as ten images in two rows, or a row per class: red above 0, blue below."""
    fields, limit = fields_and_limit(weight)
    tiles = mosaic(fields, 2, 5, 2) if len(fields) == 10 else rows_of_classes(fields)
    return coloured((tiles / limit + 1) / 2, RED_BLUE, max(1, 880 // max(tiles.shape)))


def confusion_matrix(confusion: Tensor, class_names: Sequence[str]) -> np.ndarray:
    """Return confusion [10, 10] as a picture: a row for each label, a column for each prediction, with the counts.

    The colour is the share of the label's images, to the power of 0.4: errors are a few percent.
    """
    counts = confusion.cpu().numpy()
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    left = MARGIN + 8 * max(map(len, class_names))
    picture = Image.new("RGB", (left + CELL * len(counts), MARGIN + CELL * len(counts)), "white")
    picture.paste(Image.fromarray(coloured(shares**0.4, BLUES, CELL)), (left, MARGIN))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    draw.text((left, MARGIN // 2), "label (row), prediction (column)", "black", font, "lm")
    for row, name in enumerate(class_names):
        draw.text((left - 8, MARGIN + CELL * (row + 0.5)), name, "black", font, "rm")
    for row, column in np.argwhere(counts):
        at = left + CELL * (column + 0.5), MARGIN + CELL * (row + 0.5)
        draw.text(at, str(counts[row, column]), "white" if shares[row, column] > 0.2 else "black", font, "mm")
    return np.asarray(picture)


def coloured(values: np.ndarray, scale: str, size: int) -> np.ndarray:
    """Return values [H, W] from 0 to 1 as colours [size H, size W, 3] uint8; those beyond are clipped, NaN is grey."""
    anchors = np.array([ImageColor.getrgb(colour) for colour in scale.split()]).T  # [3, K]
    at = np.linspace(0, 1, anchors.shape[1])
    colours = np.stack([np.interp(values, at, channel) for channel in anchors], -1)
    colours[np.isnan(values)] = 210
    return colours.round().astype(np.uint8).repeat(size, 0).repeat(size, 1)
