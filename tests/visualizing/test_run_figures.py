"""The figures of runs: they show what metrics.csv and the checkpoint hold."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from snn_mnist.data.datasets import DIGITS, FASHION
from snn_mnist.errors import SNNError
from snn_mnist.network.scoring import Score
from snn_mnist.visualizing import drawing
from snn_mnist.visualizing import run_figures as figures
from tests.support.run_directories import make_run, rows_of


def random_score(n=200):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (n,), generator=generator)
    counts = torch.randint(0, 5, (n, 3, 10), generator=generator).float().cumsum(1)
    counts[:150, :, :][torch.arange(150), :, labels[:150]] += 10
    return Score([5, 20, 40], counts, torch.zeros(n, dtype=torch.int64), labels)


# ---------------------------------------------------------------------------- single figures


def test_learning_curves_of_one_run_are_its_numbers():
    rows = list(rows_of(6, every=2))
    figure = figures.learning_curves({"run": rows})
    accuracy, loss = figure.axes
    train, test = accuracy.lines
    assert np.allclose(train.get_xydata(), [(r["epochs"], 100 * r["train_acc"]) for r in rows])
    assert np.allclose(test.get_xydata(), [(r["epochs"], 100 * r["test_acc"]) for r in rows if "test_acc" in r])
    assert np.allclose(loss.lines[1].get_ydata(), [r["test_loss"] for r in rows if "test_loss" in r])
    assert "84.00 %" in figure.get_suptitle() and "6 epochs" in figure.get_suptitle()
    assert [text.get_text() for text in figure.legends[0].texts] == ["training images", "test images"]


def test_learning_curves_of_several_runs_have_a_colour_each():
    runs = {"low": list(rows_of(3)), "high": list(rows_of(5, gain=0.1)), "untested": list(rows_of(2, every=9))}
    figure = figures.learning_curves(runs)
    lines = figure.axes[0].lines
    colours = {to_hex(line.get_color()) for line in lines}
    assert len(lines) == 6 and len(colours) == 3
    assert figure.get_suptitle().startswith("Highest at the end: high, 93.00 %")
    assert [t.get_text() for t in figure.legends[0].texts] == [*runs, "training images", "test images"]


def test_many_runs_differ_in_colour_or_mark_and_show_the_test_images_only():
    runs = {f"seed {n}": list(rows_of(2, gain=n / 100)) for n in range(16)}
    figure = figures.learning_curves(runs)
    accuracy, loss = figure.axes
    assert len({(to_hex(line.get_color()), line.get_marker()) for line in accuracy.lines}) == 16
    assert [line.get_ydata()[-1] for line in accuracy.lines] == [
        pytest.approx(100 * rows[-1]["test_acc"]) for rows in runs.values()
    ]
    assert "test images" in accuracy.get_ylabel() and "test images" in loss.get_ylabel()
    assert [text.get_text() for text in figure.legends[0].texts] == [*runs]


@pytest.mark.parametrize("name", ["tau 1.1", "x" * 60, "y" * 300])
def test_the_legend_of_many_runs_covers_nothing_and_less_than_half(name):
    runs = {f"{name} {n}": list(rows_of(3)) for n in range(16)}
    figure = figures.learning_curves(runs, ["A word."])
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    legend = figure.legends[0].get_window_extent()
    assert legend.height < height / 2 and legend.x0 >= 0 and legend.x1 <= width and legend.y0 >= 0
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert box.y0 > legend.y1 and box.height > 0.35 * height and box.width > 0.35 * width
    assert figure.get_suptitle().endswith("\nA word.")


def test_receptive_fields_are_the_weights_on_a_symmetric_scale():
    weight = torch.randn(10, 784) - 0.3
    weight[3, 5] = 50.0  # must not pale all others
    figure = figures.receptive_fields(weight.requires_grad_(), DIGITS)
    axes = figure.axes[0]
    shown = axes.images[0].get_array().filled(np.nan)
    for number, (frame, name) in enumerate(zip(axes.patches, axes.texts, strict=True)):
        left, top = (round(corner + 0.5) for corner in frame.get_xy())
        assert np.array_equal(shown[top : top + 28, left : left + 28], weight[number].detach().view(28, 28))
        assert left < name.get_position()[0] < left + 27 and name.get_position()[1] < top
    assert np.isfinite(shown).sum() == 7840
    low, high = axes.images[0].get_clim()
    assert low == -high and 1 < high < 10
    assert tuple(text.get_text() for text in axes.texts) == DIGITS
    figures.receptive_fields(torch.zeros(10, 784), DIGITS).canvas.draw()


@pytest.mark.parametrize("names", [DIGITS, FASHION])
def test_confusion_matrix_has_every_count_and_names_the_worst(names):
    confusion = torch.arange(100).view(10, 10).fill_diagonal_(500)
    confusion[4, 9] = 321
    figure = figures.confusion_matrix(confusion, names)
    axes = figure.axes[0]
    shown = {tuple(map(round, text.get_position()[::-1])): int(text.get_text()) for text in axes.texts}
    assert shown == {(r, c): int(confusion[r, c]) for r in range(10) for c in range(10) if confusion[r, c]}
    title = axes.get_title(loc="left")
    assert f"{names[4]} taken for {names[9]} (321×)" in title.replace("\n", " ")
    assert f"{100 * 5000 / int(confusion.sum()):.2f} % right" in title
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "label")
    confusion[9, 4] = 321  # two kinds tie
    title = figures.confusion_matrix(confusion, names).axes[0].get_title(loc="left")
    assert "most frequent errors: 2 kinds (321× each)" in title.replace("\n", " ")
    assert figures.confusion_matrix(torch.eye(10).long(), names).axes[0].get_title(loc="left") == "100.00 % right"


@pytest.mark.parametrize("readout_steps", [[1], [1, 2, 5], [1, 2, 5, 10, 20, 50, 100]])
def test_accuracy_against_t(readout_steps):
    accuracies = [0.5 + 0.05 * number for number in range(len(readout_steps))]
    figure = figures.accuracy_against_T(readout_steps, accuracies)
    axes = figure.axes[0]
    assert np.allclose(
        axes.lines[0].get_xydata(), [(m, 100 * a) for m, a in zip(readout_steps, accuracies, strict=True)]
    )
    figure.canvas.draw()
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(mark) for mark in readout_steps]


def flat(text):
    return " ".join(text.split())


def test_titles_quote_the_last_test_of_the_highest_run():
    """Accuracies that fall at the end, so that first, highest and last differ."""
    rows = [
        {"epochs": n + 1, "test_acc": acc, "max_test_acc": top}
        for n, (acc, top) in enumerate([(0.6, 0.6), (0.9, 0.9), (0.7, 0.9)])
    ]
    title = flat(figures.learning_curves({"run": rows}).get_suptitle())
    assert title == "70.00 % of the test images right after 3 epochs"
    other = [{"epochs": 1, "test_acc": 0.8}, {"epochs": 2, "test_acc": 0.75}]
    title = flat(figures.learning_curves({"other": other, "run": rows}).get_suptitle())
    assert title == "Highest at the end: other, 75.00 % of the test images"  # and not of the longest
    figure = figures.learning_curves({"other": other, "run": rows}, ["Different data"], comparable=False)
    assert figure.get_suptitle() == "Different data"
    assert flat(figures.learning_curves({"run": rows[:1]}).get_suptitle()).endswith("right after 1 epoch")


def test_title_of_accuracy_against_t():
    title = flat(figures.accuracy_against_T([1, 9, 50, 100], [0.3, 0.5, 0.6, 0.75]).axes[0].get_title(loc="left"))
    assert title == "9 steps: 50.0 % right; 100 steps: 75.0 %"
    assert flat(figures.accuracy_against_T([1], [0.3]).axes[0].get_title(loc="left")) == "1 step: 30.00 % right"


def test_colours_of_the_confusion_are_shares_of_each_label():
    """Ten images of class 0, of which one is taken for 1; a hundred of class 1, all right."""
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    confusion[0, 0], confusion[0, 1], confusion[1, 1] = 9, 1, 100
    axes = figures.confusion_matrix(confusion, DIGITS).axes[0]
    shares = axes.images[0].get_array()
    assert np.allclose(shares[0], [90, 10, *[0] * 8]) and np.allclose(shares[1], [0, 100, *[0] * 8])
    ink = {text.get_text(): text.get_color() for text in axes.texts}
    assert ink == {"9": "white", "1": "black", "100": "white"}  # readable on dark and on pale cells
    assert axes.images[0].origin == "upper"
    title = flat(axes.get_title(loc="left"))
    assert title == "99.09 % right; most frequent error: 0 taken for 1 (1×)"


def test_the_figures_of_a_run_show_its_last_readout_and_its_curves(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(figures, "write", lambda path, figure, *_: shown.setdefault(path.name, figure) and path)
    score = random_score()
    weight = torch.randn(10, 784)
    run = make_run(tmp_path / "run", list(rows_of(3)))
    files = figures.write_run_figures(run, weight, score, DIGITS)
    assert len(files) == 4 and len(figures.write_run_figures(run, weight, None, DIGITS)) == 1
    line = shown["accuracy_against_T.png"].axes[0].lines[0].get_xydata()
    assert np.allclose(line, [(steps, 100 * score.accuracy(m)) for m, steps in enumerate([5, 20, 40])])
    assert len({accuracy for _, accuracy in line.tolist()}) == 3
    counts = {
        tuple(map(round, t.get_position()[::-1])): int(t.get_text()) for t in shown["confusion.png"].axes[0].texts
    }
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (score.labels.numpy(), score.counts[:, 2].argmax(1).numpy()), 1)
    assert counts == {(r, c): expected[r, c] for r in range(10) for c in range(10) if expected[r, c]}


# ---------------------------------------------------------------------------- files


def test_the_users_settings_reach_no_figure(tmp_path):
    """LaTeX that is not there, images upside down, invisible text; and they are as they were afterwards."""
    mine = {"text.usetex": True, "image.origin": "lower", "text.color": "none", "image.cmap": "prism", "font.size": 3}
    confusion = torch.eye(10).long()
    plain = figures.write(tmp_path / "plain.png", figures.confusion_matrix(confusion, DIGITS)).read_bytes()
    with matplotlib.rc_context(mine):
        figure = figures.confusion_matrix(confusion, DIGITS)
        assert figures.write(tmp_path / "mine.png", figure).read_bytes() == plain
        assert {name: matplotlib.rcParams[name] for name in mine} == mine


def test_a_full_disk_is_an_error_that_says_so(tmp_path):
    with pytest.raises(SNNError, match="can't be written"):
        figures.write(tmp_path / "missing" / "a.png", drawing.own_figure())
