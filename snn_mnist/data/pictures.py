"""Pictures of any size prepared as MNIST's were: the digit in a 20x20 box, its centre of mass in the middle of 28x28.

After the file is decoded all arithmetic is on integers, so that the page (export/page.html), which does the same in
JavaScript, gets the same 784 pixels of a picture that needs no reduction.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from snn_mnist.errors import SNNError, UsageError, reason

SIDE = 28
BOXES = {"mnist": 20, "fashion": 28, "digits": 28}  # longer side of the object in each data set
PEN, PEN_SIDE = 6, 80  # strokes are at least 6 of 80 wide; MNIST's are 5 to 11, a ballpoint's 2
MAX_SIDE = 400  # pixels; a larger picture is first reduced by averaging, which also removes a camera's noise
UNEVEN = 8  # grey levels between the brightest and the darkest corner above which the lighting is corrected
MIN_CONTRAST = 24  # grey levels between the background and the strongest ink
MORE_COLOUR = 3  # times the contrast of the luma (and MIN_CONTRAST), above which a colour channel is taken instead
SMALL = 32 * 32  # pixels; in a larger picture faint pixels are noise or JPEG artefacts, here the edges of strokes

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")


class Picture(NamedTuple):
    grey: np.ndarray  # [h, w] uint8, at most 400 x 400
    width: int  # of the file, in pixels
    height: int


class Prepared(NamedTuple):
    pixels: np.ndarray  # [784] uint8, ink is 255
    dark_on_light: bool
    objects: int  # separate ones, see `count_objects`


def read(source: str | Path | BinaryIO, name: str = "") -> Picture:
    """Return a picture from a PNG, JPEG, GIF, WebP or BMP file; SNNError that begins with its name for another."""
    from PIL import Image, ImageOps

    try:
        with Image.open(source, formats=FORMATS) as image:
            image.load()
            picture: Image.Image = ImageOps.exif_transpose(image)
        return Picture(to_grey(fill_transparent(picture)), picture.width, picture.height)
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        kind = UsageError if isinstance(error, FileNotFoundError | IsADirectoryError) else SNNError
        message = f"{name or source} can't be read ({reason(error)}); give a PNG, JPEG, GIF, WebP or BMP file"
        raise kind(message) from None


def fill_transparent(picture):  # type: ignore[no-untyped-def]
    """Make transparent pixels white or black, whichever differs more from the opaque ones."""
    from PIL import Image

    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture
    layers = picture.convert("RGBA")
    opaque = np.asarray(layers.getchannel("A")) > 127
    inside = np.asarray(layers.convert("L"))[opaque]
    white = inside.size == 0 or inside.mean() < 128
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white" if white else "black"), layers)


def to_grey(picture) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Return grey levels [h, w] uint8 of an image of Pillow, reduced to 400 pixels and evenly lit."""
    from PIL import Image

    if picture.mode.startswith("I"):  # 16 bits, in which cameras store 10 or 12
        deep = np.asarray(picture.convert("F"), np.float64)
        full = next(2**bits - 1 for bits in (10, 12, 16) if deep.max() < 2**bits or bits == 16)
        picture = Image.fromarray(np.clip(deep * (255 / full), 0, 255).round().astype(np.uint8))
    picture = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    factor = math.ceil(max(picture.size) / MAX_SIDE)
    levels = np.asarray(picture.reduce(factor) if factor > 1 else picture)
    return even_lighting(levels if levels.ndim == 2 else strongest_channel(levels))


def strongest_channel(rgb: np.ndarray) -> np.ndarray:
    """Return grey levels [h, w] uint8 of colours [h, w, 3]: their luma, or a channel that shows far more contrast.

    Red on a green of the same luma differs in the channels only.
    """
    luma = (rgb @ np.array([19595, 38470, 7471]) + 32768) >> 16  # of ITU-R 601, rounded as Pillow does
    channels = [luma, *rgb.transpose(2, 0, 1).astype(np.int64)]
    contrasts = [int(np.abs(channel - median(frame(channel))).max()) for channel in channels]
    best = int(np.argmax(contrasts))  # the first one of equal ones
    more = contrasts[best] > MORE_COLOUR * max(contrasts[0], MIN_CONTRAST)
    return (channels[best] if more else luma).astype(np.uint8)


def frame(grey: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of [h, w]; their median is the background."""
    return np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])


def median(values: np.ndarray) -> int:
    """Return the lower median of integers."""
    return int(np.quantile(values, 0.5, method="lower"))


def even_lighting(grey: np.ndarray) -> np.ndarray:
    """Correct the uneven lighting of a photograph: subtract the bilinear surface through the medians of its corners."""
    height, width = grey.shape
    if min(height, width) < 24:
        return grey
    rows, columns = ((slice(side // 6), slice(-(side // 6), None)) for side in grey.shape)
    corners = np.array([[median(grey[row, column]) for column in columns] for row in rows])
    if np.ptp(corners) < UNEVEN:
        return grey
    # A coordinate is 0 at 1/12 of the side, the centre of a corner, and n or m = 10 (side - 1) at 11/12.
    n, m = 10 * (height - 1), 10 * (width - 1)
    y, x = (12 * np.arange(height) - (height - 1)).clip(0, n), (12 * np.arange(width) - (width - 1)).clip(0, m)
    surface = np.stack([n - y, y], 1) @ corners @ np.stack([m - x, x])  # n m times the levels
    fourfold = 4 * (n * m * grey.astype(np.int64) - surface) + n * m * corners.sum()
    return ((fourfold + 2 * n * m) // (4 * n * m)).clip(0, 255).astype(np.uint8)


def prepare(grey: np.ndarray, box: int = BOXES["mnist"]) -> Prepared | None:
    """Prepare grey levels as MNIST's, [height, width] uint8; None when nothing stands out from the background.

    The background is the median of the outermost pixels. Ink is the difference from it, in the direction (darker or
    lighter) of the largest difference; differences within the variation of the outermost pixels are set to 0.
    """
    height, width = grey.shape
    grey, border = grey.astype(np.int64), frame(grey).astype(np.int64)
    background = median(border)
    sign = -1 if background - grey.min() >= grey.max() - background else 1
    ink = np.maximum(sign * (grey - background), 0)
    peak = int(ink.max())
    if peak < MIN_CONTRAST:
        return None
    around = np.maximum(sign * (border - background), 0)
    floor = int(np.quantile(around, 0.9, method="lower")) * 3 // 2
    if height * width > SMALL:
        floor = max(floor, peak // 8)
    ink[ink <= min(floor, peak // 2)] = 0
    rows, columns = ink.any(1).nonzero()[0], ink.any(0).nonzero()[0]
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if max(cut.shape) > PEN_SIDE:
        cut = resize(cut, PEN_SIDE)
    return Prepared(centre(cut, box), sign < 0, count_objects(cut))


def count_objects(ink: np.ndarray) -> int:
    """Count regions (of 8 neighbours) of ink above a quarter of the strongest, from a fifth of the largest region up.

    On 0.5 % of MNIST's test images that is more than one; two of them side by side count as two where a gap shows.
    """
    left = set(map(tuple, np.argwhere(4 * ink > ink.max()).tolist()))
    masses = []
    while left:
        region = [left.pop()]
        for y, x in region:  # grows
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            region += near
        masses.append(sum(int(ink[at]) for at in region))
    return sum(5 * mass >= max(masses) for mass in masses)


def centre(ink: np.ndarray, box: int) -> np.ndarray:
    """Return ink [h, w] without empty margins as 784 pixels: resized to the box, its centre of mass in the middle."""
    small = resize(thicken(ink), box)
    field = np.zeros((SIDE, SIDE), np.uint8)
    y, x = (shift_to_middle(small.sum(axis), small.shape[1 - axis]) for axis in (1, 0))
    field[y : y + small.shape[0], x : x + small.shape[1]] = small
    return field.reshape(-1)


def resize(ink: np.ndarray, side: int) -> np.ndarray:
    """Average ink over the area of each pixel of a picture whose longer side is `side`, scaled to a maximum of 255."""
    h, w = ink.shape
    longer = max(h, w)
    size = [max(1, (2 * side * length + longer) // (2 * longer)) for length in (h, w)]
    sums = overlaps(size[0], h) @ ink @ overlaps(size[1], w).T  # h w times the average
    top = int(sums.max())
    return (2 * 255 * sums + top) // (2 * top)


def overlaps(n: int, m: int) -> np.ndarray:
    """Return [n, m]: the overlap of target pixel i (of n) with source pixel j (of m) on an axis of n m units."""
    low, high = np.arange(n)[:, None] * m, np.arange(1, n + 1)[:, None] * m
    first, last = np.arange(m) * n, np.arange(1, m + 1) * n
    return np.maximum(np.minimum(high, last) - np.maximum(low, first), 0)


def thicken(ink: np.ndarray) -> np.ndarray:
    """Widen ink whose strokes are thinner than MNIST's by a maximum filter; return other ink as it is.

    A stroke of width b and length l has the area b l and an edge of 2 l pixel sides: b is twice their ratio.
    """
    mask = np.pad(ink > 127, 1)
    area = int(mask.sum())
    edge = int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
    wanted = PEN * max(ink.shape)  # in units of 1 / PEN_SIDE
    if edge == 0:
        return ink
    radius = (wanted * edge - 2 * PEN_SIDE * area + PEN_SIDE * edge) // (2 * PEN_SIDE * edge)
    if radius <= 0:
        return ink
    window = (2 * radius + 1, 2 * radius + 1)
    return np.lib.stride_tricks.sliding_window_view(np.pad(ink, 2 * radius), window).max((2, 3))


def shift_to_middle(profile: np.ndarray, size: int) -> int:
    """Return the row (or column) at which a box with this ink per row has its centre of mass nearest to the middle."""
    mass = int(profile.sum())
    moment = int((profile * np.arange(len(profile))).sum())
    shift = (SIDE * mass - 2 * moment + mass) // (2 * mass)
    return min(max(shift, 0), SIDE - size)
