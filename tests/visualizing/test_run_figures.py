"""The figures of runs and of a traced image: they show what metrics.csv, the checkpoint and the trace hold."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from snn_mnist.data.datasets import DIGITS, FASHION
from snn_mnist.errors import SNNError
from snn_mnist.network.scoring import Score
from snn_mnist.network.trace import Trace
from snn_mnist.visualizing import drawing
from snn_mnist.visualizing import run_figures as figures
from tests.support.run_directories import make_run, rows_of


def random_score(n=200):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (n,), generator=generator)
    counts = torch.randint(0, 5, (n, 3, 10), generator=generator).float().cumsum(1)
    counts[:150, :, :][torch.arange(150), :, labels[:150]] += 10
    return Score([5, 20, 40], counts, torch.zeros(n, dtype=torch.int64), labels)


def heading(figure):
    return " ".join(figure.get_suptitle().split())


def legend(figure):
    return [text.get_text() for text in figure.legends[0].texts]


# ---------------------------------------------------------------------------- learning curves


def test_learning_curves_of_one_run_are_its_numbers():
    rows = list(rows_of(6, every=2))
    figure = figures.learning_curves({"run": rows})
    accuracy, loss = figure.axes
    train, test = accuracy.lines
    assert np.allclose(train.get_xydata(), [(r["epochs"], 100 * r["train_acc"]) for r in rows])
    assert np.allclose(test.get_xydata(), [(r["epochs"], 100 * r["test_acc"]) for r in rows if "test_acc" in r])
    assert np.allclose(loss.lines[1].get_ydata(), [r["test_loss"] for r in rows if "test_loss" in r])
    assert heading(figure) == "84.00% of the test images right after 6 epochs"
    assert legend(figure) == ["training images", "test images"] and loss.get_ylabel() == "mean squared error"
    assert figures.learning_curves({"run": rows}, losses={"ce"}).axes[1].get_ylabel() == "cross-entropy"


def test_the_last_epoch_of_a_long_run_has_a_mark():
    lines = figures.learning_curves({"run": list(rows_of(203, every=3))}).axes[0].lines
    every = [range(*slice(line.get_markevery()[0], None, 10).indices(len(line.get_xdata()))) for line in lines]
    assert [marks[-1] for marks in every] == [202, 66]


def test_many_runs_differ_in_colour_or_mark_and_show_the_test_images():
    runs = {f"seed {n}": list(rows_of(2, gain=n / 100)) for n in range(16)}
    figure = figures.learning_curves(runs)
    accuracy, loss = figure.axes
    assert len({(to_hex(line.get_color()), line.get_marker()) for line in accuracy.lines}) == 16
    ends = [100 * rows[-1]["test_acc"] for rows in runs.values()]
    assert [line.get_ydata()[-1] for line in accuracy.lines] == pytest.approx(ends)
    assert "test images" in accuracy.get_ylabel() and "test images" in loss.get_ylabel()
    assert legend(figure) == [*runs]


def test_of_several_runs_without_tests_the_held_out_images_are_drawn():
    """The trials of a sweep have no test."""
    rows = [{"epochs": 1, "train_acc": 0.7, "train_loss": 0.2, "val_acc": 0.6, "val_loss": 0.3}]
    figure = figures.learning_curves({"a": rows, "b": rows})
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[60], [60]]
    assert "held-out images" in figure.axes[0].get_ylabel() and heading(figure) == "Not tested on the test images"
    assert figures.without_curve({"a": rows, "b": [{"epochs": 1, "train_acc": 0.7}]}) == ["b"]


@pytest.mark.parametrize("name", ["tau 1.1", "y" * 300])
def test_the_legend_of_many_runs_covers_nothing_and_less_than_half(name):
    figure = figures.learning_curves({f"{name} {n}": list(rows_of(3)) for n in range(16)}, ["A word."])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    box = figure.legends[0].get_window_extent()
    assert box.height < height / 2 and box.x0 >= 0 and box.x1 <= width and box.y0 >= 0
    for axes in figure.axes:
        inner = axes.get_window_extent()
        assert inner.y0 > box.y1 and inner.height > 0.35 * height and inner.width > 0.35 * width
    assert figure.get_suptitle().endswith("\nA word.")


def test_titles_quote_the_last_test_of_the_highest_run():
    """Accuracies that fall at the end, so that first, highest and last differ."""
    rows = [{"epochs": n + 1, "test_acc": accuracy} for n, accuracy in enumerate([0.6, 0.9, 0.7])]
    other = [{"epochs": 1, "test_acc": 0.8}, {"epochs": 2, "test_acc": 0.75}]
    assert heading(figures.learning_curves({"run": rows})) == "70.00% of the test images right after 3 epochs"
    both = {"other": other, "run": rows}
    assert heading(figures.learning_curves(both)) == "Highest at the end: other, 75.00% of the test images"
    assert heading(figures.learning_curves(both, ["Different data"], comparable=False)) == "Different data"


# ---------------------------------------------------------------------------- weights, confusion, T


def test_receptive_fields_are_the_weights_on_a_symmetric_scale():
    weight = torch.randn(10, 784) - 0.3
    weight[3, 5] = 50.0  # must not pale all others
    axes = figures.receptive_fields(weight.requires_grad_(), DIGITS).axes[0]
    shown = np.asarray(axes.images[0].get_array().filled(np.nan))
    for number, name in enumerate(axes.texts):
        left, bottom = number % 5 * 30, number // 5 * 37 + 7
        field = shown[bottom : bottom + 28, left : left + 28]
        assert np.allclose(field, weight[number].detach().view(28, 28))
        assert left < name.get_position()[0] < left + 27 and bottom - 7 <= name.get_position()[1] < bottom
    low, high = axes.images[0].get_clim()
    assert low == -high and 1 < high < 10
    assert tuple(text.get_text() for text in axes.texts) == DIGITS
    figures.receptive_fields(torch.zeros(10, 784), DIGITS)


@pytest.mark.parametrize(("votes", "across", "space"), [(3, 3, 2), (10, 10, 2), (40, 20, 10), (50, 25, 10)])
def test_a_class_of_several_neurons_is_a_row(votes, across, space):
    """Forty are two lines of twenty; the name stands at the middle of the row."""
    weight = torch.randn(10 * votes, 784)
    axes = figures.receptive_fields(weight, FASHION).axes[0]
    tiles, lines = axes.images[0].get_array(), -(-votes // across)
    height = 30 * lines - 2 + space
    assert tiles.shape == (10 * height - space, 30 * across - 2)
    for neuron in (0, votes - 1, 7 * votes + 1, 10 * votes - 1):
        row, column = divmod(neuron % votes, across)
        top = neuron // votes * height + 30 * row
        found = tiles[top : top + 28, 30 * column : 30 * column + 28]
        assert np.array_equal(found, weight[neuron].view(28, 28))
    assert [text.get_text() for text in axes.texts] == list(FASHION)
    assert [int(text.get_position()[1] // height) for text in axes.texts] == [*range(10)]
    assert f"{votes} neurons per class" in heading(axes.figure)


@pytest.mark.parametrize("names", [DIGITS, FASHION])
def test_confusion_matrix_has_every_count_and_names_the_worst(names):
    confusion = torch.arange(100).view(10, 10).fill_diagonal_(500)
    confusion[4, 9] = 321
    axes = figures.confusion_matrix(confusion, names).axes[0]
    shown = {tuple(map(round, text.get_position()[::-1])): int(text.get_text()) for text in axes.texts}
    assert shown == {(r, c): int(confusion[r, c]) for r in range(10) for c in range(10) if confusion[r, c]}
    right = f"{5000 / int(confusion.sum()):.2%} right"
    worst = f"most frequent error: {names[4]} taken for {names[9]} (321×)"
    assert " ".join(axes.get_title(loc="left").split()) == f"{right}; {worst}"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "label")
    for counts in (torch.eye(10).long(), torch.ones(10, 10).long()):  # none is wrong, all kinds tie
        assert "error" not in figures.confusion_matrix(counts, names).axes[0].get_title(loc="left")


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


def test_a_small_change_over_t_looks_small_and_the_last_t_is_named():
    axes = figures.accuracy_against_T([5, 10, 11, 16], {"": [97.9, 97.98, 97.91, 97.95]}).axes[0]
    assert np.allclose(axes.get_ylim(), (97.44, 98.44))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "5", "10", "16"]


@pytest.mark.parametrize("readout_steps", [[1], [1, 2, 5, 10, 20, 50, 100]])
def test_accuracy_against_t(readout_steps):
    percent = [50.0 + 5 * number for number in range(len(readout_steps))]
    axes = figures.accuracy_against_T(readout_steps, {"": percent}).axes[0]
    assert np.allclose(axes.lines[0].get_xydata(), list(zip(readout_steps, percent, strict=True)))
    inside = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    assert inside == pytest.approx(readout_steps)
    assert axes.get_title(loc="left") == f"T = {readout_steps[-1]}: {percent[-1]:.2f}% right"


def test_the_figures_of_a_run_show_its_last_readout_and_its_curves(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(figures, "write", lambda path, figure, *_: shown.setdefault(path.name, figure) and path)
    score, weight = random_score(), torch.randn(10, 784)
    run = make_run(tmp_path / "run", list(rows_of(3)))
    assert len(figures.write_run_figures(run, weight, None, DIGITS)) == 1
    assert len(figures.write_run_figures(run, weight, score, DIGITS)) == 4
    line = shown["accuracy_against_T.png"].axes[0].lines[0].get_xydata()
    assert np.allclose(line, [(steps, 100 * score.accuracy(m)) for m, steps in enumerate([5, 20, 40])])
    texts = shown["confusion.png"].axes[0].texts
    assert sum(int(text.get_text()) for text in texts) == len(score.labels)
    right = (score.counts[:, 2].argmax(1) == score.labels).float().mean()
    assert f"{right:.2%} right" in shown["confusion.png"].axes[0].get_title(loc="left")


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
    with pytest.raises(SNNError, match="can't be written"):
        figures.write(tmp_path / "missing" / "a.png", drawing.own_figure())


# ---------------------------------------------------------------------------- a traced image


@pytest.fixture
def trace() -> Trace:
    """Image 17 of class 3, T = 80: neuron 5 fires in every second step, 3 in steps 70 and 72, beyond what is shown."""
    s = np.zeros((80, 10), np.float32)
    s[1::2, 5], s[[70, 72], 3] = 1, 1
    h = np.linspace(0, 0.5, 800, dtype=np.float32).reshape(80, 10) + s
    image, spikes = np.zeros((28, 28), np.uint8), np.zeros((28, 28), np.int64)
    image[2, 9], spikes[2, 9], spikes[4, 1] = 200, 60, 1940
    return Trace(17, 3, image, spikes, h, h, np.where(s == 1, 0, h).astype(np.float32), s)


def test_the_image_beside_its_spikes(trace):
    figure = figures.shown_image(trace, DIGITS)
    left, right = (axes.images[0] for axes in figure.axes[:2])
    assert heading(figure) == "Test image 17, label 3: 2,000 input spikes in 80 steps"
    assert left.get_clim() == (0, 255) and right.get_clim() == (0, 80)
    assert np.array_equal(right.get_array(), trace.input_spikes) and np.array_equal(left.get_array(), trace.image)


@pytest.mark.parametrize(
    ("encoding", "title"),
    [("constant", "a constant current in 80 steps"), ("latency", "1 input spikes in 80 steps")],
)
def test_the_image_beside_another_encoding(trace, encoding, title):
    """A pixel of 200 is a current of 200/255, or fires at step round(79 (1 - 200/255)) = 17."""
    trace = replace(trace, encoding=encoding, input_spikes=(trace.image > 0).astype(int))
    figure = figures.shown_image(trace, DIGITS)
    shown = figure.axes[1].images[0].get_array()
    assert heading(figure) == f"Test image 17, label 3: {title}"
    assert shown[2, 9] == (200 / 255 if encoding == "constant" else 17) and np.ma.count(shown[shown > 0]) == 1


@pytest.mark.parametrize("label", [5, 3])
def test_figures_of_several_neurons_per_class(label):
    """Fifteen per class; neuron n - 1 of class 5 fires in every n-th step, one of class 8 always. Twelve are shown."""
    s = np.zeros((30, 150), np.float32)
    for number in range(1, 16):
        s[::number, 5 * 15 + number - 1] = 1
    s[:, 8 * 15 + 2] = s[4, 3 * 15] = 1
    trace = Trace(1, label, np.zeros((28, 28), np.uint8), np.zeros((28, 28), np.int64), s, s, 0 * s, s)
    rival = 8 if label == 5 else 3  # the next class, or the label of a wrong prediction
    assert (trace.prediction, trace.rival, trace.votes) == (5, rival, 15)
    figure = figures.raster(trace, DIGITS)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert [name.split(" #")[0] for name in names] == [str(rival)] * 12 + ["5"] * 12
    assert names[11] == ("8 #2" if label == 5 else "3 #0") and names[-1] == "5 #0"
    parts = zip(figure.axes[0].collections, figure.axes[1].patches, strict=True)
    colours = [{to_hex(spikes.get_color()), to_hex(bar.get_facecolor())} for spikes, bar in parts]
    assert colours == [{drawing.BLUE.lower()}] * 12 + [{drawing.VERMILLION.lower()}] * 12
    own, shares = s.mean(0), [bar.get_width() for bar in figure.axes[1].patches]
    assert shares == pytest.approx([own[int(name[0]) * 15 + int(name[3:])] for name in names])
    assert shares[12:] == sorted(shares[12:])
    outcome = "and are right" if label == 5 else "but the label is 3"
    title = f"The neurons of 5 fire most, in {100 * trace.rates[5]:.0f} % of the steps, {outcome} "
    assert heading(figure).startswith(title + "Shown: 12 of 15 neurons per class")
    typical = np.abs(own[75:90] - own[75:90].mean()).argmin()
    titles = [axes.get_title(loc="left") for axes in figures.winner(trace, DIGITS, 1.0, 0.0).axes]
    assert titles[0].startswith(f"Class 5, neuron {typical} (typical of the prediction): ") and len(titles) == 2
    assert titles[0].endswith(f" in 30 steps; mean of its class {30 * own[75:90].mean():.1f}")
    assert f"(typical of the {'next class' if label == 5 else 'label'})" in titles[1]
    assert figures.voltages(trace, DIGITS, 1.0).axes[0].images[0].get_array().shape == (24, 30)


def test_the_raster_names_prediction_and_label(trace):
    figure = figures.raster(trace, DIGITS)
    assert heading(figure) == "Neuron 5 fires most, in 50 % of the steps, but the label is 3"
    spikes = [collection.get_segments() for collection in figure.axes[0].collections]
    assert [len(of_neuron) for of_neuron in spikes] == [0, 0, 0, 2, 0, 40, 0, 0, 0, 0]
    assert [bar.get_width() for bar in figure.axes[1].patches] == pytest.approx([0, 0, 0, 2 / 80, 0, 0.5, 0, 0, 0, 0])


def test_the_potentials(trace):
    image = figures.voltages(trace, DIGITS, 1.5).axes[0].images[0]
    assert np.array_equal(image.get_array(), trace.v.T) and image.get_clim()[1] == 1.5
    assert image.origin == "lower"  # neuron 0 at the bottom, as in the raster


def test_the_winner_counts_all_spikes_also_those_beyond_what_is_shown(trace):
    figure = figures.winner(trace, DIGITS, 1.0, 0.0)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Neuron 5 (prediction): 40 spikes in 80 steps", "Neuron 3 (label): 2 spikes in 80 steps"]
    assert "(the first 60 of 80)" in figure.axes[-1].get_xlabel()
    line, dots = figure.axes[0].lines[:2]
    assert np.array_equal(line.get_ydata(), np.stack([trace.h[:60, 5], trace.v[:60, 5]], 1).ravel())
    assert dots.get_xdata().tolist() == [*range(1, 60, 2)]
