"""Pictures prepared as MNIST's were, and the verb predict."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from snn_mnist.cli import predict
from snn_mnist.cli.main import main
from snn_mnist.cli.predict import Prediction, Terminal
from snn_mnist.data import pictures as picture
from snn_mnist.data.datasets import DIGITS, load_dataset
from snn_mnist.errors import SNNError
from snn_mnist.model.poisson import SpikeKey, Stream, poisson_encode
from tests.support.export_net import digits, network, saved


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
    prepared = picture.prepare(grey)
    assert prepared is not None
    return prepared.pixels.reshape(28, 28).astype(int)


# ---------------------------------------------------------------------------- preparation


@pytest.mark.skipif(
    not os.path.isdir(os.path.join(os.environ.get("SNN_MNIST_DATA", "data"), "MNIST", "raw")),
    reason="MNIST is not here; SNN_MNIST_DATA names the directory above MNIST/raw",
)
def test_mnists_own_images_stay_as_they_are():
    images = load_dataset("mnist", os.environ.get("SNN_MNIST_DATA", "data")).test.images[:1000].numpy()
    changed = [np.abs(pixels(image.reshape(28, 28)) - image.reshape(28, 28)).max() for image in images]
    assert max(changed) <= 3  # its strongest ink becomes 255


def test_the_digit_fills_a_box_of_20_with_its_mass_in_the_middle():
    field = pixels(stroke())
    rows, columns = field.any(1).nonzero()[0], field.any(0).nonzero()[0]
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    assert field.max() == 255
    for axis in (0, 1):
        centre = (field.sum(1 - axis) * np.arange(28)).sum() / field.sum()
        assert 13.5 <= centre <= 14.5


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.2, 0.9]))
def test_any_ink_becomes_a_centred_box(height, width, seed, density):
    random = np.random.default_rng(seed)
    grey = np.zeros((height + 6, width + 6), np.uint8)
    grey[3:-3, 3:-3] = random.integers(40, 256, (height, width)) * (random.random((height, width)) < density)
    prepared = picture.prepare(grey)
    if prepared is None:
        assert grey.max() < picture.MIN_CONTRAST
        return
    field = prepared.pixels.reshape(28, 28).astype(int)
    assert field.max() == 255
    rows, columns = field.any(1).nonzero()[0], field.any(0).nonzero()[0]
    assert np.ptp(rows) < 20 and np.ptp(columns) < 20
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
    small = picture._resized(ink, side)
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
    assert picture.prepare(255 - stroke()).dark_on_light and not picture.prepare(stroke()).dark_on_light


def test_size_hardly_matters():
    small, large = pixels(stroke(100, 100, (20, 20), (50, 30), 8)), pixels(stroke(900, 900, (80, 80), (500, 300), 80))
    assert np.abs(small - large).mean() < 6


def test_a_thin_pen_is_widened_and_a_thick_one_is_not():
    thin, usual, thick = (pixels(stroke(pen=pen)).sum() for pen in (2, 18, 40))
    assert 0.6 < thin / usual < 1.2
    assert thick > 1.5 * usual
    ink = stroke(200, 200, (20, 20), (80, 48), 10).astype(np.int64)[20:100, 20:68]
    assert picture._thickened(ink) is ink
    wide = picture._thickened(stroke(200, 200, (20, 20), (80, 48), 2).astype(np.int64)[20:100, 20:68])
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
        seen = pixels(picture._grey(image))
    clean = pixels(stroke(1200, 1600, (300, 500), (600, 360), 30))
    assert np.abs(seen - clean).mean() < 12
    assert ((seen > 128) == (clean > 128)).mean() > 0.97


@pytest.mark.parametrize("grey", [np.full((50, 60), 200), np.zeros((1, 1)), np.full((30, 30), 100)], ids=str)
def test_an_empty_picture_has_no_digit(grey):
    grey = grey.astype(np.uint8)
    if grey.size > 1:
        grey[5, 5] += picture.MIN_CONTRAST - 1
    assert picture.prepare(grey) is None


@pytest.mark.parametrize("shape", [(1, 60), (60, 1), (2, 2), (3, 300)])
def test_odd_shapes_are_prepared(shape):
    grey = np.zeros(shape, np.uint8)
    grey[shape[0] // 2, shape[1] // 2] = 255
    assert pixels(grey).max() == 255


# ---------------------------------------------------------------------------- files


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


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_png_gives_the_same_pixels(tmp_path, kind):
    path = tmp_path / "digit.png"
    path.write_bytes(KINDS[kind]())
    np.testing.assert_array_equal(pixels(picture.read(path)), pixels(stroke()))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_gives_nearly_the_same_pixels(tmp_path, mode):
    path = tmp_path / "digit.jpg"
    path.write_bytes(encoded(Image.fromarray(255 - stroke()).convert(mode), "JPEG", quality=90))
    assert np.abs(pixels(picture.read(path)) - pixels(stroke())).mean() < 3


def bomb():
    """A PNG that says it has 100,000 x 100,000 pixels."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


BAD = {
    "empty": b"",
    "text": b"hello",
    "cut png": KINDS["colour"]()[:200],
    "cut jpeg": encoded(Image.fromarray(stroke()), "JPEG")[:1000],
    "tiff": encoded(Image.fromarray(stroke()), "TIFF"),
    "bomb": bomb(),
    "blank": encoded(Image.new("L", (40, 40), 255)),
}


@pytest.mark.parametrize("kind", [*BAD, "missing", "directory"])
def test_a_bad_file_is_one_line_and_the_others_are_answered(tmp_path, capsys, kind):
    loaded = saved(tmp_path)
    bad, good = tmp_path / "bad.png", tmp_path / "good.png"
    good.write_bytes(KINDS["grey"]())
    if kind == "directory":
        bad.mkdir()
    elif kind != "missing":
        bad.write_bytes(BAD[kind])
    assert main(["predict", str(bad), str(good), "-resume", str(loaded.path), "-no-show"]) == 1
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and shown.err.startswith(f"snn_mnist: error: {bad} ")
    assert shown.out.count("\n") == 1 and shown.out.startswith(f"{good} (400 x 300, light on dark): ")


# ---------------------------------------------------------------------------- the verdict


def test_the_digits_of_the_test_set_are_recognised_as_files(tmp_path, capsys):
    loaded = saved(tmp_path, T=100)
    files, labels = [], digits().test.labels[:40].tolist()
    for i, image in enumerate(digits().test.images[:40]):
        grey = Image.fromarray(image.view(28, 28).numpy()).resize((150, 150), Image.Resampling.BICUBIC)
        files.append(str(tmp_path / f"{i}.png"))
        grey.save(files[-1])
    assert main(["predict", *files, "-resume", str(loaded.path), "-json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["file"] for each in told["pictures"]] == files
    assert sum(each["verdict"] == label for each, label in zip(told["pictures"], labels, strict=True)) >= 32
    for each in told["pictures"]:
        first, second, *_ = sorted(each["rates"], reverse=True)
        assert each["margin"] == pytest.approx(first - second)


def test_rates_are_those_of_stream_predict_and_depend_on_the_picture_alone(tmp_path, capsys):
    loaded = saved(tmp_path, T=50)
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    a.write_bytes(KINDS["grey"]())
    Image.fromarray(digits().test.images[3].view(28, 28).numpy()).save(b)

    def rates(*files, seed="7"):
        flags = ["-resume", str(loaded.path), "-seed", seed, "-json", "-"]
        assert main(["predict", *map(str, files), *flags]) == 0
        return {each["file"]: each["rates"] for each in json.loads(capsys.readouterr().out)["pictures"]}

    alone, both = rates(a), rates(b, a)
    assert alone[str(a)] == both[str(a)]
    assert rates(a, seed="8") != alone
    image = torch.from_numpy(picture.prepare(stroke(), picture.BOXES["digits"]).pixels)[None]
    spikes = poisson_encode(image, torch.tensor([0]), 0, 50, SpikeKey(7, Stream.PREDICT, 0))
    net = network(T=50, step_mode="m").net
    with torch.no_grad():
        expected = net(spikes).mean(0)[0]
    assert alone[str(a)] == pytest.approx(expected.tolist())


def test_flags_override_the_checkpoint(tmp_path, capsys):
    loaded = saved(tmp_path, T=50)
    path = tmp_path / "a.png"
    path.write_bytes(KINDS["grey"]())
    out = tmp_path / "out.json"
    flags = ["-resume", str(loaded.path), "-T", "20", "-tau", "3", "-json", str(out)]
    assert main(["predict", str(path), *flags]) == 0
    told = json.loads(out.read_text())
    assert (told["T"], told["tau"]) == (20, 3.0)
    assert all(20 * rate == pytest.approx(round(20 * rate)) for rate in told["pictures"][0]["rates"])
    assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({3: 0.5, 8: 0.25}, "3  (rate 0.50, margin 0.25; next 8 with 0.25)"),
        ({3: 0.5}, "3  (rate 0.50, margin 0.50; no other neuron fired)"),
        ({4: 0.5, 9: 0.5}, "undecided between 4 and 9 (rate 0.50 both)"),
        ({}, "no verdict: no neuron fired; try a larger -T"),
    ],
)
def test_the_sentence(rates, words):
    assert Prediction([rates.get(c, 0.0) for c in range(10)]).sentence(DIGITS) == words


# ---------------------------------------------------------------------------- the terminal

ASCII, BLOCKS, COLOURS = Terminal(False, False), Terminal(True, False), Terminal(True, True)


def text(screen):
    prepared = picture.prepare(stroke())
    prediction = Prediction([0.0] * 7 + [0.875, 0.3, 0.0])
    return "\n".join(predict.lines("seven.png", prepared, prediction, DIGITS, True, screen))


def test_a_plain_terminal_gets_ascii():
    shown = text(ASCII)
    assert shown.isascii()
    assert " 7 0.88 " + "#" * 35 + " <" in shown
    assert "@@@@" in shown


def test_a_utf8_terminal_gets_half_blocks_and_fine_bars():
    shown = text(BLOCKS)
    assert "█████" in shown and "▀" in shown
    assert " 7 0.88 " + "█" * 35 + " ◀" in shown and " 8 0.30 " + "█" * 12 in shown
    rows = predict.thumbnail(picture.prepare(stroke()).pixels, BLOCKS)
    assert len(rows) == 14 and {len(row) for row in rows} == {28}
    field = pixels(stroke()) > 100
    for y, row in enumerate(rows):
        for x, block in enumerate(row):
            assert (field[2 * y, x], field[2 * y + 1, x]) == {
                " ": (False, False), "▀": (True, False), "▄": (False, True), "█": (True, True)
            }[block]  # fmt: skip


def test_a_colour_terminal_gets_greys():
    shown = text(COLOURS)
    assert shown.count("\x1b[0m") == 14
    assert {predict._grey(level) for level in range(256)} == {16, 231, *range(232, 256)}
    assert [predict._grey(level) for level in (0, 128, 255)] == [16, 243, 231]


def test_the_terminal_is_asked_what_it_can_show(monkeypatch):
    class Stream(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("sys.stdout", Stream())
    assert predict.terminal() == COLOURS
    monkeypatch.setenv("NO_COLOR", "1")
    assert predict.terminal() == BLOCKS
    Stream.encoding = "latin-1"
    assert not predict.terminal().unicode


def test_a_picture_without_contrast_names_the_remedy(tmp_path):
    with pytest.raises(SNNError, match=r"PNG, JPEG, GIF, WebP or BMP file$"):
        picture.read(tmp_path / "none.png")
