"""The numbers that a training run writes and prints: each against another way to the same number."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from snn_mnist.network.engine import make_engine
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.network.scoring import score
from snn_mnist.storage import checkpoint, directory
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.storage.position import Best, Position
from snn_mnist.training import evaluator, loop, messages
from snn_mnist.training.learner import Learner, TrainingData, ema_decays, learning_rate, learning_rates, new_optimizer
from snn_mnist.visualizing import run_figures, tensorboard_images
from tests.support.runs import config, train_run

TEST_IMAGES = 360
QUICK = {"backend": "torch", "T": 4, "b": 16, "limit_batches": 6}


# ---------------------------------------------------------------------------- speeds and seconds


def test_the_seconds_of_an_epoch_are_those_of_its_steps_and_its_test_alone(tmp_path, monkeypatch):
    """By a clock of ours: neither the call that compiles the test's kernels counts, nor the held-out images."""
    clock, sizes = [0.0], []

    def slow_score(engine, index, *more, real=evaluator.score):
        sizes.append(len(index))
        clock[0] += {1: 1000.0, 100: 100.0, TEST_IMAGES: 2.0}[len(index)]
        return real(engine, index, *more)

    def slow_steps(learner, first, last, real=Learner.run):
        clock[0] += 0.25 * (last - first)
        real(learner, first, last)

    for module in (evaluator, loop):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(evaluator, "score", slow_score)
    monkeypatch.setattr(Learner, "run", slow_steps)
    row = read_metrics(train_run(tmp_path, epochs=1, val=100, **QUICK) / "metrics.csv")[0]
    assert sizes == [1, TEST_IMAGES, 100]
    assert (row["train_images_per_s"], row["test_images_per_s"]) == (6 * 16 / 1.5, TEST_IMAGES / 2)
    assert row["seconds"] == 3.5


def test_the_column_lr_is_the_rate_at_the_beginning_of_the_epoch(tmp_path):
    folder = train_run(tmp_path, epochs=3, lr=0.008, schedule="cosine", **QUICK)
    assert [row["lr"] for row in read_metrics(folder / "metrics.csv")] == pytest.approx([0.008, 0.006, 0.002])


# ---------------------------------------------------------------------------- the best epoch


def test_the_first_of_equally_good_epochs_is_the_best():
    position = Position()
    tests = [0.5, 0.75, 0.75, 0.7]
    assert [position.take_test({"epochs": n, "test_acc": acc}) for n, acc in enumerate(tests, 1)] == [
        True,
        True,
        False,
        False,
    ]
    assert position.best == Best(2, 0.75, 0.75) and position.max_test_acc == 0.75


def test_held_out_images_choose_the_best_epoch_and_the_maximum_is_of_the_test():
    position = Position()
    rows = [
        {"epochs": 1, "val_acc": 0.6, "test_acc": 0.9},
        {"epochs": 2, "val_acc": 0.7, "test_acc": 0.5},
        {"epochs": 3, "val_acc": 0.65, "test_acc": 0.8},
    ]
    assert [position.take_test(row) for row in rows] == [True, True, False]
    assert position.best == Best(2, 0.7, 0.5) and position.max_test_acc == 0.9


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_averaged_weights_are_tested_on_the_held_out_images_too(tmp_path, backend):
    """The row's loss and accuracy are those of the saved average, scored anew, and not those of the raw weights."""
    settings = QUICK | {"backend": backend, "ema": 0.9, "val": 100}
    folder = train_run(tmp_path, epochs=1, **settings)
    (row,), state = read_metrics(folder / "metrics.csv"), checkpoint.load(folder)
    data = TrainingData.load(config(**settings), torch.device("cpu"))
    key, scores = SpikeKey(0, Stream.VALIDATION, 0), []
    for weight in (state["net"][checkpoint.WEIGHT], state["raw"]):
        net = SNN.from_config(config(**settings))
        net.weight.data.copy_(weight)
        engine = make_engine(backend, net, data.dataset.train.images)
        scores.append(score(engine, data.held_out, data.held_out_labels, [4], key))
    assert (row["val_loss"], row["val_acc"]) == (scores[0].loss(), scores[0].accuracy())
    assert scores[0].loss() != scores[1].loss()


def test_figures_show_the_averaged_weights_which_are_tested_and_saved(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(tensorboard_images, "summaries", lambda weight, *_: shown.append(weight) or ())
    monkeypatch.setattr(run_figures, "write_run_figures", lambda folder, weight, *_: shown.append(weight))
    folder = train_run(tmp_path, epochs=1, ema=0.9, **QUICK | {"figures": True})
    state = checkpoint.load(folder)
    averaged = state["net"][checkpoint.WEIGHT]
    assert len(shown) == 2 and not torch.equal(averaged, state["raw"])
    assert all(torch.equal(weight, averaged) for weight in shown)


# ---------------------------------------------------------------------------- what is printed

ROW = {
    "epochs": 2, "train_loss": 0.01234, "train_acc": 0.9, "test_loss": 0.05678, "test_acc": 0.8, "max_test_acc": 0.85,
    "train_images_per_s": 12345.6, "test_images_per_s": 99.0, "seconds": 4.567,
}  # fmt: skip


def test_the_line_of_an_epoch():
    assert messages.epoch(ROW, 20, 0, "") == (
        "epoch 2/20  train loss 0.0123 acc 90.00%  test loss 0.0568 acc 80.00%  4.57 s"
    )
    assert messages.epoch(ROW | {"val_acc": 0.7}, 20, 3, "on 1 thread").splitlines() == [
        "epoch 2/20  train loss 0.0123 acc 90.00%  val 70.00%  test 80.00%  4.57 s",
        "  steps skipped for gradients that are not finite: 3",
        "  on 1 thread",
    ]
    untested = {name: value for name, value in ROW.items() if not name.startswith("test_")}
    assert "test" not in messages.epoch(untested, 20, 0, "")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.456, "0.46 s"), (9.994, "9.99 s"), (45.67, "45.7 s"), (456.7, "457 s"), (45678.9, "45679 s")],
)
@pytest.mark.parametrize("more", [{}, {"val_acc": 1.0}])
def test_the_line_of_an_epoch_fits_a_terminal(seconds, shown, more):
    """At its longest: 100 of 100 epochs, all images right. Where there is no room, the seconds are left out."""
    row = ROW | {"train_acc": 1.0, "test_acc": 1.0, "seconds": seconds} | more
    for epochs in (10, 100, 1000, 100_000):
        line = messages.epoch(row | {"epochs": epochs}, epochs, 0, "")
        assert len(line) <= 80 and "100.00%" in line.partition("test ")[2]
        assert line.endswith(f"  {shown}") or (epochs >= (10 if seconds > 999 else 100) and line.endswith("100.00%"))


def test_the_lines_of_an_interruption_and_of_weights_that_are_not_finite(tmp_path):
    position = Position(epochs=2, step=30)
    assert messages.interrupted(position, 937, Path("run")) == (
        "interrupted in epoch 3 after 30 of 937 steps, saved\nresume with: python -m snn_mnist train -resume run"
    )
    said = messages.not_finite(position, 0.5, tmp_path / "none.pth")
    assert said.startswith("the weights are not finite by step 30 of epoch 3: a learning rate of 0.5 ")


def test_the_summary():
    position = Position(max_test_acc=0.93, best=Best(7, 0.95, 0.91))
    row = {"test_acc": 0.92, "train_images_per_s": 12345.6}
    lines = messages.summary(config(), row, position, 60_000, Path("run"), False).split("\n")
    assert lines == [
        "last epoch: test accuracy 92.00%, trained at 12,346 images/s",
        "highest of all tests: 93.00%, which is optimistic: the test images chose it;",
        "report the last epoch, or let held-out training images choose: -val 5000",
        "test it again: python -m snn_mnist eval -resume run",
    ]
    lines = messages.summary(config(val=500), row, position, 60_000, Path("run"), False).split("\n")
    assert lines[1] == "best epoch on 500 held-out images: 7 (held-out 95.00%, test accuracy 91.00%)"
    assert len(lines[1]) <= 80 and "optimistic" not in "".join(lines)


def test_a_last_epoch_that_is_the_highest_needs_no_warning():
    position = Position(max_test_acc=0.92, best=Best(7, 0.92, 0.92))
    row = {"test_acc": 0.92, "train_images_per_s": 12345.6}
    lines = messages.summary(config(), row, position, 60_000, Path("run"), False).split("\n")
    assert len(lines) == 2 and "highest" not in "".join(lines)


# ---------------------------------------------------------------------------- an epoch


def test_the_last_epoch_is_tested_whatever_eval_every_says(tmp_path):
    folder = train_run(tmp_path, epochs=5, eval_every=2, **QUICK)
    rows = read_metrics(folder / "metrics.csv")
    assert [row["epochs"] for row in rows if "test_acc" in row] == [2, 4, 5]
    assert [row["epochs"] for row in rows] == [1, 2, 3, 4, 5]


def test_loss_and_accuracy_compare_each_rate_with_the_label_of_its_image():
    """Two batches of two; the order is that of the epoch. After one step only the first batch counts."""
    learner = object.__new__(Learner)
    labels = torch.tensor([3, 1, 4, 1, 5])
    learner.config = config(b=2)
    learner.data = SimpleNamespace(dataset=SimpleNamespace(train=SimpleNamespace(labels=labels)))
    learner.order = torch.tensor([4, 2, 0, 1])  # labels 5, 4, 3, 1
    learner.rates = torch.zeros(4, 10)
    learner.rates[0, 5], learner.rates[1, 7], learner.rates[2, 3], learner.rates[3, 1] = 0.5, 1.0, 1.0, 1.0
    loss, accuracy = learner.loss_and_accuracy(1)
    assert (loss, accuracy) == (pytest.approx((0.25 + 2) / 20), 0.5)
    assert learner.loss_and_accuracy(2) == (pytest.approx((0.25 + 2) / 40), 0.75)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("settings", [{"opt": "sgd", "lr": 0.5, "momentum": 0.25}, {"opt": "adam", "lr": 0.125}])
def test_optimisers_have_the_settings_of_the_flags(backend, settings):
    (group,) = new_optimizer(config(**settings), backend, torch.zeros(10, 784, requires_grad=True)).param_groups
    assert group["lr"] == settings["lr"] and group.get("momentum") == settings.get("momentum")
    if settings["opt"] == "adam":
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0)
    assert not group.get("nesterov") and not group.get("dampening")


def test_an_order_holds_each_learned_image_once_and_differs_by_epoch_and_seed():
    data = {seed: TrainingData.load(config(val=100, seed=seed), torch.device("cpu")) for seed in (0, 1)}
    assert torch.equal(data[0].held_out, data[1].held_out)  # the same images whatever the seed
    orders = [data[seed].order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    learned = sorted(set(range(1437)) - set(data[0].held_out.tolist()))
    assert all(sorted(order.tolist()) == learned for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_names_of_new_run_directories(tmp_path):
    names = [directory.new_run_directory(str(tmp_path / "out"), "run").name for _ in range(4)]
    assert names == ["run", "run-2", "run-3", "run-4"]


# ---------------------------------------------------------------------------- schedules


def test_a_constant_learning_rate():
    assert learning_rates(config(lr=0.25, epochs=4), 3, 5) == [0.25] * 5


def test_cosine_falls_within_an_epoch_and_from_epoch_to_epoch():
    """Two epochs of three steps: t = 0, 1/6, …, 5/6 and cos(pi t) = 1, √3/2, 1/2, 0, -1/2, -√3/2."""
    settings = config(lr=2.0, epochs=2, schedule="cosine")
    root = 3**0.5 / 2
    assert learning_rates(settings, 0, 3) == pytest.approx([2.0, 1 + root, 1.5])
    assert learning_rates(settings, 1, 3) == pytest.approx([1.0, 0.5, 1 - root])
    assert learning_rate(settings, 1, 2, 3) == pytest.approx(1 - root)


def test_cosine_is_stretched_when_a_run_is_extended():
    """After 1 of 4 epochs instead of 1 of 2: t = 1/4 instead of 1/2."""
    assert learning_rate(config(lr=2.0, epochs=4, schedule="cosine"), 1, 0, 3) == pytest.approx(1 + 2**-0.5)


def test_the_moving_average_warms_up_over_the_run_and_not_in_each_epoch():
    """(1 + n) / (10 + n) at step n of the run: 1/10, 2/11, 3/12, then 4/13 = 0.307… is cut to 0.3 for good."""
    settings = config(ema=0.3, epochs=3)
    assert ema_decays(settings, 0, 2) == pytest.approx([1 / 10, 2 / 11])
    assert ema_decays(settings, 1, 2) == pytest.approx([3 / 12, 0.3])
    assert ema_decays(settings, 2, 2) == [0.3, 0.3]


def test_no_moving_average_without_ema():
    assert ema_decays(config(), 0, 3) is None
