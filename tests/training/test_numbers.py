"""The numbers that a training run uses, writes and prints: each against another way to the same number."""

from types import SimpleNamespace

import pytest
import torch

from snn_mnist.__main__ import main
from snn_mnist.network import poisson
from snn_mnist.network.engine import Runtime
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.network.scoring import score
from snn_mnist.network.training_steps import AutogradSteps
from snn_mnist.storage import checkpoint
from snn_mnist.storage.checkpoint import Best, Position
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.training import console, learner, loop
from snn_mnist.training.learner import TrainingData, ema_decays, learning_rates
from tests.support.runs import config, train_run

TEST_IMAGES = 360
QUICK = {"backend": "torch", "T": 4, "b": 16, "limit_batches": 6}


# ---------------------------------------------------------------------------- speeds and seconds


def test_the_seconds_of_an_epoch_are_those_of_its_steps_and_its_test_alone(tmp_path, monkeypatch):
    """By a clock of ours: the held-out images do not count."""
    clock, sizes = [0.0], []

    def slow_score(found, index, *more, real=learner.score):
        sizes.append(len(index))
        clock[0] += {100: 100.0, TEST_IMAGES: 2.0}[len(index)]
        return real(found, index, *more)

    def slow_steps(self, first, last, real=AutogradSteps.run):
        clock[0] += 0.25 * (last - first)
        real(self, first, last)

    for module in (learner, loop):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(learner, "score", slow_score)
    monkeypatch.setattr(AutogradSteps, "run", slow_steps)
    row = read_metrics(train_run(tmp_path, epochs=1, val=100, **QUICK) / "metrics.csv")[0]
    assert sizes == [TEST_IMAGES, 100]
    assert (row["train_images_per_s"], row["test_images_per_s"]) == (6 * 16 / 1.5, TEST_IMAGES / 2)
    assert row["seconds"] == 3.5


# ---------------------------------------------------------------------------- the best epoch


def test_held_out_images_choose_the_best_epoch_and_the_maximum_is_of_the_test():
    position, tests = Position(), {1: (0.6, 0.9), 2: (0.7, 0.5), 3: (0.65, 0.8)}
    rows = [{"epochs": n, "val_acc": val, "test_acc": test} for n, (val, test) in tests.items()]
    assert [position.take_test(row) for row in rows] == [True, True, False]
    assert position.best == Best(2, 0.7, 0.5) and position.max_test_acc == 0.9
    equal = Position()
    assert [equal.take_test({"epochs": n, "test_acc": acc}) for n, acc in enumerate((0.5, 0.7, 0.7), 1)] == [1, 1, 0]


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_averaged_weights_are_tested_on_the_held_out_images_too(tmp_path, backend):
    """The row's loss and accuracy are those of the saved average, scored anew, and not those of the raw weights."""
    settings = QUICK | {"backend": backend, "ema": 0.9, "val": 100}
    folder = train_run(tmp_path, epochs=1, **settings)
    (row,), state = read_metrics(folder / "metrics.csv"), checkpoint.load(folder)
    data = TrainingData.load(config(**settings), torch.device("cpu"))
    key, scores = SpikeKey(0, Stream.VALIDATION, 0), []
    for weight in (state["net"][checkpoint.WEIGHT], state["raw"][checkpoint.WEIGHT]):
        net = SNN(config(**settings))
        net.weight.data.copy_(weight)
        found = Runtime(torch.device("cpu"), backend, "", 1).engine(net, data.dataset.train.images)
        scores.append(score(found, data.held_out, data.dataset.train.labels[data.held_out], [4], key))
    assert (row["val_loss"], row["val_acc"]) == (scores[0].loss(), scores[0].accuracy())
    assert scores[0].loss() != scores[1].loss()


def test_averaged_weights_are_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(loop.tensorboard_images, "summaries", lambda weight, *_: drawn.append(weight) or [])
    monkeypatch.setattr(loop.run_figures, "write_run_figures", lambda _, weight, *more, **named: drawn.append(weight))
    state = checkpoint.load(train_run(tmp_path, epochs=1, ema=0.9, **QUICK | {"figures": True}))
    assert len(drawn) == 2 and all(torch.equal(weight, state["net"][checkpoint.WEIGHT]) for weight in drawn)
    assert not torch.equal(drawn[0], state["raw"][checkpoint.WEIGHT])


# ---------------------------------------------------------------------------- what is printed

ROW = {"epochs": 2, "train_loss": 0.01234, "train_acc": 0.9, "test_loss": 0.05678, "test_acc": 0.8, "seconds": 4.567}


def test_the_line_of_an_epoch():
    found = console.epoch(ROW, 20, 0, "")
    assert found == "epoch 2/20  train loss 0.0123 acc 90.00%  test loss 0.0568 acc 80.00%  4.57 s"
    line, skipped, threads = console.epoch(ROW | {"val_acc": 0.7}, 20, 3, "on 1 thread").splitlines()
    assert "val 70.00%  test 80.00%" in line and skipped.endswith(": 3") and threads == "  on 1 thread"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.456, "0.46 s"), (9.994, "9.99 s"), (45.67, "45.7 s"), (456.7, "457 s"), (45678.9, "45679 s")],
)
@pytest.mark.parametrize("more", [{}, {"val_acc": 1.0}])
def test_the_line_of_an_epoch_fits_a_terminal(seconds, shown, more):
    """At its longest: 100 of 100 epochs, all images right. Where there is no room, the seconds are left out."""
    row = ROW | {"train_acc": 1.0, "test_acc": 1.0, "seconds": seconds} | more
    for epochs in (10, 100, 1000, 100_000):
        line = console.epoch(row | {"epochs": epochs}, epochs, 0, "")
        assert len(line) <= 80 and "100.00%" in line.partition("test ")[2]
        assert line.endswith(f"  {shown}") or (epochs >= (10 if seconds > 999 else 100) and line.endswith("100.00%"))


def test_the_summary():
    position = Position(max_test_acc=0.93, best=Best(7, 0.95, 0.91))
    row = {"test_acc": 0.92, "train_images_per_s": 12345.6}
    last, *warning = console.summary(config(), row, position, 60_000, None).split("\n")
    assert "92.00%" in last and "12,346 images/s" in last
    assert "93.00%, which is optimistic" in warning[0] and warning[1].endswith("-val 5000")
    _, best = console.summary(config(val=500), row, position, 60_000, None).split("\n")
    assert all(word in best for word in ("500", ": 7 ", "95.00%", "91.00%")) and len(best) <= 80
    position.max_test_acc = 0.92  # the last epoch is the highest: no warning
    assert console.summary(config(), row, position, 60_000, None) == last


# ---------------------------------------------------------------------------- an epoch


def test_the_last_epoch_is_tested_whatever_eval_every_says(tmp_path):
    folder = train_run(tmp_path, epochs=5, eval_every=2, **QUICK, lr=0.25)
    rows = read_metrics(folder / "metrics.csv")
    assert [row["lr"] for row in rows] == [0.25] * 5
    assert [row["epochs"] for row in rows if "test_acc" in row] == [2, 4, 5]
    assert [row["epochs"] for row in rows] == [1, 2, 3, 4, 5]


def test_the_same_images_are_held_out_for_every_seed():
    one, other = (TrainingData.load(config(val=100, seed=seed), torch.device("cpu")) for seed in (0, 1))
    assert torch.equal(one.held_out, other.held_out) and not torch.equal(one.order(0, 0), other.order(1, 0))


# ---------------------------------------------------------------------------- schedules


def test_cosine_falls_within_an_epoch_and_from_epoch_to_epoch():
    """Two epochs of three steps: t = 0, 1/6, …, 5/6 and cos(pi t) = 1, √3/2, 1/2, 0, -1/2, -√3/2."""
    settings = config(lr=2.0, epochs=2, schedule="cosine")
    root = 3**0.5 / 2
    assert learning_rates(settings, 0, 3) == pytest.approx([2.0, 1 + root, 1.5])
    assert learning_rates(settings, 1, 3) == pytest.approx([1.0, 0.5, 1 - root])
    extended = config(lr=2.0, epochs=4, schedule="cosine")  # after 1 of 4 epochs t is 1/4
    assert learning_rates(extended, 1, 3)[0] == pytest.approx(1 + 2**-0.5)


def test_the_moving_average_warms_up_over_the_run_and_not_in_each_epoch():
    """(1 + n) / (10 + n) at step n of the run: 1/10, 2/11, 3/12, then 4/13 = 0.307… is cut to 0.3 for good."""
    settings = config(ema=0.3, epochs=3)
    assert ema_decays(settings, 0, 2) == pytest.approx([1 / 10, 2 / 11])
    assert ema_decays(settings, 1, 2) == pytest.approx([3 / 12, 0.3])
    assert ema_decays(settings, 2, 2) == [0.3, 0.3]
    assert ema_decays(config(), 0, 3) is None


# ---------------------------------------------------------------------------- spikes and initial weights
# A resumed and an undisturbed run share every seed and stream, so neither can show that one is wrong.


@pytest.fixture
def encoded(monkeypatch):
    """(key, indices of the images, T) of each encoding by the torch engine."""
    calls = []

    def record(images, index, start, stop, key, real=poisson.poisson_encode):
        calls.append((SpikeKey(*map(int, key)), index.tolist(), stop))
        return real(images, index, start, stop, key)

    monkeypatch.setattr(poisson, "poisson_encode", record)
    return calls


def test_each_use_of_spikes_has_its_own_stream_and_epoch(tmp_path, encoded):
    settings = {"backend": "torch", "T": 4, "b": 500, "seed": 7, "epochs": 2, "val": 30, "limit_batches": 2}
    folder = train_run(tmp_path, **settings)
    uses = {}
    for key, index, _ in encoded:
        if key.seed == 7:  # warming up is seed 0
            uses.setdefault((key.stream, key.epoch), []).extend(index)
    assert set(uses) == {(int(s), e) for s in (Stream.TRAIN, Stream.TEST, Stream.VALIDATION) for e in (0, 1)}
    assert (Stream.TRAIN, Stream.TEST, Stream.VALIDATION, Stream.EVAL) == (0, 1, 2, 3)
    held_out = uses[2, 0]
    assert len(held_out) == 30 and held_out == sorted(set(held_out)) == uses[2, 1]
    for epoch in (0, 1):
        assert uses[1, epoch] == list(range(TEST_IMAGES))
        assert len(set(uses[0, epoch])) == 1000 and not set(uses[0, epoch]) & set(held_out)
    assert uses[0, 0] != uses[0, 1]

    encoded.clear()
    assert main(["eval", "-resume", str(folder), "-repeats", "3", "-backend", "torch"]) == 0
    tested = [key for key, index, _ in encoded if len(index) == TEST_IMAGES]
    assert tested == [SpikeKey(7, Stream.EVAL, repeat) for repeat in range(3)]  # no two alike, none of training


def test_initial_weights_are_torchs_for_each_seed(tmp_path):
    """The weights of torch.nn.Linear(784, 10, bias=False) after torch.manual_seed(seed), pinned for two seeds."""
    pinned = {0: [-0.000267, 0.019159, -0.029394], 1: [0.018402, -0.015764, -0.006924]}
    for seed, first in pinned.items():
        torch.manual_seed(seed)
        weight = torch.nn.Linear(784, 10, bias=False).weight.detach()
        assert weight[0, :3].tolist() == pytest.approx(first, abs=1e-6)
        # A learning rate too small to change any of them: what a run began with is what it saves.
        folder = train_run(tmp_path / str(seed), seed=seed, opt="sgd", lr=1e-30, epochs=1, limit_batches=1, T=2)
        saved = torch.load(folder / "checkpoint_latest.pth", weights_only=True)["net"]["layer.1.weight"]
        assert torch.equal(saved, weight)
