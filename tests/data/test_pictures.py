"""Pictures prepared as MNIST's were."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from snn_mnist.data import pictures
from snn_mnist.data.datasets import load_dataset
from tests.support.drawings import KINDS, pixels, stroke

# ---------------------------------------------------------------------------- preparation


def test_mnists_own_images_stay_as_they_are(real_mnist: Path):
    images = load_dataset("mnist", real_mnist).test.images[:1000].numpy()
    changed = [np.abs(pixels(image.reshape(28, 28)) - image.reshape(28, 28)).max() for image in images]
    assert max(changed) <= 3  # its strongest ink becomes 255


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.2, 0.9]))
def test_any_ink_becomes_a_centred_box(height, width, seed, density):
    random = np.random.default_rng(seed)
    grey = np.zeros((height + 6, width + 6), np.uint8)
    grey[3:-3, 3:-3] = random.integers(40, 256, (height, width)) * (random.random((height, width)) < density)
    prepared = pictures.prepare(grey)
    if prepared is None:
        assert grey.max() < pictures.MIN_CONTRAST
        return
    field = prepared.pixels.reshape(28, 28).astype(int)
    assert field.max() == 255
    rows, columns = field.any(1).nonzero()[0], field.any(0).nonzero()[0]
    assert np.ptp(rows) < 20 and np.ptp(columns) < 20
    if density == 0.9 and min(height, width) > 5:
        assert max(np.ptp(rows), np.ptp(columns)) == 19
    for axis, span in ((0, rows), (1, columns)):
        centre = (field.sum(1 - axis) * np.arange(28)).sum() / field.sum()
        assert 13.5 <= centre <= 14.5 or span[0] <= 1 or span[-1] >= 26  # or it would leave the field


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_resizing_is_the_exact_average_over_each_pixels_area(h, w, side, seed):
    ink = np.random.default_rng(seed).integers(0, 256, (h, w))
    ink[0, 0] = 255
    longer = max(h, w)
    n, m = (max(1, int(Fraction(side * length, longer) + Fraction(1, 2))) for length in (h, w))
    exact = [[Fraction(0)] * m for _ in range(n)]
    for i in range(n):
        for j in range(m):
            for y in range(h):
                for x in range(w):
                    tall = min(Fraction(i + 1, n), Fraction(y + 1, h)) - max(Fraction(i, n), Fraction(y, h))
                    wide = min(Fraction(j + 1, m), Fraction(x + 1, w)) - max(Fraction(j, m), Fraction(x, w))
                    if tall > 0 and wide > 0:
                        exact[i][j] += tall * wide * int(ink[y, x])
    small = pictures.resize(ink, side)
    assert small.shape == (n, m)
    top = max(max(row) for row in exact)
    assert small.tolist() == [[int(255 * x / top + Fraction(1, 2)) for x in row] for row in exact]


def test_place_polarity_and_contrast_do_not_matter():
    reference = pixels(stroke())
    for grey in (
        stroke(700, 500, (500, 30)),
        255 - stroke(),
        (stroke() // 3).astype(np.uint8),
        (200 - stroke() // 2).astype(np.uint8),
    ):
        np.testing.assert_array_equal(pixels(grey), reference)
    assert pictures.prepare(255 - stroke()).dark_on_light and not pictures.prepare(stroke()).dark_on_light


def test_a_thin_pen_is_widened_and_a_thick_one_is_not():
    thin, usual, thick = (pixels(stroke(pen=pen)).sum() for pen in (2, 18, 40))
    assert 0.6 < thin / usual < 1.2
    assert thick > 1.5 * usual
    ink = stroke(200, 200, (20, 20), (80, 48), 10).astype(np.int64)[20:100, 20:68]
    assert pictures.thicken(ink) is ink
    wide = pictures.thicken(stroke(200, 200, (20, 20), (80, 48), 2).astype(np.int64)[20:100, 20:68])
    assert wide.shape == (84, 52) and wide[0, 0] == 255  # two pixels on every side


def test_a_photograph_of_a_ballpoint_digit():
    """Lighting that falls off, noise, JPEG: the same digit comes out."""
    random = np.random.default_rng(0)
    ink = stroke(1200, 1600, (300, 500), (600, 360), 30) / 255
    y, x = np.mgrid[0:1:1200j, 0:1:1600j]
    paper = 210 - 50 * x - 30 * y
    photo = paper * (1 - 0.7 * ink) + random.normal(0, 5, ink.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(photo, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=60)
    with Image.open(file) as image:
        seen = pixels(pictures.to_grey(image))
    clean = pixels(stroke(1200, 1600, (300, 500), (600, 360), 30))
    assert np.abs(seen - clean).mean() < 12
    assert ((seen > 128) == (clean > 128)).mean() > 0.97


@pytest.mark.parametrize("grey", [np.full((50, 60), 200), np.zeros((1, 1)), np.full((30, 30), 100)], ids=str)
def test_an_empty_picture_has_no_digit(grey):
    grey = grey.astype(np.uint8)
    if grey.size > 1:
        grey[5, 5] += pictures.MIN_CONTRAST - 1
    assert pictures.prepare(grey) is None


# ---------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_gives_the_same_pixels(tmp_path, kind):
    path = tmp_path / "digit.png"
    path.write_bytes(KINDS[kind]())
    picture = pictures.read(path)
    np.testing.assert_array_equal(pixels(picture.grey), pixels(stroke()))
    assert (picture.width, picture.height) == (400, 300)


@pytest.mark.parametrize(("ink", "ground", "channel"), [
    ((255, 255, 0), (255, 255, 255), 2),  # yellow on white: luma 226 of 255, no blue
    ((0, 0, 255), (97, 0, 0), 2),
    ((0, 150, 0), (150, 73, 0), 0),  # luma 88 both; in red 150 apart, in green 77
    ((0, 0, 160), (230, 230, 220), None),
    ((255, 0, 0), (255, 255, 255), None),  # 179 apart in luma, 255 in green
    ((72, 0, 0), (0, 37, 0), None),  # luma 22 both; 72 in red is not above 3 · 24
    ((73, 0, 0), (0, 37, 0), 0),
])  # fmt: skip
def test_a_colour_channel_is_taken_where_luma_shows_little(ink, ground, channel):
    share = stroke()[..., None] / 255
    picture = Image.fromarray((share * np.array(ink) + (1 - share) * ground).round().astype(np.uint8))
    levels = picture.convert("L") if channel is None else picture.getchannel(channel)
    assert np.array_equal(pictures.to_grey(picture), np.asarray(levels))


def test_lighting_becomes_even_by_the_surface_through_the_corners():
    """A ramp from 100 to 210 over 111 columns: flat at the mean of its corners between their centres."""
    ramp = np.tile(np.arange(100, 211, dtype=np.uint8), (60, 1))
    even = pictures.even_lighting(ramp)
    left, right = np.median(ramp[:, :18]), np.median(ramp[:, -18:])
    inside = even[:, 10:-10]
    assert np.abs(inside - (left + right) / 2).max() <= 2
    assert np.array_equal(pictures.even_lighting(ramp // 20), ramp // 20)  # 5 levels: nothing to correct


# ---------------------------------------------------------------------------- objects


def two(second: int, gap: int) -> np.ndarray:
    """A block of 20 x 20 and `gap` columns beside it one of 20 x `second`."""
    grey = np.zeros((40, 100), np.uint8)
    grey[10:30, 10:30] = 200
    grey[10:30, 30 + gap : 30 + gap + second] = 200
    return grey


@pytest.mark.parametrize(("second", "gap", "objects"), [
    (20, 1, 2), (20, 0, 1),
    (4, 5, 2), (3, 5, 1),  # 80 of 400 is a fifth
])  # fmt: skip
def test_separate_objects_are_counted(second, gap, objects):
    assert pictures.prepare(two(second, gap)).objects == objects


def test_corners_that_touch_connect_and_faint_ink_does_not():
    grey = np.zeros((40, 40), np.uint8)
    grey[10:20, 10:20] = grey[20:30, 20:30] = 200
    assert pictures.prepare(grey).objects == 1
    grey[20:30, 20:30] = 0
    grey[10:20, 25:35] = 200
    grey[12:14, 20:25] = 50  # a quarter of the strongest connects nothing
    assert pictures.prepare(grey).objects == 2
    grey[12:14, 20:25] = 51
    assert pictures.prepare(grey).objects == 1


@pytest.mark.parametrize(("side", "reduced"), [(399, 399), (400, 400), (401, 201), (800, 400), (801, 267)])
def test_a_large_picture_is_reduced_to_400_pixels_at_most(tmp_path, side, reduced):
    """By a whole number: 401 pixels by 2, 801 by 3; whichever side is longer."""
    for size in ((side, 30), (30, side)):
        Image.new("L", size, 77).save(tmp_path / "large.png")
        picture = pictures.read(tmp_path / "large.png")
        grey = picture.grey
        assert (picture.width, picture.height) == size, "of the file, not of the reduced picture"
        assert max(grey.shape) == reduced and (grey == 77).all()
        assert (grey.shape[0] > grey.shape[1]) == (size[1] > size[0])


@pytest.mark.parametrize(("side", "faintest"), [(33, 21), (40, 21), (32, 1)])
def test_faint_ink_counts_from_an_eighth_of_the_strongest_in_a_large_picture(side, faintest):
    """Beside a stroke of 160 grey levels, ink up to 160 / 8 = 20 is noise; up to 32 x 32 pixels all is ink."""

    def prepared(faint: int) -> list[int]:
        grey = np.full((side, side), 200, np.uint8)
        grey[8:24, 8:11] = 40
        grey[8:24, 20:23] = 200 - faint
        return pictures.prepare(grey).pixels.tolist()

    assert prepared(faintest - 1) == prepared(0) != prepared(faintest)
