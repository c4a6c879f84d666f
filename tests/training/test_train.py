"""Training, evaluation and resume, on real data."""

import csv
import json
import subprocess
import sys

import pytest
import torch

from snn_mnist.cli import evaluate
from snn_mnist.cli import train as training
from snn_mnist.cli.evaluate import EvalOptions
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint
from snn_mnist.storage.metrics import METRICS, read_metrics
from snn_mnist.training import loop
from snn_mnist.training.interruption import Interruption
from tests.support.runs import DIGITS, assert_same, config, metrics, newest


def train(out, **settings):
    assert training.run(config(out_dir=str(out), **settings)) == 0
    return newest(out)


RESUMES = [
    {"opt": "adam"},
    {"opt": "sgd", "lr": 1.0},
    {"opt": "adam", "schedule": "cosine"},
    {"opt": "sgd", "schedule": "cosine", "momentum": 0.5},
    {"opt": "adam", "amp": True},
    {"opt": "adam", "ema": 0.99, "schedule": "cosine"},
    {"opt": "adam", "val": 300, "eval_every": 2},
    {"opt": "adam", "backend": "torch", "b": 400, "T": 6},
    {"opt": "adam", "backend": "torch", "b": 400, "T": 6, "step_mode": "s", "amp": True},
]


@pytest.mark.parametrize("settings", RESUMES, ids=lambda s: "-".join(f"{k}_{v}" for k, v in s.items()))
@pytest.mark.parametrize("steps", [0, 2])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, settings, steps):
    whole = train(tmp_path / "whole", epochs=4, **settings)
    b, val = settings.get("b", DIGITS["b"]), settings.get("val", 0)
    interruption, per_epoch = Interruption(), (1437 - val) // b
    seen = [0]

    def step(self, images):
        seen[0] += 1
        if seen[0] == 2 * per_epoch + steps:
            interruption.signal = 2

    with monkeypatch.context() as patch:
        patch.setattr("snn_mnist.training.progress.Progress.step", step)
        patch.setattr("snn_mnist.network.compiled_steps.CHUNK_WORK", 1)  # a step a chunk
        loop.train(config(out_dir=str(tmp_path / "parts"), epochs=4, **settings), interruption)
    folder = newest(tmp_path / "parts")
    state = checkpoint.load(folder)
    assert (state["epoch"], state["step"]) == ((1, steps) if steps else (0, per_epoch))
    assert training.run(Config(resume=str(folder), given=frozenset({"resume"}))) == 0
    assert newest(tmp_path / "parts") == folder and len(list((tmp_path / "parts").iterdir())) == 1
    a, b_ = checkpoint.load(whole), checkpoint.load(folder)
    a.pop("config"), b_.pop("config")
    assert_same(a, b_)
    assert metrics(whole) == metrics(folder)
    best_a, best_b = (checkpoint.load(f / checkpoint.BEST) for f in (whole, folder))
    assert_same(best_a["net"], best_b["net"])


def test_extended_run_equals_a_longer_one(tmp_path):
    longer = train(tmp_path / "longer", epochs=3)
    short = train(tmp_path / "short", epochs=1)
    assert training.run(Config(resume=str(short), epochs=3, given=frozenset({"resume", "epochs"}))) == 0
    assert torch.equal(
        checkpoint.load(longer)["net"]["layer.1.weight"], checkpoint.load(short)["net"]["layer.1.weight"]
    )
    assert metrics(longer) == metrics(short)


def test_a_finished_run_has_nothing_to_do(tmp_path, capsys):
    folder = train(tmp_path, epochs=1)
    assert training.run(Config(resume=str(folder), given=frozenset({"resume"}))) == 0
    assert "nothing to do" in capsys.readouterr().out
    code = "import sys; sys.modules['torch'] = None; from snn_mnist.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", "-resume", str(folder)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and "has been trained for 1 epochs" in done.stdout, done.stderr  # said without PyTorch
    done = subprocess.run([*command, "-epochs", "2"], capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and "torch" in done.stderr


def test_changed_mathematics_is_refused_by_name(tmp_path):
    folder = train(tmp_path, epochs=1)
    changed = {"resume": str(folder), "tau": 3.0, "T": 10, "epochs": 2}
    with pytest.raises(UsageError, match=r"T 20 → 10.*tau 2.0 → 3.0"):
        training.run(Config(**changed, given=frozenset(changed)))
    forced = changed | {"force": True, "lr": 1e-3}
    assert training.run(Config(**forced, given=frozenset(forced))) == 0


def test_a_run_leaves_all_its_files(tmp_path):
    folder = train(tmp_path, epochs=2)
    assert folder.name == "T20_b100_adam_lr0.005_digits"
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "checkpoint_latest.pth",
        "checkpoint_max.pth",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names) and not any(n.startswith(".") for n in names)
    with (folder / "metrics.csv").open() as file:
        header = next(csv.reader(file))
    assert header == list(METRICS)
    assert Config.from_yaml(folder / "config.yaml").T == 20
    again = train(tmp_path, epochs=1)
    assert again.name == "T20_b100_adam_lr0.005_digits-2"
    assert json.loads((folder / "environment.json").read_text())["versions"]["torch"] == torch.__version__


def test_tensorboard_has_what_metrics_has(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(tmp_path, epochs=3)
    events = EventAccumulator(str(folder)).Reload()
    rows = metrics(folder)
    for name in ("train_loss", "train_acc", "test_loss", "test_acc", "max_test_acc", "lr"):
        scalars = events.Scalars("training/lr" if name == "lr" else name)
        assert [s.step for s in scalars] == [1, 2, 3]
        assert [s.value for s in scalars] == pytest.approx([row[name] for row in rows], rel=1e-6)


def test_backends_learn_the_same(tmp_path):
    """Same seed, same spikes: the backends part only through float rounding."""
    fused = metrics(train(tmp_path / "a", epochs=2, backend="numba"))
    modules = metrics(train(tmp_path / "b", epochs=2, backend="torch"))
    for x, y in zip(fused, modules, strict=True):
        assert abs(x["test_acc"] - y["test_acc"]) < 0.02 and x["train_loss"] == pytest.approx(y["train_loss"], rel=1e-2)


@pytest.mark.parametrize(
    "settings", [{}, {"opt": "sgd", "lr": 0.2}, {"neuron": "if", "v_reset": None, "lr": 1e-3}, {"amp": True}]
)
def test_digits_are_learned(tmp_path, settings):
    last = metrics(train(tmp_path, epochs=12, **settings))[-1]
    assert last["test_acc"] > 0.85, last


def test_seeds_are_repeated_and_summarised(tmp_path, capsys):
    (group,) = {train(tmp_path, epochs=1, seeds=3, seed=4, val=300, T=5)}
    assert group.name == "T5_b100_adam_lr0.005_digits_val300_seeds4-6"
    printed = capsys.readouterr().out.splitlines()
    folders = [group / f"seed{seed}" for seed in (4, 5, 6)]
    assert sorted(group.iterdir()) == [*folders, group / "seeds.json"]
    finals = [100 * metrics(folder)[-1]["test_acc"] for folder in folders]
    mean, std = (
        torch.tensor(finals, dtype=torch.float64).mean(),
        torch.tensor(finals, dtype=torch.float64).std(),
    )
    assert printed[-3:] == [
        f"3 seeds: test accuracy of the last epoch {mean:.2f} ± {std:.2f} % (mean ± std)",
        f"of the epochs chosen on held-out images: {mean:.2f} ± {std:.2f} %",  # the only one
        f"kept in {group / 'seeds.json'}",
    ]
    kept = json.loads((group / "seeds.json").read_text())
    assert (kept["seeds"], kept["finished"]) == (3, 3)
    assert kept["last_epoch"]["mean"] == pytest.approx(mean / 100) and kept["last_epoch"]["of_seed"].keys() == set(
        "456"
    )


def test_seeds_that_are_refused_leave_no_directory(tmp_path):
    with pytest.raises(SNNError, match="b 2000"):
        training.run(config(out_dir=str(tmp_path), seeds=2, b=2000))
    assert not list(tmp_path.iterdir())


def test_best_is_chosen_on_held_out_images(tmp_path, capsys):
    folder = train(tmp_path, epochs=4, val=300)
    rows, best = read_metrics(folder / "metrics.csv"), checkpoint.load(folder / checkpoint.BEST)
    top = max(rows, key=lambda row: (row["val_acc"], -row["epochs"]))
    assert best["epoch"] + 1 == top["epochs"] == best["best"]["epochs"]
    assert "held-out" in capsys.readouterr().out


def test_a_single_epoch_is_its_own_maximum_and_needs_no_warning(tmp_path, capsys):
    train(tmp_path, epochs=1)
    printed = capsys.readouterr().out
    assert "optimistic" not in printed and "last epoch: test accuracy" in printed


def test_eval_gives_all_its_numbers_the_same_on_both_backends(tmp_path):
    folder = train(tmp_path / "run", epochs=2)
    results = []
    for backend in ("numba", "torch"):
        file = tmp_path / f"{backend}.json"
        settings = {"resume": str(folder), "repeats": 3, "json": str(file), "backend": backend, "seed": 5}
        assert evaluate.run(EvalOptions(**settings)) == 0
        results.append(json.loads(file.read_text()))
    fused, modules = results
    assert fused["images"] == 360 and fused["encodings"] == 3
    assert fused["accuracy"] == modules["accuracy"] and fused["confusion"] == modules["confusion"]
    assert fused["loss"]["mean"] == pytest.approx(modules["loss"]["mean"], rel=1e-6)
    assert fused["input_spikes_per_image"] == modules["input_spikes_per_image"]
    confusion = torch.tensor(fused["confusion"])
    assert confusion.sum() == 3 * 360
    assert confusion.trace().item() / 1080 == pytest.approx(fused["accuracy"]["mean"])
    p = fused["accuracy"]["mean"]
    assert fused["standard_error"] == pytest.approx((p * (1 - p) / 360) ** 0.5)
    assert fused["accuracy_against_T"]["20"] == fused["accuracy"]
    assert list(fused["accuracy_against_T"]) == ["1", "2", "3", "5", "7", "10", "15", "20"]
    assert fused["synaptic_operations_per_image"] == pytest.approx(10 * fused["input_spikes_per_image"])
    assert fused["dense_multiply_accumulates_per_image"] == 7840


def test_eval_of_the_last_epoch_is_within_noise_of_training(tmp_path):
    folder = train(tmp_path / "run", epochs=6)
    assert evaluate.run(EvalOptions(resume=str(folder), repeats=5, json=str(tmp_path / "eval.json"))) == 0
    last = metrics(folder)[-1]["test_acc"]
    mean = json.loads((tmp_path / "eval.json").read_text())["accuracy"]["mean"]
    assert abs(mean - last) < 0.03 and last > 0.7


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"b": 2000}, "-b 2000 is more than the 1437 training images"),
        ({"val": 1437}, "-val 1437 holds out all"),
        ({"device": "cuda:0"}, "-device cuda:0"),
        ({"backend": "cupy", "device": "cpu"}, "cupy"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, error):
    if "device" in settings and settings["device"].startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(SNNError, match=error):
        training.run(config(out_dir=str(tmp_path), epochs=1, **settings))
    assert not list(tmp_path.iterdir())


def test_mnist_learns_in_one_epoch(tmp_path, mnist_dir):
    """Real MNIST, and where it is not there, the digits that stand in for it."""
    settings = {
        "dataset": "mnist",
        "data_dir": str(mnist_dir),
        "out_dir": str(tmp_path),
        "epochs": 1,
        "device": "cpu",
    }
    assert training.run(Config(**settings)) == 0
    assert metrics(newest(tmp_path))[-1]["test_acc"] >= 0.905
