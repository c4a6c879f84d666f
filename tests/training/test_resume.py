"""A run that was stopped and resumed equals one that was not; where a resumed run goes on, and what it refuses."""

import functools
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torture import differences

from snn_mnist.__main__ import main
from snn_mnist.cli.parser import read_command
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.network.engine import choose_runtime
from snn_mnist.settings.config import FIXED_ON_RESUME, Config
from snn_mnist.storage import checkpoint
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.training.console import Interruption
from snn_mnist.training.learner import Learner, TrainingData
from snn_mnist.training.loop import train
from snn_mnist.training.resume import restore, resume
from snn_mnist.visualizing import run_figures

SMALL = {"dataset": "digits", "T": 4, "b": 16, "limit_batches": 4, "figures": False, "epochs": 1, "j": 1}


def resumed(place: Path, **given: Any) -> Config:
    given |= {"resume": str(place)}
    return Config(**given, given=frozenset(given), flags=frozenset(given))


def epochs_in(folder: Path) -> list[int]:
    return [row["epochs"] for row in read_metrics(folder / "metrics.csv")]


# ---------------------------------------------------------------------------- exact


class StopAfter(Interruption):
    """Asks for a stop once the loop has looked for one so often: after each step, and before each batch of a test."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def requested(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Returns the directory of an undisturbed run with some settings."""

    @functools.cache
    def run(named: tuple[tuple[str, Any], ...]) -> Path:
        out = tmp_path_factory.mktemp("whole")
        return train(Config(**SMALL | {"epochs": 3, "out_dir": str(out)} | dict(named)), Interruption())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snn_mnist.network.compiled_steps.CHUNK_WORK", 1)  # a look after each step
        yield run


VALUES = {"backend": ["numba", "torch"], "opt": ["adam", "sgd"], "schedule": ["constant", "cosine"], "ema": [0.0, 0.9]}
VALUES |= {"amp": [False, True], "val": [0, 100], "eval_every": [1, 2], "votes": [1, 3], "dropout": [0.0, 0.25]}
VALUES |= {"encoding": ["poisson", "constant", "latency"], "loss": ["mse", "ce"]}
SETTINGS = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()})


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SETTINGS, st.lists(st.integers(1, 20), min_size=1, max_size=3))
def test_stopped_anywhere_and_resumed_equals_undisturbed(
    whole: Any, tmp_path_factory: pytest.TempPathFactory, chosen: dict[str, Any], stops: list[int]
):
    """Weights, optimiser, best epoch, metrics and TensorBoard's curves, bit by bit."""
    undisturbed = whole(tuple(chosen.items()))
    out = tmp_path_factory.mktemp("parts")
    folder = train(Config(**SMALL | {"epochs": 3, "out_dir": str(out)} | chosen), StopAfter(stops[0]))
    for looks in [*stops[1:], 1000]:
        assert train(resumed(folder, j=1), StopAfter(looks)) == folder
    for file in [*undisturbed.glob("*.pth"), *folder.glob("*.pth")]:
        state = checkpoint.load(file)
        state["optimizer"]["param_groups"][0]["lr"] = 0.0  # of the last step of a process, set anew before each step
        checkpoint.save(file, state)
    assert differences(undisturbed, folder) == []


@pytest.mark.parametrize("more", [{"step_mode": "s", "backend": "torch"}, {"neuron": "if", "v_reset": None}, {"lr": 1}])
def test_an_extended_run_equals_a_longer_one(whole: Any, tmp_path: Path, more: dict[str, Any]):
    folder = train(Config(**SMALL | {"out_dir": str(tmp_path)} | more), Interruption())
    assert train(resumed(folder, epochs=3, j=1), Interruption()) == folder
    assert differences(whole(tuple(more.items())), folder) == []


def test_a_resumed_epoch_counts_the_seconds_before_it_was_stopped(tmp_path: Path):
    run = {"epochs": 1, "backend": "torch", "out_dir": str(tmp_path)}
    folder = train(Config(**SMALL | run), StopAfter(2))
    state = checkpoint.load(folder)
    assert state["step"] == 3 and 0 < state["running"]["seconds"] < 1000
    state["running"]["seconds"] = 1000.0
    checkpoint.save(folder / checkpoint.LATEST, state)
    train(resumed(folder), Interruption())
    (row,) = read_metrics(folder / "metrics.csv")
    assert 1000 < row["seconds"] < 1100 and row["train_images_per_s"] == pytest.approx(64 / 1000, rel=0.1)


# ---------------------------------------------------------------------------- which settings


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run directories of one epoch, by optimiser."""
    out = str(tmp_path_factory.mktemp("runs"))
    runs = {"adam": {}, "sgd": {"opt": "sgd"}, "ce": {"loss": "ce"}}
    return {name: train(Config(**SMALL, **given, out_dir=out), Interruption()) for name, given in runs.items()}


@pytest.fixture
def own(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A run directory of one epoch, to be changed."""
    return Path(shutil.copytree(folders["adam"], tmp_path / "runs" / "T4"))


OTHERS = {"T": 5, "neuron": "if", "tau": 3.0, "v_threshold": 2.0, "v_reset": None, "surrogate": "sigmoid", "alpha": 3.0}
OTHERS |= {"b": 32, "opt": "sgd", "momentum": 0.5, "ema": 0.5, "amp": True, "seed": 1, "dataset": "mnist", "val": 10}
OTHERS |= {
    "net": "my_net.py:make",
    "limit_batches": 5,
    "votes": 2,
    "encoding": "constant",
    "loss": "ce",
    "scale": 3.0,
    "dropout": 0.5,
}


def test_every_setting_that_changes_the_result_is_refused_by_name(folders: dict[str, Path], capsys: Any):
    assert set(OTHERS) == set(FIXED_ON_RESUME)
    for name, value in OTHERS.items():
        # Adam has no momentum to change, the squared error no scale
        folder = folders["sgd" if name in ("opt", "momentum") else "ce" if name == "scale" else "adam"]
        value = "adam" if name == "opt" else value
        with pytest.raises(UsageError, match=rf"can't resume .*: {name} .* → .*-force"):
            resume(resumed(folder, **{name: value}))
        assert getattr(resume(resumed(folder, **{name: value}, force=True)).config, name) == value
    assert resume(resumed(folders["adam"], momentum=0.5)).config.momentum == 0.5
    assert main(["train", "-resume", str(folders["adam"]), "-tau", "1.5", "-T", "5"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "T 4 → 5, tau 2.0 → 1.5" in err and err.count("\n") == 1


def test_lr_schedule_and_epochs_may_change(folders: dict[str, Path]):
    config = resume(resumed(folders["adam"], lr=0.5, schedule="cosine", epochs=7)).config
    assert (config.lr, config.schedule, config.epochs, config.T, config.b) == (0.5, "cosine", 7, 4, 16)


@pytest.mark.parametrize("opt", ["adam", "sgd"])
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_the_optimiser_goes_on_with_the_settings_of_the_run(folders: dict[str, Path], opt: str, backend: str):
    """Not with those that the checkpoint had: its moments alone are taken over."""
    start = resume(resumed(folders[opt], lr=0.25, momentum=0.5, force=True, epochs=2, backend=backend, j=1))
    runtime = choose_runtime("cpu", backend, 1)
    learner = Learner(start.config, runtime, TrainingData.load(start.config, runtime.device))
    restore(start.state, learner)
    (group,) = learner.optimizer.param_groups
    assert group["lr"] == 0.25 and group.get("momentum", 0.5) == 0.5
    moment = {"adam": "exp_avg", "sgd": "momentum_buffer"}[opt]
    saved = start.state["optimizer"]["state"][0]
    assert torch.equal(learner.optimizer.state_dict()["state"][0][moment], saved[moment])


def test_the_rest_of_an_epoch_has_the_settings_of_its_start(own: Path, tmp_path: Path):
    state = checkpoint.load(own)
    state |= {"step": 2, "running": {"rates": torch.zeros(32, 10), "seconds": 1.0, "skipped": 0}}
    checkpoint.save(own / checkpoint.LATEST, state)
    with pytest.raises(SNNError, match=r"within an epoch, after 2 steps, .* T 4 → 5; finish"):
        train(resumed(own, T=5, force=True, epochs=2, out_dir=str(tmp_path / "out")), Interruption())
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------- in which directory


def test_changed_settings_get_a_directory_with_a_best_epoch_of_its_own(own: Path, tmp_path: Path, capsys: Any):
    for name in (checkpoint.LATEST, checkpoint.BEST):  # values that no later epoch reaches
        best = {"epochs": 1, "score": 1.0, "test_acc": 1.0}
        checkpoint.save(own / name, checkpoint.load(own / name) | {"max_test_acc": 1.0, "best": best})
    before = {path: path.read_bytes() for path in own.iterdir()}
    changes = {"opt": "sgd", "val": 100, "schedule": "cosine", "force": True}
    places = {
        "opt adam → sgd, val 0 → 100": own,
        "checkpoint_max.pth is not the": own / checkpoint.BEST,
        "-out-dir": own,
    }
    for number, (why, place) in enumerate(places.items()):
        flags = changes if why.startswith("opt") else {}
        folder = train(resumed(place, **flags, epochs=2, out_dir=str(tmp_path / str(number)), j=1), Interruption())
        out = capsys.readouterr().out
        assert f"continuing {place} in a new directory: " in out and why in out
        assert ("the cosine of the learning rate now ends after 2 epochs" in out) == bool(flags)
        assert json.loads((folder / "environment.json").read_text())["resumed_from"] == str(place)
        assert list(folder.parent.iterdir()) == [folder] and epochs_in(folder) == [2]
        (row,) = read_metrics(folder / "metrics.csv")
        assert row["max_test_acc"] == row["test_acc"] < 1
        best = checkpoint.load(folder / checkpoint.BEST)["best"]
        assert (best["epochs"], best["score"]) == (2, row.get("val_acc", row["test_acc"]))
        moment = "momentum_buffer" if flags else "exp_avg"  # another optimiser begins anew
        assert moment in checkpoint.load(folder)["optimizer"]["state"][0]
    assert {path: path.read_bytes() for path in own.iterdir()} == before


def test_an_out_dir_where_the_run_lies_moves_no_run(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert train(resumed(own, epochs=2, out_dir="runs", j=1), Interruption()) == own
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = (own / "config.yaml").read_text()
    (own / "config.yaml").write_text(re.sub(r"out_dir: .*", "out_dir: ./logs", text))
    flags = ["-config", str(own / "config.yaml"), "-resume", str(own), "-epochs", "3"]
    assert train(read_command(["train", *flags])[1], Interruption()) == own and epochs_in(own) == [1, 2, 3]
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(json.loads((own / "environment.json").read_text())["resumed"]) == 2


def test_a_finished_run_says_how_to_extend_it(own: Path, capsys: Any):
    before = {path: path.read_bytes() for path in own.iterdir()}
    assert train(resumed(own), Interruption()) == own
    assert "nothing to do" in (out := capsys.readouterr().out) and "-epochs 2" in out
    assert {path: path.read_bytes() for path in own.iterdir()} == before


def test_a_failure_in_the_last_figures_ends_no_run(own: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    error = SNNError("confusion.png can't be written")
    monkeypatch.setattr(run_figures, "write_run_figures", Mock(side_effect=error))
    assert train(resumed(own, epochs=2, figures=True, j=1), Interruption()) == own
    assert "confusion.png can't be written" in capsys.readouterr().out
    assert epochs_in(own) == [1, 2] and checkpoint.load(own)["epoch"] == 1


def test_a_death_in_the_last_figures_is_made_up_for(own: Path, whole: Any, monkeypatch: pytest.MonkeyPatch):
    """The last checkpoint is written after all else, so going on tests and draws once more."""
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(run_figures, "write_run_figures", lambda *_, **__: sys.exit(9))
        train(resumed(own, epochs=2, figures=True, j=1), Interruption())
    state = checkpoint.load(own)
    assert (state["epoch"], state["step"]) == (0, 4)  # trained, to be tested
    train(resumed(own, epochs=2, figures=True, j=1), Interruption())
    assert (own / "weights.png").exists() and differences(whole((("epochs", 2),)), own) == []
