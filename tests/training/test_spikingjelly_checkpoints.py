"""Checkpoints of the tutorial's program, SpikingJelly's `lif_fc_mnist`, both ways.

The tests marked `oracle` run that program itself and need a Python that has it, best a throw-away one:

    uv venv .venv-oracle
    uv pip install --python .venv-oracle/bin/python torch torchvision spikingjelly tensorboard nir nirtorch
    SNN_MNIST_SPIKINGJELLY_PYTHON=.venv-oracle/bin/python pytest -m oracle

Its data are scikit-learn's digits, written as MNIST's files, so that an epoch takes seconds.
"""

from __future__ import annotations

import functools
import json
import os
import re
import struct
import subprocess

import pytest
import torch

from snn_mnist.__main__ import main
from snn_mnist.network.network import load_network
from snn_mnist.storage import checkpoint
from tests.support.export_net import digits, network, weights
from tests.support.runs import train_run

VARIABLE = "SNN_MNIST_SPIKINGJELLY_PYTHON"
missing = f"{VARIABLE} names no Python with SpikingJelly; see this file's head"
oracle = [pytest.mark.oracle, pytest.mark.skipif(VARIABLE not in os.environ, reason=missing)]


# ---------------------------------------------------------------------------- without SpikingJelly


class Tutorial(torch.nn.Module):
    """The parameters of the tutorial's network, under its names."""

    def __init__(self):
        super().__init__()
        linear = torch.nn.Linear(784, 10, bias=False)
        self.layer = torch.nn.Sequential(torch.nn.Flatten(), linear, torch.nn.Identity())


def tutorial_checkpoint(path, optimizer_of):
    net = Tutorial()
    optimizer = optimizer_of(net.parameters())
    net.layer(torch.rand(4, 784)).square().mean().backward()
    optimizer.step()
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 4, "max_test_acc": 0.125}
    torch.save(state, path)
    return state


@pytest.mark.parametrize(
    ("optimizer_of", "settings"),
    [
        (lambda p: torch.optim.Adam(p, lr=0.00125), {"opt": "adam", "lr": 0.00125}),
        (lambda p: torch.optim.SGD(p, lr=0.25, momentum=0.75), {"opt": "sgd", "lr": 0.25, "momentum": 0.75}),
        (lambda p: torch.optim.SGD(p, lr=0.5), {"opt": "sgd", "lr": 0.5, "momentum": 0.0}),
    ],
    ids=["adam", "sgd", "plain sgd"],
)
def test_training_goes_on_from_the_tutorials_checkpoint(tmp_path, capsys, optimizer_of, settings):
    path = tmp_path / "checkpoint_latest.pth"
    before = tutorial_checkpoint(path, optimizer_of)
    flags = ["-dataset", "digits", "-T", "5", "-limit-batches", "1", "-epochs", "6", "-b", "32", "-no-figures"]
    assert main(["train", "-resume", str(path), *flags, "-out-dir", str(tmp_path / "runs")]) == 0
    assert "does not record T, tau" in capsys.readouterr().out
    after = checkpoint.load(next((tmp_path / "runs").iterdir()))
    assert after["epoch"] == 5 and after["max_test_acc"] >= 0.125
    group = after["optimizer"]["param_groups"][0]
    for name, value in settings.items():
        assert after["config"][name] == value
        assert name == "opt" or group[name] == value
    if settings["opt"] == "adam":
        assert after["optimizer"]["state"][0]["step"] == before["optimizer"]["state"][0]["step"] + 1


def test_eval_takes_the_tutorials_checkpoint(tmp_path, capsys):
    path = tmp_path / "checkpoint_max.pth"
    net = Tutorial()
    net.load_state_dict({"layer.1.weight": torch.from_numpy(weights())})
    torch.save({"net": net.state_dict(), "optimizer": {}, "epoch": 0, "max_test_acc": 0.5}, path)
    flags = ["-dataset", "digits", "-T", "20", "-repeats", "1", "-json", "-"]
    assert main(["eval", "-resume", str(path), *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy"]["mean"] > 0.9 and result["assumed"]["tau"] == 2.0


@pytest.mark.parametrize("opt", ["adam", "sgd"])
def test_our_checkpoint_loads_as_the_tutorial_loads_its_own(tmp_path, opt):
    folder = train_run(tmp_path, epochs=1, limit_batches=3, opt=opt, lr=0.03)
    state = torch.load(folder / checkpoint.LATEST, map_location="cpu")
    net = Tutorial()
    net.load_state_dict(state["net"])
    kinds = {"adam": torch.optim.Adam, "sgd": functools.partial(torch.optim.SGD, momentum=0.9)}
    optimizer = kinds[opt](net.parameters(), lr=1.0)
    optimizer.load_state_dict(state["optimizer"])
    assert optimizer.param_groups[0]["lr"] == 0.03
    net.layer(torch.rand(2, 784)).mean().backward()
    optimizer.step()
    assert not torch.equal(net.layer[1].weight, state["net"]["layer.1.weight"])
    assert state["epoch"] == 0 and 0 <= state["max_test_acc"] <= 1


# ---------------------------------------------------------------------------- with SpikingJelly


@pytest.fixture(scope="module")
def mnist_files(tmp_path_factory):
    """The digits as MNIST's files."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, stem in ((digits().train, "train"), (digits().test, "t10k")):
        images = struct.pack(">4I", 2051, len(split), 28, 28) + split.images.numpy().tobytes()
        labels = struct.pack(">2I", 2049, len(split)) + bytes(split.labels.tolist())
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
    return folder


def spikingjelly(arguments, cwd):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [os.environ[VARIABLE], *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


def example(cwd, data, *flags):
    """Runs the example as a user does; its last epoch's figures."""
    module = ["-m", "spikingjelly.activation_based.examples.lif_fc_mnist"]
    base = ["-T", 20, "-device", "cpu", "-b", 64, "-j", 0, "-data-dir", data, "-out-dir", cwd / "theirs"]
    out = spikingjelly([*module, *base, *flags], cwd)
    return {name: float(x) for name, x in re.findall(r"(\w+) = ?([-\d.]+)[,\n]", out.split("theirs/")[-1])}


class TestWithSpikingJelly:
    pytestmark = oracle

    @pytest.mark.parametrize("opt", [["-opt", "adam", "-lr", "0.001"], ["-opt", "sgd", "-lr", "0.5"]], ids=str)
    def test_there_and_back(self, tmp_path, mnist_files, capsys, opt):
        """Their first epoch, our second, their third."""
        first = example(tmp_path, mnist_files, "-epochs", 1, *opt)
        (theirs,) = (tmp_path / "theirs").iterdir()
        flags = ["-dataset", "digits", "-T", "20"]
        path = str(theirs / "checkpoint_latest.pth")
        assert main(["eval", "-resume", path, *flags, "-repeats", "3", "-json", "-"]) == 0
        tested = json.loads(capsys.readouterr().out)
        assert abs(tested["accuracy"]["mean"] - first["test_acc"]) < 0.04  # other random spikes
        assert main(["train", "-resume", path, *flags, "-epochs", "2", "-out-dir", str(tmp_path / "ours")]) == 0
        (ours,) = (tmp_path / "ours").iterdir()
        second = checkpoint.load(ours)
        assert second["epoch"] == 1 and second["config"]["lr"] == float(opt[3])
        printed = 1e-4  # the example prints four digits
        assert second["max_test_acc"] + printed > first["max_test_acc"] > 0.1
        third = example(tmp_path, mnist_files, "-epochs", 3, *opt, "-resume", ours / "checkpoint_latest.pth")
        assert third["epoch"] == 2
        assert third["max_test_acc"] + printed > second["max_test_acc"]
        assert third["train_acc"] > first["train_acc"] + 0.1

    def test_their_nir_file_becomes_our_checkpoint(self, tmp_path):
        pytest.importorskip("nir", reason="the extra nir is not installed")
        checkpoint.save(tmp_path / "ours.pth", {"net": network().net.state_dict()})
        script = """
import nir, torch
from spikingjelly.activation_based.examples.lif_fc_mnist import SNN
from spikingjelly.activation_based.nir_exchange import export_to_nir
net = SNN(tau=3.0)
net.load_state_dict(torch.load("ours.pth", map_location="cpu")["net"])
export_to_nir(net.layer[1:], torch.zeros(1, 784), save_path="theirs.nir")
"""
        spikingjelly(["-c", script], tmp_path)
        assert main(["import", str(tmp_path / "theirs.nir")]) == 0
        back = load_network(str(tmp_path / "theirs.pth"))
        assert back.config.tau == 3.0 and back.config.v_reset == 0.0
        assert abs(back.config.v_threshold - 1) < 1e-6
        assert torch.equal(back.net.weight, network().net.weight)
