"""Receptive fields and confusion matrix for TensorBoard: coloured arrays, with Pillow's text.

They are made while a run trains, each in a few milliseconds. The figures of a finished run (run_figures.py) are drawn
by matplotlib, which takes half a second to import and a fifth of a second a figure.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard.summary import histogram

from snn_mnist.network.scoring import Score
from snn_mnist.visualizing.run_figures import confusion_title

RED_BLUE = "#053061 #2166ac #4393c3 #92c5de #d1e5f0 #f7f7f7 #fddbc7 #f4a582 #d6604d #b2182b #67001f"
BLUES = "#f7fbff #deebf7 #c6dbef #9ecae1 #6baed6 #4292c6 #2171b5 #08519c #08306b"
"""Colour scales of ColorBrewer (https://colorbrewer2.org), low to high at equal distances, as matplotlib has them."""
BLACK, WHITE, LOW, HIGH = 0, 127, 128, 255
"""A picture's 256 colours: greys from black to white, then its scale. Text is blended with what lies under it by these
numbers, so text on a coloured cell is LOW or HIGH."""


def due(epoch: int, epochs: int) -> bool:
    """Whether pictures are made after this epoch (from 1): after the first, the last, and about ten times per run."""
    return epoch in (1, epochs) or epoch % max(1, epochs // 10) == 0


def summaries(weight: Tensor, test: Score, class_names: Sequence[str]) -> list[Summary]:
    """Receptive fields and confusion matrix as images, firing rates of the test images as histograms."""
    confusion = test.confusion()
    pictures = {
        "receptive_fields": receptive_fields(weight, class_names),
        "confusion_matrix": confusion_matrix(confusion, class_names, confusion_title(confusion.numpy(), class_names)),
    }
    rates, labels = test.rates().numpy(), test.labels.numpy()
    own = np.arange(rates.shape[1]) == labels[:, None]
    edges = np.linspace(0, 1, 51)
    return [
        *(_image(tag, picture) for tag, picture in pictures.items()),
        histogram("firing_rate/neuron_of_the_label", rates[own], edges),
        histogram("firing_rate/the_other_neurons", rates[~own], edges),
    ]


def receptive_fields(weight: Tensor, class_names: Sequence[str]) -> Image.Image:
    """weight [10, 784]: the weights of each neuron as an image, all on one colour scale symmetric about 0."""
    fields = weight.detach().cpu().float().numpy().reshape(-1, 28, 28)
    limit = float(np.quantile(np.abs(fields), 0.995)) or 1.0  # a few extreme weights would make all others pale
    page = Page(890, 430, "A pixel's spike excites the neuron where its weight is red, inhibits it where blue")
    for number, (field, name) in enumerate(zip(fields, class_names, strict=True)):
        left, top = 10 + number % 5 * 156, 76 + number // 5 * 186
        page.draw.rectangle((left - 1, top - 1, left + 140, top + 140), outline=BLACK)
        page.cells(left, top, 5, (field / limit + 1) / 2)
        page.text(left + 70, top - 8, name, "ms")
    page.scale(796, 76, 326, {(m + 2) / 4: f"{m * limit / 2:.2f}" for m in range(-2, 3)}, "weight")
    return page.coloured(RED_BLUE)


def confusion_matrix(confusion: Tensor, class_names: Sequence[str], title: str) -> Image.Image:
    """confusion [10, 10]: images by label (row) and prediction (column); colour: share of the label's images."""
    counts = confusion.cpu().numpy()
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    curve = 0.4  # errors are a few percent: a linear scale would show the diagonal only
    page, left, top, cell = Page(890, 770, title), 126, 66, 62
    right, bottom = left + cell * len(counts), top + cell * len(counts)
    page.cells(left, top, cell, shares**curve)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            x, y = left + cell * (column + 0.5), top + cell * (row + 0.5)
            page.text(x, y, f"{count}", "mm", LOW if shares[row, column] > 0.2 else HIGH)
    stagger = 20 if max(map(len, class_names)) > 5 else 0
    for number, name in enumerate(class_names):
        page.text(left - 8, top + cell * (number + 0.5), name, "rm")
        page.text(left + cell * (number + 0.5), bottom + 22 + stagger * (number % 2), name, "ms")
    page.text(left - 8, top - 10, "label", "rs")
    page.text((left + right) / 2, bottom + 50 + stagger, "prediction", "ms")
    ticks = {(percent / 100) ** curve: f"{percent}" for percent in (0, 1, 5, 20, 50, 100)}
    page.scale(right + 26, top, bottom - top, ticks, "% of the label")
    return page.coloured(BLUES)


class Page:
    """A white picture with a title, and what is put on it; positions in pixels from the left and the top."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.picture = Image.new("L", (width, height), WHITE)
        self.draw = ImageDraw.Draw(self.picture)
        self.text(8, 22, title.replace("×", "x"), "ls")  # the font of Pillow has no ×

    def text(self, x: float, y: float, text: str, anchor: str, colour: int = BLACK) -> None:
        """Text whose point `anchor` (Pillow's letters: horizontal, vertical) lies at (x, y)."""
        self.draw.text((x, y), text, colour, _font(), anchor)

    def cells(self, left: int, top: int, size: int, values: np.ndarray) -> None:
        """Values [H, W] on the colour scale from 0 to 1, each a square; those beyond it are clipped."""
        colours = (LOW + (HIGH - LOW) * values.clip(0, 1)).round().astype(np.uint8)
        self.picture.paste(Image.fromarray(colours.repeat(size, 0).repeat(size, 1)), (left, top))

    def scale(self, left: int, top: int, height: int, ticks: Mapping[float, str], name: str) -> None:
        """The colour scale, 1 at the top, with its ticks: value → text."""
        self.cells(left, top, 1, np.linspace(1, 0, height)[:, None].repeat(24, 1))
        for value, text in ticks.items():
            y = top + round((1 - value) * (height - 1))
            self.draw.line((left + 24, y, left + 28, y), BLACK)
            self.text(left + 33, y, text, "lm")
        self.text(left, top - 10, name, "ls")

    def coloured(self, scale: str) -> Image.Image:
        anchors = np.array([ImageColor.getrgb(colour) for colour in scale.split()]).T  # [3, K]
        at = np.linspace(0, anchors.shape[1] - 1, HIGH - LOW + 1)
        greys = np.linspace(0, 255, WHITE + 1)[:, None].repeat(3, 1)
        table = np.stack([np.interp(at, range(len(channel)), channel) for channel in anchors], 1)
        self.picture.putpalette(np.concatenate([greys, table]).round().astype(np.uint8).tobytes())
        return self.picture


def _image(tag: str, picture: Image.Image) -> Summary:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", compress_level=1)
    width, height = picture.size
    image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=encoded.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=image)])


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(17)
