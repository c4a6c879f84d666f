"""Pictures of a seven for the tests of data/pictures.py and of predict, drawn and encoded as files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from snn_mnist.data import pictures


def stroke(height=300, width=400, at=(60, 100), size=(150, 90), pen=24):
    """A seven: a bar above, a slope below. Ink 255 on 0."""
    grey = np.zeros((height, width), np.uint8)
    (y, x), (h, w) = at, size
    grey[y : y + pen, x : x + w] = 255
    for i in range(h):
        right = x + w - i * (w - pen) // h
        grey[y + i, right - pen : right] = 255
    return grey


def pixels(grey):
    prepared = pictures.prepare(grey)
    assert prepared is not None
    return prepared.pixels.reshape(28, 28).astype(int)


def encoded(image, kind="PNG", **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def rgba(ink, background_alpha=0):
    layers = np.zeros((*stroke().shape, 4), np.uint8)
    layers[..., :3] = ink
    layers[..., 3] = np.maximum(stroke(), background_alpha)
    return Image.fromarray(layers)


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    return encoded(Image.fromarray(stroke()).rotate(90, expand=True), "PNG", exif=exif)


KINDS = {
    "grey": lambda: encoded(Image.fromarray(stroke())),
    "one bit": lambda: encoded(Image.fromarray(stroke()).convert("1")),
    "palette": lambda: encoded(Image.fromarray(stroke()).convert("P")),
    "colour": lambda: encoded(Image.fromarray(255 - stroke()).convert("RGB")),
    "16 bits": lambda: encoded(Image.fromarray(stroke().astype(np.uint16) * 257)),
    "12 bits in 16": lambda: encoded(Image.fromarray((stroke() * (4095 / 255)).round().astype(np.uint16))),
    "10 bits in 16": lambda: encoded(Image.fromarray((stroke() * (1023 / 255)).round().astype(np.uint16))),
    "gif": lambda: encoded(Image.fromarray(stroke()), "GIF"),
    "bmp": lambda: encoded(Image.fromarray(stroke()), "BMP"),
    "webp": lambda: encoded(Image.fromarray(stroke()), "WEBP", lossless=True),
    "black on transparent": lambda: encoded(rgba(0)),
    "white on transparent": lambda: encoded(rgba(255)),
    "grey with alpha": lambda: encoded(rgba(0).convert("LA")),
    "turned by the camera": rotated,
}
