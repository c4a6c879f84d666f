"""The report of `eval` from a hand-made asymmetric case: each number that a person reads, with its unit."""

import json
import re

import pytest
import torch

from snn_mnist.cli.evaluate import EvalOptions, describe, run, summarise
from snn_mnist.cli.results import spread
from snn_mnist.data.datasets import DIGITS, FASHION, Dataset, Split
from snn_mnist.network import scoring
from snn_mnist.network.scoring import Score
from tests.support.export_net import saved

LABELS = torch.tensor([3, 3, 7, 0])


def encoding(*winners: int) -> Score:
    """Four images at T = 5 and 10: the winner of each fires 4 times in 10 steps, class 9 twice, all after step 5."""
    counts = torch.zeros(4, 2, 10)
    counts[:, 1, 9] = 2
    for image, winner in enumerate(winners):
        counts[image, 1, winner] = 4
    return Score([5, 10], counts, torch.tensor([10, 20, 30, 40]), LABELS)


@pytest.fixture
def result():
    data = Dataset("digits", Split(torch.zeros(1, 784), torch.zeros(1)), Split(torch.zeros(4, 784), LABELS), DIGITS)
    scores = [encoding(3, 3, 7, 0), encoding(3, 5, 7, 0), encoding(3, 5, 3, 0)]  # 4, 3 and 2 of 4 right
    found = summarise(scores, data)
    return found | {
        "checkpoint": "c.pth", "epochs": 5, "dataset": "digits", "trained_on": "digits", "images_per_s": 9,
    }  # fmt: skip


def test_accuracy_is_the_mean_and_the_sample_deviation(result):
    """1, 3/4, 1/2: mean 3/4, deviation with n - 1: sqrt((1/16 + 0 + 1/16) / 2) = 1/4."""
    assert (result["accuracy"]["mean"], result["accuracy"]["std"]) == (pytest.approx(0.75), pytest.approx(0.25))
    assert result["accuracy"]["values"] == [1.0, 0.75, 0.5]


def test_standard_error_of_a_finite_test_set(result):
    """sqrt(p (1 - p) / n) with p = 3/4 and n = 4 images."""
    assert result["standard_error"] == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_loss(result):
    """Right: 0.6² + 0.2² = 0.40; wrong: 1² + 0.4² + 0.2² = 1.20; over 10 classes and 4 images."""
    losses = torch.tensor([4 * 0.40, 3 * 0.40 + 1.20, 2 * 0.40 + 2 * 1.20], dtype=torch.float64) / 40
    assert result["loss"]["mean"] == pytest.approx(losses.mean().item())
    assert result["loss"]["std"] == pytest.approx(losses.std().item())


def test_confusion_and_class_accuracy_go_by_the_label(result):
    confusion = torch.tensor(result["confusion"])
    expected = {(3, 3): 4, (3, 5): 2, (7, 7): 2, (7, 3): 1, (0, 0): 3}  # summed over the encodings
    assert {tuple(cell): int(confusion[tuple(cell)]) for cell in confusion.nonzero().tolist()} == expected
    by_class = {label: result["class_accuracy"][label] for label in (3, 7, 0)}
    assert by_class == {3: pytest.approx(4 / 6), 7: pytest.approx(2 / 3), 0: 1.0}


def test_accuracy_against_T(result):
    """At step 5 nothing has fired, so class 0 is predicted, which is right for one image of four."""
    assert result["accuracy_against_T"]["5"] == spread([0.25] * 3)
    assert result["accuracy_against_T"]["10"] == result["accuracy"]


def test_spikes_and_operations(result):
    assert result["spikes_per_neuron_and_image"] == pytest.approx((4 + 2) / 10)
    assert result["input_spikes_per_image"] == 25
    assert result["synaptic_operations_per_image"] == 250  # each input spike reaches ten neurons
    assert result["dense_multiply_accumulates_per_image"] == 7840


def test_the_report_shows_percent_where_it_says_percent(result):
    text = describe(result, "backend numba")
    assert "accuracy  75.00% ± 25.00 % (mean ± std of 3 encodings)\n          ± 21.65 % standard error" in text
    assert "(epoch 5)" in text and "on 4 test images" in text


def test_one_encoding_has_no_deviation():
    data = Dataset("digits", Split(torch.zeros(1, 784), torch.zeros(1)), Split(torch.zeros(4, 784), LABELS), DIGITS)
    assert summarise([encoding(3, 3, 7, 0)], data)["accuracy"] == spread([1.0])


def test_the_table_of_classes_has_labels_in_rows(result):
    """Label 3: of three encodings of two images, four predictions of 3 and two of 5."""
    lines = describe(result, "").splitlines()
    head = next(n for n, line in enumerate(lines) if line.lstrip().startswith("class "))
    rows = [line.split() for line in lines[head + 1 : head + 11]]
    assert rows[3] == ["3", "66.67%", *"0004020000"]
    assert rows[7] == ["7", "66.67%", *"0001000200"]
    assert rows[5] == ["5", "0.00%", *"0000000000"]


def test_the_numbers_of_work_are_printed(result):
    text = " ".join(describe(result, "").split())
    assert "spikes per neuron and image 0.60 in 10 steps input spikes per image 25 " in text
    assert "synaptic operations 250 additions per image (7,840 multiply-accumulates in a dense layer)" in text
    assert "accuracy against T 5: 25.00% 10: 75.00%" in text


def silent(result, *images: int):
    """The report's lines on silence where these images of three encodings of four get no output spike."""
    data = Dataset("digits", Split(torch.zeros(1, 784), torch.zeros(1)), Split(torch.zeros(4, 784), LABELS), DIGITS)
    scores = [encoding(3, 3, 7, 0) for _ in range(3)]
    for image in images:
        scores[image // 4].counts[image % 4] = 0
    found = result | summarise(scores, data)
    return [line for line in describe(found, "").splitlines() if line.startswith(("silent", "tested on"))]


def test_images_for_which_no_neuron_fires_are_reported(result):
    assert silent(result) == []
    assert silent(result, 1, 4, 7) == ["silent    all neurons for 25.00% of the images, which count as 0"]
    assert silent(result, *range(12)) == ["silent    all neurons, for every image; each of them counts as 0"]


def test_another_data_set_than_that_of_training_is_named(result):
    assert silent(result | {"trained_on": "mnist"}) == ["tested on digits, trained on mnist"]
    assert silent(result | {"trained_on": ""}) == []  # a checkpoint of another program


def test_the_wrong_data_set_is_named_by_the_verb(tmp_path, capsys):
    """A network of the bundled digits, whose checkpoint says MNIST."""
    path = saved(tmp_path, T=2).path
    state = torch.load(path)
    torch.save(state | {"config": state["config"] | {"dataset": "mnist"}}, path)
    assert run(EvalOptions(resume=str(path), repeats=1, dataset="digits", backend="torch")) == 0
    assert "\ntested on digits, trained on mnist\n" in capsys.readouterr().out


def test_speed_counts_every_encoding(tmp_path, monkeypatch, capsys):
    """Three encodings of 360 images in two seconds are 540 images/s."""
    real = scoring.score_split
    monkeypatch.setattr(scoring, "score_split", lambda *given: (real(*given)[0], 2.0))
    file = tmp_path / "out.json"
    options = EvalOptions(resume=str(saved(tmp_path, T=2).path), repeats=3, json=str(file), backend="torch")
    assert run(options) == 0
    assert json.loads(file.read_text())["images_per_s"] == 540
    assert re.search(r"^540 images/s$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("repeats", [1, 10, 1000])
def test_the_report_fits_a_terminal_at_its_widest(result, repeats):
    """Fashion-MNIST has the longest names. With 1,000 encodings of 1,000 images a class, sums have seven digits."""
    confusion = [[1000 * repeats if label == guess else 0 for guess in range(10)] for label in range(10)]
    widest = result | {
        "class_names": list(FASHION), "confusion": confusion, "class_accuracy": [1.0] * 10, "encodings": repeats,
        "dense_multiply_accumulates_per_image": 7_840_000_000, "synaptic_operations_per_image": 7e9,
        "accuracy_against_T": {str(n): spread([1.0]) for n in scoring.default_readout_steps(1_000_000)},
    }  # fmt: skip
    lines = describe(widest, "backend numba on the CPU, 128 threads (the fused CPU backend)").splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split()[-10:] for line in lines if line.startswith((*FASHION, *(f"{name:>11}" for name in FASHION)))]
    shown = str(1000 * repeats if repeats < 1000 else 1000)
    assert [row[n] for n, row in enumerate(rows)] == [shown] * 10
