"""What a training run leaves, and how well it learns, on real data."""

import csv
import json

import pytest
import torch
import torture

from snn_mnist.__main__ import main
from snn_mnist.cli import train as training
from snn_mnist.errors import SNNError
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint
from snn_mnist.storage.metrics import METRICS
from tests.support.runs import config, metrics, newest


def train(out, **settings):
    assert training.run(config(out_dir=str(out), **settings)) == 0
    return newest(out)


def test_a_run_leaves_all_its_files(tmp_path):
    folder = train(tmp_path, epochs=2)
    assert folder.name == "T20_b100_adam_lr0.005_digits"
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "environment.json", "metrics.csv", checkpoint.LATEST, checkpoint.BEST} <= names
    assert any(name.startswith("events.out.tfevents") for name in names) and not any(n.startswith(".") for n in names)
    with (folder / "metrics.csv").open() as file:
        header = next(csv.reader(file))
    assert header == list(METRICS)
    assert Config.from_yaml(folder / "config.yaml").T == 20
    again = train(tmp_path, epochs=1)
    assert again.name == "T20_b100_adam_lr0.005_digits-2"
    versions = json.loads((folder / "environment.json").read_text())["versions"]
    assert versions["torch"] == torch.__version__.partition("+")[0]
    rows, curves = metrics(folder), torture.curves(folder)
    for name in ("train_loss", "train_acc", "test_loss", "test_acc", "max_test_acc", "lr"):
        scalars = curves["training/lr" if name == "lr" else name]
        assert scalars == [(n, pytest.approx(row[name], rel=1e-6)) for n, row in enumerate(rows, 1)]


def test_backends_learn_the_same(tmp_path):
    """Same seed, same spikes: the backends part only through float rounding."""
    both = [metrics(train(tmp_path / each, backend=each, T=8, b=200, epochs=1, seed=3)) for each in ("torch", "numba")]
    for name in ("train_loss", "train_acc", "test_loss", "test_acc"):
        assert both[0][0][name] == pytest.approx(both[1][0][name], rel=1e-5), name


@pytest.mark.parametrize(
    "settings", [{}, {"opt": "sgd", "lr": 0.2}, {"neuron": "if", "v_reset": None, "lr": 1e-3}, {"amp": True}]
)
def test_digits_are_learned(tmp_path, settings):
    last = metrics(train(tmp_path, epochs=12, **settings))[-1]
    assert min(last["test_acc"], last["train_acc"]) > 0.85, last  # each rate is compared with its image's label


def test_eval_gives_all_its_numbers_the_same_on_both_backends(tmp_path):
    folder = train(tmp_path / "run", epochs=2)
    results = []
    for backend in ("numba", "torch"):
        flags = ["-repeats", "3", "-backend", backend, "-seed", "5", "-json", str(tmp_path / "x.json")]
        assert main(["eval", "-resume", str(folder), *flags]) == 0
        results.append(json.loads((tmp_path / "x.json").read_text()))
    fused, modules = results
    assert fused["loss"]["mean"] == pytest.approx(modules["loss"]["mean"], rel=1e-6)
    for key in fused.keys() - {"loss", "backend", "images_per_s"}:
        assert fused[key] == modules[key], key
    assert fused["accuracy_against_T"]["20"] == fused["accuracy"] and sum(map(sum, fused["confusion"])) == 3 * 360


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"val": 1437}, "-val 1437 holds out all"),
        ({"backend": "cupy", "device": "cpu"}, "cupy"),
        ({"out_dir": __file__}, "test_train.py can't be written .*choose another -out-dir"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, error):
    with pytest.raises(SNNError, match=error):
        training.run(config(epochs=1, **{"out_dir": str(tmp_path)} | settings))
    assert not list(tmp_path.iterdir())


def test_mnist_learns_in_one_epoch(tmp_path, mnist_dir):
    """Real MNIST, and where it is not there, the digits that stand in for it."""
    settings = {"data_dir": str(mnist_dir), "out_dir": str(tmp_path), "epochs": 1, "device": "cpu"}
    assert training.run(Config(**settings)) == 0
    assert metrics(newest(tmp_path))[-1]["test_acc"] >= 0.905
