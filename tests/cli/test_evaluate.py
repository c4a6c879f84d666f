"""The report of `eval` from a hand-made asymmetric case: each number that a person reads, with its unit."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy

from snn_mnist.__main__ import main
from snn_mnist.cli.evaluate import describe, summarise
from snn_mnist.cli.shared import spread
from snn_mnist.data.datasets import DIGITS, FASHION
from snn_mnist.network import scoring
from snn_mnist.network.scoring import Score
from snn_mnist.settings.config import Config
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
    return summarise(scores, DIGITS, Config()) | {"dataset": "digits", "images_per_s": 9}


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
    assert summarise([encoding(3, 3, 7, 0)], DIGITS, Config())["accuracy"] == spread([1.0])


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


def test_two_neurons_per_class():
    """Class 3 has counts 4 and 0 in ten steps, class 9 has 1 and 1; one image of four is silent, as 17 neurons are."""
    each = torch.zeros(4, 20)
    each[:3, [6, 18, 19]] = torch.tensor([4.0, 1.0, 1.0])
    score = Score([10], each.view(4, 1, 10, 2).sum(3), torch.tensor([10, 20, 30, 40]), LABELS, each)
    for code, inputs, kind, energy in (
        ("poisson", "input spikes", "additions", 0.45),
        ("latency", "input spikes", "additions", 0.45),
        ("constant", "active pixels", "multiply-accumulates", 2.3),
    ):
        result = summarise([score], DIGITS, Config(votes=2, encoding=code, loss="ce", scale=5))
        assert (result["votes"], result["silent_neurons"], result["silent_images"]) == (2, 17, 0.25)
        assert result["neuron_rates"][3] == pytest.approx([0.3, 0]) and result["neuron_rates"][9] == [0.075, 0.075]
        assert result["class_scores"][3] == pytest.approx([0, 0, 0, 0.2, 0, 0, 0, 0, 0, 0.1])
        assert result["spikes_per_neuron_and_image"] == pytest.approx(3 * 6 / 80)
        scores = torch.zeros(4, 10)
        scores[:3, [3, 9]] = torch.tensor([0.2, 0.1])
        assert result["loss"]["mean"] == pytest.approx(cross_entropy(5 * scores, LABELS).item())
        text = " ".join(describe(result | {"dataset": "digits", "images_per_s": 9}, "").split())
        assert f"(17 of 20 neurons never fire) {inputs} per image 25 synaptic operations 500 {kind} per image" in text
        assert f"{energy:.1f} nJ per image (72.1 nJ in a dense layer)" in text and "Horowitz, ISSCC 2014" in text
        assert result["energy_nJ_per_image"] == pytest.approx(energy)
        assert result["dense_energy_nJ_per_image"] == pytest.approx(15_680 * 4.6e-3)


@pytest.mark.parametrize(("images", "says"), [((1, 4, 7), "25.00 %"), (range(12), "100.00 %")])
def test_images_for_which_no_neuron_fires_are_reported(result, images, says):
    scores = [encoding(3, 3, 7, 0) for _ in range(3)]
    for image in images:
        scores[image // 4].counts[image % 4] = 0
    assert f"no neuron fires for {says} of the images" in describe(result | summarise(scores, DIGITS, Config()), "")


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


def test_a_constant_encoding_is_tested_once(tmp_path, capsys):
    path = saved(tmp_path, T=4, encoding="constant", votes=2).path
    result = evaluate(tmp_path, path, "-repeats", "3")
    assert (result["encodings"], result["votes"]) == (1, 2) and result["accuracy"]["mean"] > 0.5
    shown = capsys.readouterr()
    assert "-repeats has no effect: encoding constant" in shown.err
    assert "2 neurons per class, constant encoding" in " ".join(shown.out.split())


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
