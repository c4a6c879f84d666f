"""The report of `eval` from a hand-made asymmetric case: each number that a person reads, with its unit."""

import json

import pytest
import torch

from snn_mnist.cli.evaluate import describe, summarise
from snn_mnist.cli.main import main
from snn_mnist.cli.shared import spread
from snn_mnist.data.datasets import DIGITS, FASHION
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
    scores = [encoding(3, 3, 7, 0), encoding(3, 5, 7, 0), encoding(3, 5, 3, 0)]  # 4, 3 and 2 of 4 right
    return summarise(scores, DIGITS) | {"dataset": "digits", "images_per_s": 9}


def test_the_numbers_by_hand(result):
    """Accuracies 1, 3/4, 1/2: mean 3/4, deviation with n - 1 is 1/4; standard error sqrt(p (1 - p) / n) of 4 images.

    The loss of an image: 0.6² + 0.2² = 0.40 if right, 1² + 0.4² + 0.2² = 1.20 if wrong; over 10 classes and 4 images.
    """
    losses = torch.tensor([4 * 0.40, 3 * 0.40 + 1.20, 2 * 0.40 + 2 * 1.20], dtype=torch.float64) / 40
    confusion = torch.tensor(result["confusion"])
    assert result["accuracy"] == spread([1.0, 0.75, 0.5])
    assert (result["accuracy"]["mean"], result["accuracy"]["std"]) == (pytest.approx(0.75), pytest.approx(0.25))
    assert result["standard_error"] == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert (result["loss"]["mean"], result["loss"]["std"]) == pytest.approx((losses.mean().item(), losses.std().item()))
    assert {tuple(cell): int(confusion[tuple(cell)]) for cell in confusion.nonzero().tolist()} == {
        (3, 3): 4, (3, 5): 2, (7, 7): 2, (7, 3): 1, (0, 0): 3,  # (label, prediction), summed over the encodings
    }  # fmt: skip
    assert [result["class_accuracy"][label] for label in (3, 7, 0)] == pytest.approx([4 / 6, 2 / 3, 1.0])
    assert result["accuracy_against_T"]["5"] == spread([0.25] * 3)  # nothing has fired: class 0, right for one image
    assert result["accuracy_against_T"]["10"] == result["accuracy"]
    assert result["spikes_per_neuron_and_image"] == pytest.approx((4 + 2) / 10)
    assert result["synaptic_operations_per_image"] == 10 * result["input_spikes_per_image"] == 250
    assert summarise([encoding(3, 3, 7, 0)], DIGITS)["accuracy"] == spread([1.0])


def test_the_report(result):
    text = describe(result, "backend numba")
    assert "accuracy  75.00 ± 25.00 % (mean ± std of 3 encodings)\n          ± 21.65 % standard error" in text
    lines = text.splitlines()
    head = next(n for n, line in enumerate(lines) if line.lstrip().startswith("class "))
    rows = [line.split() for line in lines[head + 1 : head + 11]]
    assert rows[3] == ["3", "66.67%", *"0001010000"] and rows[7] == ["7", "66.67%", *"0000000100"]
    text = " ".join(text.split())
    assert "4 test images of digits, backend numba" in text and "silent" not in text and "9 images/s" in text
    assert "spikes per neuron and image 0.60 in 10 steps input spikes per image 25 " in text
    assert "synaptic operations 250 additions per image (7,840 multiply-accumulates in a dense layer)" in text
    assert "accuracy against T 5: 25.00% 10: 75.00%" in text


@pytest.mark.parametrize(("images", "says"), [((1, 4, 7), "25.00%"), (range(12), "100.00%")])
def test_images_for_which_no_neuron_fires_are_reported(result, images, says):
    scores = [encoding(3, 3, 7, 0) for _ in range(3)]
    for image in images:
        scores[image // 4].counts[image % 4] = 0
    assert f"silent    all neurons for {says} of the images" in describe(result | summarise(scores, DIGITS), "")


def evaluate(tmp_path, path, *flags) -> dict:
    file = tmp_path / "out.json"
    assert main(["eval", "-resume", str(path), "-backend", "torch", "-json", str(file), *flags]) == 0
    return json.loads(file.read_text())


def test_the_wrong_data_set_is_named(tmp_path, capsys):
    """A network of the bundled digits, whose checkpoint says MNIST."""
    path = saved(tmp_path, T=2).path
    state = torch.load(path)
    torch.save(state | {"config": state["config"] | {"dataset": "mnist"}}, path)
    evaluate(tmp_path, path, "-repeats", "1", "-dataset", "digits")
    assert "images are of digits, the network was trained on mnist" in capsys.readouterr().err


def test_seed_0_is_a_seed(tmp_path):
    """Not taken for "none given" on a checkpoint of another seed."""
    path = saved(tmp_path, T=2, seed=3).path
    results = {seed: evaluate(tmp_path, path, "-repeats", "2", "-seed", seed) for seed in ("0", "3")}
    own = evaluate(tmp_path, path, "-repeats", "2")
    assert own["seed"] == 3 and own["accuracy"] == results["3"]["accuracy"] != results["0"]["accuracy"]
    assert results["0"]["seed"] == 0


def test_images_per_second_count_every_encoding(tmp_path, monkeypatch, capsys):
    """Three encodings of 360 images in two seconds are 540 images/s."""
    real = scoring.score_split
    monkeypatch.setattr(scoring, "score_split", lambda *given, **more: (real(*given, **more)[0], 2.0))
    assert evaluate(tmp_path, saved(tmp_path, T=2).path, "-repeats", "3")["images_per_s"] == 540
    assert "\n540 images/s\n" in capsys.readouterr().out


def test_the_report_fits_a_terminal_at_its_widest(result):
    """Fashion-MNIST has the longest names; the matrix is the mean of the encodings."""
    widest = result | {"class_names": list(FASHION), "class_accuracy": [1.0] * 10, "encodings": 1000}
    widest |= {"dense_multiply_accumulates_per_image": 7_840_000_000, "synaptic_operations_per_image": 7e9}
    widest["accuracy_against_T"] = {str(n): spread([1.0]) for n in scoring.default_readout_steps(1_000_000)}
    widest["confusion"] = (1_000_000 * torch.eye(10, dtype=torch.int64)).tolist()
    lines = describe(widest, "backend numba on the CPU, 128 threads (the fused CPU backend)").splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split()[-10:] for line in lines if line.strip().startswith(FASHION)]
    assert [row[n] for n, row in enumerate(rows)] == ["1000"] * 10
