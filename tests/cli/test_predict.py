"""The verb predict."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from snn_mnist.__main__ import main
from snn_mnist.cli.predict import drawn, grey_code, shows_greys
from snn_mnist.data import pictures
from snn_mnist.data.datasets import DIGITS, FASHION
from snn_mnist.network import scoring
from snn_mnist.network.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.network.scoring import Prediction, Reliability, Score
from tests.support.drawings import KINDS, encoded, pixels, stroke
from tests.support.export_net import digits, network, saved


def bomb():
    """A PNG that says it has 100,000 x 100,000 pixels."""
    png = KINDS["grey"]()
    head = png[12:16] + struct.pack(">II", 100_000, 100_000) + png[24:29]
    return png[:12] + head + struct.pack(">I", zlib.crc32(head)) + png[33:]


BAD = {
    "empty": b"",
    "text": b"hello",
    "cut png": KINDS["colour"]()[:200],
    "cut jpeg": encoded(Image.fromarray(stroke()), "JPEG")[:1000],
    "tiff": encoded(Image.fromarray(stroke()), "TIFF"),
    "bomb": bomb(),
    "blank": encoded(Image.new("L", (40, 40), 255)),
}


@pytest.mark.parametrize("kind", [*BAD, "directory"])
def test_a_bad_file_is_one_line_and_the_others_are_answered(tmp_path, capsys, kind):
    bad, good = tmp_path / "bad.png", tmp_path / "good.png"
    good.write_bytes(KINDS["grey"]())
    if kind == "directory":
        bad.mkdir()
    else:
        bad.write_bytes(BAD[kind])
    code = main(["predict", str(bad), str(good), "-resume", str(saved(tmp_path).path), "-no-show"])
    assert code == (2 if kind == "directory" else 1)
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if not line.startswith("snn_mnist: compil")]  # once, if at all
    assert len(errors) == 1 and errors[0].startswith(f"snn_mnist predict: error: {bad} ")
    assert f"\n{good}: " in shown.out and str(bad) not in shown.out


def test_a_missing_file_is_an_error_before_anything_is_loaded(tmp_path, capsys):
    (tmp_path / "empty.pth").touch()
    assert main(["predict", "-", "no.png", "none/", "-resume", str(tmp_path / "empty.pth")]) == 2
    assert "there is no no.png, none/; name picture files" in capsys.readouterr().err


# ---------------------------------------------------------------------------- the prediction


def predict(capsys, *arguments) -> dict:
    assert main(["predict", *map(str, arguments), "-json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_digits_of_the_test_set_are_recognised_as_files(tmp_path, capsys):
    images, labels = digits().test.images[:40].view(-1, 28, 28).numpy(), digits().test.labels[:40].tolist()
    files = [str(tmp_path / f"{i}.png") for i in range(40)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).resize((150, 150), Image.Resampling.BICUBIC).save(file)
    found = predict(capsys, *files, "-resume", saved(tmp_path, T=100).path)["pictures"]
    assert [each["file"] for each in found] == files
    assert {(each["width"], each["height"], each["dark_on_light"]) for each in found} == {(150, 150, False)}
    assert sum(each["verdict"] == label for each, label in zip(found, labels, strict=True)) >= 32
    for each in found:
        first, second, *_ = sorted(each["rates"], reverse=True)
        assert each["margin"] == pytest.approx(first - second)
        assert each["rates"][each["verdict"]] == first and each["rates"][each["runner_up"]] == second


def test_rates_are_those_of_stream_predict_and_depend_on_the_picture_alone(tmp_path, capsys):
    loaded = saved(tmp_path, T=40)
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    a.write_bytes(KINDS["grey"]())
    Image.fromarray(digits().test.images[3].view(28, 28).numpy()).save(b)

    def rates(*files, seed=7):
        found = predict(capsys, *files, "-resume", loaded.path, "-seed", seed, "-T", 50, "-tau", 3)
        return {each["file"]: each["rates"] for each in found["pictures"]}

    alone, both = rates(a), rates(b, a)
    assert alone[str(a)] == both[str(a)] and rates(a, seed=8) != alone
    image = torch.from_numpy(pictures.prepare(stroke(), pictures.BOXES["digits"]).pixels)[None]
    spikes = poisson_encode(image, torch.tensor([0]), 0, 50, SpikeKey(7, Stream.PREDICT, 0))
    with torch.no_grad():
        assert alone[str(a)] == pytest.approx(network(T=50, tau=3, step_mode="m").net(spikes).mean(0)[0].tolist())


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
    assert prediction(rates).sentence(DIGITS) == words
    votes = Prediction(prediction(rates).rates, [[0.0]])
    assert votes.sentence(DIGITS) == words.replace("other neuron", "other class")


@pytest.mark.parametrize("code", ["poisson", "constant", "latency"])
def test_a_class_has_the_mean_rate_of_its_neurons(tmp_path, capsys, code):
    loaded = saved(tmp_path, T=16, votes=3, encoding=code, v_threshold=0.3, neuron="if")
    Image.fromarray(digits().test.images[3].view(28, 28).numpy()).resize((90, 90)).save(tmp_path / "a.png")
    found = predict(capsys, tmp_path / "a.png", "-resume", loaded.path)
    (each,) = found["pictures"]
    rates = torch.tensor(each["neuron_rates"], dtype=torch.float64)
    assert rates.shape == (10, 3) and rates.any() and each["rates"] == pytest.approx(rates.mean(1).tolist())
    assert each["verdict"] == rates.mean(1).argmax() and 0 < found["limits"]["rate"] <= 1


def prediction(rates: dict[int, float]) -> Prediction:
    return Prediction([rates.get(c, 0.0) for c in range(10)])


# ---------------------------------------------------------------------------- doubts

LIMITS = Reliability(margin=0.44, rate=0.21, right=0.097, wrong=0.731)


@pytest.mark.parametrize(
    ("rates", "objects", "limits", "names"),
    [
        ({3: 0.53, 8: 0.09}, 1, LIMITS, []),  # the margin is the limit
        ({3: 0.53, 8: 0.10}, 1, LIMITS, ["low margin"]),
        ({3: 0.53, 8: 0.10}, 2, LIMITS, ["several objects", "low margin"]),
        ({3: 0.53, 8: 0.10}, 2, None, ["several objects"]),
        ({3: 0.20}, 1, LIMITS, ["nearly silent"]),
        ({3: 0.21}, 1, LIMITS, ["low margin"]),
        ({}, 1, LIMITS, []),  # the sentence says that no neuron fired
    ],
)
def test_when_a_prediction_is_doubtful(rates, objects, limits, names):
    found = scoring.doubts(prediction(rates), objects, limits)
    assert [*found] == names
    if "low margin" in names and 8 in rates:
        assert all(part in found["low margin"] for part in ("0.43 is below 0.44", " 10 % of", " 73 % of the wrong"))


def score(rows):
    """Images of label 0 at T = 100, from (output spikes of neuron 0, of neuron 1)."""
    counts = torch.zeros(len(rows), 1, 10)
    counts[:, 0, :2] = torch.tensor(rows, dtype=torch.float32)
    return Score([100], counts, torch.zeros(len(rows), dtype=torch.int64), torch.zeros(len(rows), dtype=torch.int64))


def test_limits_are_quantiles_of_the_images_read_right():
    """Twenty read right have margins 10 ... 29 and rates 50 ... 69; of five read wrong two have a margin below 12."""
    right = [(50 + i, 40) for i in range(20)]
    wrong = [(30, 31), (30, 41), (30, 42), (30, 90), (0, 0)]  # margins 1, 11, 12, 60; silent
    found = scoring.reliability_of(score(right + wrong))
    assert found.margin == pytest.approx(0.12) and found.rate == pytest.approx(0.50)
    assert found.right == pytest.approx(2 / 20) and found.wrong == pytest.approx(4 / 5)  # 0.31, 0.41, 0.42, silence
    assert scoring.reliability_of(score(right)).wrong is None and scoring.reliability_of(score(wrong)) is None


def test_limits_are_measured_on_the_checkpoints_own_test_images(tmp_path, capsys):
    """The rates of the verb's own encoding, computed by the reference; doubts of a directory of its pictures."""
    loaded, folder, test = saved(tmp_path, T=40, seed=3), tmp_path / "pictures", digits().test
    folder.mkdir()
    for i in range(0, 360, 9):
        Image.fromarray(test.images[i].view(28, 28).numpy()).save(folder / f"{i:03}.png")
    found = predict(capsys, folder, "-resume", loaded.path)
    spikes = poisson_encode(test.images, torch.arange(360), 0, 40, SpikeKey(3, Stream.EVAL, 0))
    with torch.no_grad():
        counts = network(T=40, step_mode="m").net(spikes).sum(0)
    expected = scoring.reliability_of(Score([40], counts[:, None], torch.zeros(360), test.labels))
    limits = found["limits"]
    assert limits == pytest.approx(vars(expected), abs=0.01) and 0.05 < limits["right"] <= 0.11 < 0.3 < limits["wrong"]
    assert any(each["doubts"] for each in found["pictures"])
    for each in found["pictures"]:
        low = each["margin"] < limits["margin"] - 1e-6
        assert ("low margin" in each["doubts"] or "nearly silent" in each["doubts"]) == low


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
    folder = tmp_path / "scans"
    (folder / "inner.png").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "c.webp", "notes.txt"):
        (folder / name).write_bytes(KINDS["grey"]())
    assert main(["predict", str(folder), "-resume", str(saved(tmp_path, T=20).path), "-no-show"]) == 2
    shown = capsys.readouterr()
    answered = [line.split(":")[0] for line in shown.out.splitlines() if "rate" in line]
    assert answered == [str(folder / name) for name in ("a.jpg", "b.PNG", "c.webp")]
    assert f"error: {folder / 'inner.png'} can't be read" in shown.err and "notes" not in shown.err


def test_a_picture_from_standard_input(tmp_path, capsys, monkeypatch):
    """It is shown in plain characters, as standard output is no terminal, under the checkpoint that answers."""
    path = str(saved(tmp_path, T=20).path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(KINDS["colour"]())))
    assert main(["predict", "-", "-resume", path, "-save", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "\nstandard input (400 x 300 pixels, dark on light)\n" in shown and "@@@@" in shown and shown.isascii()
    assert shown.startswith(path) and "trained on digits" in shown
    assert (tmp_path / "out" / "stdin_28x28.png").exists()


def test_the_prepared_picture_is_saved_and_nothing_is_overwritten(tmp_path, capsys):
    for folder, grey in (("x", stroke()), ("y", np.rot90(stroke()))):
        (tmp_path / folder).mkdir()
        Image.fromarray(grey).save(tmp_path / folder / "a.png")
    out, files = tmp_path / "out", [tmp_path / "x" / "a.png", tmp_path / "y" / "a.png"]
    for _ in range(2):  # the second time the same files are there
        found = predict(capsys, *files, "-resume", saved(tmp_path, T=20).path, "-save", out)["pictures"]
        assert [each["saved"] for each in found] == [str(out / "a_28x28.png"), str(out / "a_28x28-2.png")]
    assert sorted(os.listdir(out)) == ["a_28x28-2.png", "a_28x28.png"]
    for name, grey in (("a_28x28.png", stroke()), ("a_28x28-2.png", np.rot90(stroke()))):
        expected = pictures.prepare(grey, pictures.BOXES["digits"]).pixels.reshape(28, 28)
        assert np.array_equal(np.asarray(Image.open(out / name)), expected)


# ---------------------------------------------------------------------------- the terminal


def test_plain_text():
    """Ten levels of ink, the mean of two rows each; 28 characters for a rate of 1, to the nearest."""
    shown = drawn(pixels(stroke()).reshape(-1), prediction({7: 0.875, 8: 0.3}), DIGITS, greys=False)
    rows = shown.split("\n")
    assert shown.isascii() and len(rows) == 14
    assert rows[8].endswith(" 7 0.88 " + "#" * 24 + " <") and rows[9].endswith(" 8 0.30 " + "#" * 8)
    for row, mean in zip(rows, pixels(stroke()).reshape(14, 2, 28).mean(1), strict=True):
        assert row.ljust(30)[2:30] == "".join(" .:-=+*#%@"[int(level * 10 / 255.5)] for level in mean)
    widest = drawn(pixels(stroke()).reshape(-1), Prediction([1.0] * 10), FASHION, greys=False)
    assert max(map(len, widest.split("\n"))) == 80


def test_greys():
    """Each half block has the greys of its two pixels; a tie marks the lower class."""
    field = pixels(stroke())
    rows = drawn(field.reshape(-1), prediction({0: 0.5, 1: 0.5}), DIGITS, greys=True).split("\n")
    for (upper, lower), row in zip(field.reshape(14, 2, 28), rows, strict=True):
        cells = re.findall(r"38;5;(\d+);48;5;(\d+)m▀", row)
        assert cells == [(str(grey_code(a)), str(grey_code(b))) for a, b in zip(upper, lower, strict=True)]
    assert rows[1].endswith("0 0.50 " + "█" * 14 + " ◀") and rows[2].endswith("█" * 14)
    assert {grey_code(level) for level in range(256)} == {16, 231, *range(232, 256)}
    assert [grey_code(level) for level in (0, 128, 255)] == [16, 243, 231]


@pytest.mark.parametrize(
    ("encoding", "terminal", "expected"),
    [("utf-8", "xterm-256color", True), ("utf-8", "dumb", False), ("latin-1", "xterm", False)],
)
def test_the_terminal_is_asked_what_it_can_show(monkeypatch, encoding, terminal, expected):
    stream = type("Stream", (io.StringIO,), {"encoding": encoding, "isatty": lambda self: True})()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setattr("sys.stdout", stream)
    assert shows_greys() == expected
