"""The verb predict."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from snn_mnist.cli import predict
from snn_mnist.cli.main import main
from snn_mnist.cli.predict import Doubt, Prediction, Terminal
from snn_mnist.data import pictures
from snn_mnist.data.datasets import DIGITS, FASHION
from snn_mnist.network import reliability
from snn_mnist.network.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.network.reliability import Reliability
from snn_mnist.network.scoring import Score
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
    assert main(["predict", str(bad), str(good), "-resume", str(loaded.path), "-no-show"]) == (
        2 if kind in ("missing", "directory") else 1
    )
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if not line.startswith("snn_mnist: compil")]  # once, if at all
    assert len(errors) == 1 and errors[0].startswith(f"snn_mnist predict: error: {bad} ")
    assert f"\n{good}: " in shown.out and str(bad) not in shown.out


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
    assert {(each["width"], each["height"], each["dark_on_light"]) for each in told["pictures"]} == {(150, 150, False)}
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
    prepared = pictures.prepare(255 - stroke())
    picture = pictures.Picture(stroke(), 800, 600)
    rates = [0.0, 0.25, 0.0, 0.0, 0.5, 0.0, 0.0, 0.125, 0.0, 0.0]
    assert predict._record(picture, prepared, Prediction(rates), FASHION, [Doubt("low margin", "why")]) == {
        "width": 800, "height": 600, "verdict": 4, "name": "Coat", "runner_up": 1, "margin": 0.25, "rates": rates,
        "dark_on_light": True, "objects": 1, "doubts": ["low margin"],
    }  # fmt: skip
    silent = predict._record(picture, prepared, Prediction([0.0] * 10), DIGITS, [])
    assert (silent["verdict"], silent["name"], silent["margin"]) == (None, None, 0.0)


# ---------------------------------------------------------------------------- doubts

LIMITS = Reliability(margin=0.44, rate=0.21, right=0.097, wrong=0.731)


@pytest.mark.parametrize(
    ("rates", "objects", "limits", "names"),
    [
        ({3: 0.53, 8: 0.09}, 1, LIMITS, []),  # the margin is the limit
        ({3: 0.53, 8: 0.10}, 1, LIMITS, ["low margin"]),
        ({3: 0.53, 8: 0.10}, 1, None, []),
        ({3: 0.53, 8: 0.10}, 2, LIMITS, ["several objects", "low margin"]),
        ({3: 0.53, 8: 0.10}, 2, None, ["several objects"]),
        ({3: 0.20}, 1, LIMITS, ["nearly silent"]),
        ({3: 0.21}, 1, LIMITS, ["low margin"]),
        ({}, 1, LIMITS, []),  # the sentence says that no neuron fired
    ],
)
def test_when_a_prediction_is_doubtful(rates, objects, limits, names):
    prediction = Prediction([rates.get(c, 0.0) for c in range(10)])
    assert [doubt.name for doubt in predict.doubts(prediction, objects, limits)] == names


def test_doubts_are_told_with_their_measure_in_80_columns():
    prediction = Prediction([0.53, 0.41, *[0.0] * 8])
    found = predict.doubts(prediction, 2, LIMITS)
    shown = predict.lines("a.png", pictures.prepare(stroke()), prediction, DIGITS, found, ASCII)
    assert shown[1:5] == [
        "0  (rate 0.53, margin 0.12; next 1 with 0.41)",
        "Doubtful: 2 separate objects are seen; give one digit per picture.",
        "Doubtful: the margin 0.12 is below 0.44; as doubtful are 10 % of the test images",
        "read right and 73 % of those read wrong.",
    ]
    assert max(map(len, shown)) <= 80
    assert predict.one_line("a.png", prediction, DIGITS, found) == (
        "a.png: 0  (rate 0.53, margin 0.12; next 1 with 0.41); doubtful: several objects, low margin"
    )
    weak = predict.doubts(Prediction([0.2, *[0.0] * 9]), 1, LIMITS)
    assert weak[0].why == (
        "the network is nearly silent at rate 0.20; 99 % of the test images read right have a rate of 0.21 or more"
    )


def score(rows):
    """Images of label 0 at T = 100, from (output spikes of neuron 0, of neuron 1)."""
    counts = torch.zeros(len(rows), 1, 10)
    counts[:, 0, :2] = torch.tensor(rows, dtype=torch.float32)
    return Score([100], counts, torch.zeros(len(rows), dtype=torch.int64), torch.zeros(len(rows), dtype=torch.int64))


def test_limits_are_quantiles_of_the_images_read_right():
    """Twenty read right have margins 10 ... 29 and rates 50 ... 69; of five read wrong two have a margin below 12."""
    right = [(50 + i, 40) for i in range(20)]
    wrong = [(30, 31), (30, 41), (30, 42), (30, 90), (0, 0)]  # margins 1, 11, 12, 60; silent
    found = reliability.limits(score(right + wrong))
    assert found.margin == pytest.approx(0.12) and found.rate == pytest.approx(0.50)
    assert found.right == pytest.approx(2 / 20) and found.wrong == pytest.approx(4 / 5)  # 0.31, 0.41, 0.42, silence
    assert found.words() == "10 % of the test images read right and 80 % of those read wrong"
    all_right = reliability.limits(score(right))
    assert all_right.wrong is None and all_right.words() == "10 % of the test images read right"
    assert reliability.limits(score(wrong)) is None


def test_limits_are_measured_on_the_checkpoints_own_test_images(tmp_path, capsys):
    """The rates of the verb's own encoding, computed by the reference; doubts of a directory of its pictures."""
    loaded = saved(tmp_path, T=40, seed=3)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(0, 360, 9):
        Image.fromarray(digits().test.images[i].view(28, 28).numpy()).save(folder / f"{i:03}.png")
    assert main(["predict", str(folder), "-resume", str(loaded.path), "-json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    test, net = digits().test, network(T=40, step_mode="m").net
    spikes = poisson_encode(test.images, torch.arange(360), 0, 40, SpikeKey(3, Stream.EVAL, 0))
    with torch.no_grad():
        counts = net(spikes).sum(0)
    expected = reliability.limits(Score([40], counts[:, None], torch.zeros(360), test.labels))
    assert told["limits"] == pytest.approx(vars(expected), abs=0.01)
    loaded.net.spiking.step_mode = "s"
    assert vars(reliability.measure(loaded.net, test, 40, 3)) == pytest.approx(told["limits"])
    assert loaded.net.spiking.step_mode == "s"
    assert 0.05 < told["limits"]["right"] <= 0.11 < 0.3 < told["limits"]["wrong"]
    for each in told["pictures"]:
        low = each["margin"] < told["limits"]["margin"] - 1e-6
        assert ("low margin" in each["doubts"] or "nearly silent" in each["doubts"]) == low
    assert any(each["doubts"] for each in told["pictures"])


def test_without_test_images_a_note_says_that_margins_are_not_judged(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("SNN_MNIST_DATA", raising=False)
    loaded = saved(tmp_path, T=20)
    state = torch.load(loaded.path)
    torch.save(state | {"config": state["config"] | {"dataset": "mnist"}}, loaded.path)
    (tmp_path / "a.png").write_bytes(KINDS["grey"]())
    flags = ["-resume", str(loaded.path), "-data-dir", str(tmp_path / "none"), "-no-show"]
    assert main(["predict", str(tmp_path / "a.png"), *flags]) == 0
    shown = capsys.readouterr()
    assert "note: no test images of mnist in" in shown.err and "doubtful" not in shown.out


# ---------------------------------------------------------------------------- files


def test_a_directory_gives_its_pictures_in_order(tmp_path, capsys):
    loaded = saved(tmp_path, T=20)
    folder = tmp_path / "scans"
    (folder / "inner.png").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "c.webp", "notes.txt"):
        (folder / name).write_bytes(KINDS["grey"]())
    assert main(["predict", str(folder), "-resume", str(loaded.path), "-no-show"]) == 2
    shown = capsys.readouterr()
    answered = [line.split(":")[0] for line in shown.out.splitlines() if "rate" in line]
    assert answered == [str(folder / name) for name in ("a.jpg", "b.PNG", "c.webp")]
    assert f"error: {folder / 'inner.png'} is a directory without PNG" in shown.err and "notes" not in shown.err


def test_a_picture_from_standard_input(tmp_path, monkeypatch, capsys):
    loaded = saved(tmp_path, T=20)
    command = [sys.executable, "-m", "snn_mnist", "predict", "-", "-resume", str(loaded.path), "-save", "out"]
    done = subprocess.run(command, input=KINDS["colour"](), capture_output=True, cwd=tmp_path, env=os.environ | {
        "PYTHONPATH": os.getcwd()
    })  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\nstandard input (400 x 300 pixels, dark on light)\n" in done.stdout.decode()
    assert str(loaded.path) in done.stdout.decode() and "trained on digits" in done.stdout.decode()
    assert (tmp_path / "out" / "stdin_28x28.png").exists()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(["predict", "-", "-resume", str(loaded.path)]) == 1
    assert "error: standard input is not a PNG" in capsys.readouterr().err


def test_the_prepared_picture_is_saved_and_nothing_is_overwritten(tmp_path, capsys):
    loaded = saved(tmp_path, T=20)
    for folder, grey in (("x", stroke()), ("y", np.rot90(stroke()))):
        (tmp_path / folder).mkdir()
        Image.fromarray(grey).save(tmp_path / folder / "a.png")
    out = tmp_path / "out"
    flags = ["-resume", str(loaded.path), "-save", str(out), "-json", "-"]
    files = [str(tmp_path / "x" / "a.png"), str(tmp_path / "y" / "a.png")]
    for _ in range(2):  # the second time the same files are there
        assert main(["predict", *files, *flags]) == 0
        told = json.loads(capsys.readouterr().out)["pictures"]
        assert [each["saved"] for each in told] == [str(out / "a_28x28.png"), str(out / "a_28x28-2.png")]
    assert sorted(os.listdir(out)) == ["a_28x28-2.png", "a_28x28.png"]
    for name, grey in (("a_28x28.png", stroke()), ("a_28x28-2.png", np.rot90(stroke()))):
        expected = pictures.prepare(grey, pictures.BOXES["digits"]).pixels.reshape(28, 28)
        assert np.array_equal(np.asarray(Image.open(out / name)), expected)


# ---------------------------------------------------------------------------- the terminal

ASCII, BLOCKS, COLOURS = Terminal(False, False), Terminal(True, False), Terminal(True, True)


def text(screen):
    prepared = pictures.prepare(stroke())
    prediction = Prediction([0.0] * 7 + [0.875, 0.3, 0.0])
    return "\n".join(predict.lines("seven.png", prepared, prediction, DIGITS, [], screen))


def test_a_plain_terminal_gets_ascii():
    shown = text(ASCII)
    assert shown.isascii()
    assert " 7 0.88 " + "#" * 24 + " <" in shown
    assert "@@@@" in shown


def test_a_utf8_terminal_gets_half_blocks_and_fine_bars():
    shown = text(BLOCKS)
    assert "█████" in shown and "▀" in shown
    assert " 7 0.88 " + "█" * 24 + "▌ ◀" in shown and " 8 0.30 " + "█" * 8 + "▍" in shown
    rows = predict.thumbnail(pictures.prepare(stroke()).pixels, BLOCKS)
    assert len(rows) == 14 and {len(row) for row in rows} == {28}
    field = pixels(stroke()) > 100
    for y, row in enumerate(rows):
        for x, block in enumerate(row):
            assert (field[2 * y, x], field[2 * y + 1, x]) == {
                " ": (False, False), "▀": (True, False), "▄": (False, True), "█": (True, True)
            }[block]  # fmt: skip


def test_bars_end_at_the_nearest_eighth_or_character():
    """28 characters for a rate of 1: 0.2656 is 7.4, seven blocks and three eighths; 0.25: 7; a tie marks the lower."""
    prediction = Prediction([0.2656, 0.25, 0.0, 0.0125, 1.0, 1.0, *[0.0] * 4])
    fine, plain = (predict.bars(prediction, DIGITS, screen) for screen in (BLOCKS, ASCII))
    assert fine[:6] == [
        "0 0.27 " + "█" * 7 + "▍", "1 0.25 " + "█" * 7, "2 0.00", "3 0.01 ▍", "4 1.00 " + "█" * 28 + " ◀",
        "5 1.00 " + "█" * 28,
    ]  # fmt: skip
    assert plain[:2] == ["0 0.27 " + "#" * 7, "1 0.25 " + "#" * 7] and plain[4] == "4 1.00 " + "#" * 28 + " <"
    assert not any("◀" in row for row in predict.bars(Prediction([0.0] * 10), DIGITS, BLOCKS))
    shown = predict.lines("", pictures.prepare(stroke()), Prediction([1.0] * 10), FASHION, [], BLOCKS)
    assert max(map(len, shown)) == 80


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
