"""The verb predict."""

from __future__ import annotations

import io
import json
import struct
import zlib

import pytest
import torch
from PIL import Image

from snn_mnist.cli import predict
from snn_mnist.cli.main import main
from snn_mnist.cli.predict import Prediction, Terminal
from snn_mnist.data import pictures
from snn_mnist.data.datasets import DIGITS, FASHION
from snn_mnist.model.poisson import SpikeKey, Stream, poisson_encode
from tests.support.drawings import KINDS, encoded, pixels, stroke
from tests.support.export_net import digits, network, saved


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
    errors = [line for line in shown.err.splitlines() if not line.startswith("snn_mnist: compil")]  # once, if at all
    assert len(errors) == 1 and errors[0].startswith(f"snn_mnist predict: error: {bad} ")
    assert shown.out.count("\n") == 1 and shown.out.startswith(f"{good} (400 x 300, light on dark): ")


# ---------------------------------------------------------------------------- the prediction


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
    image = torch.from_numpy(pictures.prepare(stroke(), pictures.BOXES["digits"]).pixels)[None]
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
        ({}, "no prediction: no neuron fired; try a larger -T"),
    ],
)
def test_the_sentence(rates, words):
    assert Prediction([rates.get(c, 0.0) for c in range(10)]).sentence(DIGITS) == words


def test_the_record_of_a_prediction():
    """Two classes apart from each other and from the number of the picture; nothing is predicted from silence."""
    prepared = pictures.prepare(stroke())
    rates = [0.0, 0.25, 0.0, 0.0, 0.5, 0.0, 0.0, 0.125, 0.0, 0.0]
    assert predict._record("a.png", prepared, Prediction(rates), FASHION) == {
        "file": "a.png", "verdict": 4, "name": "Coat", "runner_up": 1, "margin": 0.25, "rates": rates,
        "dark_on_light": prepared.dark_on_light,
    }  # fmt: skip
    silent = predict._record("a.png", prepared, Prediction([0.0] * 10), DIGITS)
    assert (silent["verdict"], silent["name"], silent["margin"]) == (None, None, 0.0)


# ---------------------------------------------------------------------------- the terminal

ASCII, BLOCKS, COLOURS = Terminal(False, False), Terminal(True, False), Terminal(True, True)


def text(screen):
    prepared = pictures.prepare(stroke())
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
    rows = predict.thumbnail(pictures.prepare(stroke()).pixels, BLOCKS)
    assert len(rows) == 14 and {len(row) for row in rows} == {28}
    field = pixels(stroke()) > 100
    for y, row in enumerate(rows):
        for x, block in enumerate(row):
            assert (field[2 * y, x], field[2 * y + 1, x]) == {
                " ": (False, False), "▀": (True, False), "▄": (False, True), "█": (True, True)
            }[block]  # fmt: skip


def test_bars_end_at_the_nearest_eighth_or_character():
    """40 characters for a rate of 1: 0.2656 is 10.6, ten blocks and five eighths; 0.3 is 12; a tie marks the lower."""
    prediction = Prediction([0.2656, 0.3, 0.0, 0.0125, 1.0, 1.0, *[0.0] * 4])
    fine, plain = (predict.bars(prediction, DIGITS, screen) for screen in (BLOCKS, ASCII))
    assert fine[:6] == [
        "0 0.27 " + "█" * 10 + "▋", "1 0.30 " + "█" * 12, "2 0.00", "3 0.01 ▌", "4 1.00 " + "█" * 40 + " ◀",
        "5 1.00 " + "█" * 40,
    ]  # fmt: skip
    assert plain[:2] == ["0 0.27 " + "#" * 11, "1 0.30 " + "#" * 12] and plain[4] == "4 1.00 " + "#" * 40 + " <"
    assert not any("◀" in row for row in predict.bars(Prediction([0.0] * 10), DIGITS, BLOCKS))


def test_a_colour_terminal_gets_greys():
    shown = text(COLOURS)
    assert shown.count("\x1b[0m") == 14
    assert {predict.grey_code(level) for level in range(256)} == {16, 231, *range(232, 256)}
    assert [predict.grey_code(level) for level in (0, 128, 255)] == [16, 243, 231]


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
