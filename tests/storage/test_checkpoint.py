"""Checkpoints: what is saved comes back, other programs can read it, and the rules of going on."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torture

from snn_mnist.cli import parser as cli
from snn_mnist.cli import train as training
from snn_mnist.cli.main import main
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.network.device import choose_runtime
from snn_mnist.settings.config import FIXED_ON_RESUME, Config
from snn_mnist.storage import checkpoint, metrics
from snn_mnist.training import resume
from snn_mnist.training.data import TrainingData
from snn_mnist.training.learner import Learner
from snn_mnist.training.snapshot import restore
from snn_mnist.visualizing import run_figures as figures

SMALL = {"dataset": "digits", "T": 4, "b": 16, "limit_batches": 4, "figures": False, "epochs": 1, "j": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run directories of one epoch, by optimiser."""
    out = tmp_path_factory.mktemp("runs")
    for opt in ("adam", "sgd"):
        assert training.run(Config(**SMALL, opt=opt, out_dir=str(out))) == 0
    return {opt: next(out.glob(f"*{opt}*")) for opt in ("adam", "sgd")}


def resumed(place: Path, **given: Any) -> Config:
    given |= {"resume": str(place)}
    return Config(**given, given=frozenset(given))


# ---------------------------------------------------------------------------- files


@pytest.mark.parametrize("opt", ["adam", "sgd"])
def test_torch_reads_what_we_write_and_we_read_the_same(folders: dict[str, Path], opt: str):
    for name in (checkpoint.LATEST, checkpoint.BEST):
        file = folders[opt] / name
        assert torture.same(checkpoint.load(file), torch.load(file, weights_only=True))


def test_a_checkpoint_says_who_may_read_it_as_other_files_do(tmp_path: Path):
    file = tmp_path / "c.pth"
    before = os.umask(0o027)
    try:
        checkpoint.save(file, {"net": {checkpoint.WEIGHT: torch.zeros(checkpoint.SHAPE)}})
    finally:
        os.umask(before)
    assert os.name != "posix" or file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]
    assert checkpoint.load(file)["version"] == checkpoint.VERSION


def test_the_least_that_is_a_checkpoint(tmp_path: Path):
    """What another program may write: weights alone, in any floating-point type."""
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        torch.save({"net": {checkpoint.WEIGHT: torch.ones(checkpoint.SHAPE, dtype=dtype)}}, tmp_path / "w.pth")
        assert checkpoint.load(tmp_path / "w.pth")["net"][checkpoint.WEIGHT].dtype == dtype


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no checkpoint "),
        (lambda path: path.mkdir(), "no checkpoint_latest.pth in "),
        (
            lambda path: (path.mkdir(), (path / checkpoint.LATEST).mkdir()),
            "_latest.pth is not a regular file",
        ),
        (lambda path: path.symlink_to(path), "there is no checkpoint |can't be read"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (lambda path: path.symlink_to("/dev/null"), "is not a regular file"),
        (lambda path: os.mkfifo(path), "is not a regular file"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="devices and pipes of POSIX")
def test_what_is_no_file(tmp_path: Path, make, words: str):
    path = tmp_path / "x"
    make(path)
    with pytest.raises(SNNError, match=words) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == (1 if "can't be read" in str(caught.value) else 2)


def test_names_that_no_file_can_have():
    for name in ("x" * 5000, "x/" * 3000, "nul\0"):
        with pytest.raises((SNNError, ValueError)):
            checkpoint.load(name)


# ---------------------------------------------------------------------------- going on


OTHERS = {
    "T": 5, "neuron": "if", "tau": 3.0, "v_threshold": 2.0, "v_reset": None, "surrogate": "sigmoid", "alpha": 3.0,
    "b": 32, "opt": "sgd", "momentum": 0.5, "ema": 0.5, "amp": True, "seed": 1, "dataset": "mnist", "val": 10,
    "limit_batches": 5,
}  # fmt: skip


def test_every_setting_that_alters_the_mathematics_is_refused_by_name(folders: dict[str, Path]):
    assert set(OTHERS) == set(FIXED_ON_RESUME)
    for name, value in OTHERS.items():
        folder = folders["sgd" if name in ("opt", "momentum") else "adam"]  # Adam has no momentum to change
        value = "adam" if name == "opt" else value
        with pytest.raises(UsageError, match=rf"can't resume .*: {name} .* → .* changes the result; remove .* -force"):
            resume.resume(resumed(folder, **{name: value}))
        config = resume.resume(resumed(folder, **{name: value}, force=True)).config
        assert getattr(config, name) == value
    assert resume.resume(resumed(folders["adam"], momentum=0.5)).config.momentum == 0.5
    with pytest.raises(UsageError, match=r": T 4 → 5, seed 0 → 1 changes"):
        resume.resume(resumed(folders["adam"], T=5, seed=1))


def test_the_refusal_as_the_program_prints_it(folders: dict[str, Path], capsys: pytest.CaptureFixture):
    assert main(["train", "-resume", str(folders["adam"]), "-tau", "1.5"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == (
        f"snn_mnist train: error: can't resume {folders['adam']}: tau 2.0 → 1.5 changes the result; "
        "remove that flag, start a new run, or give -force\n"
    )


def test_lr_schedule_and_epochs_may_change(folders: dict[str, Path]):
    config = resume.resume(resumed(folders["adam"], lr=0.5, schedule="cosine", epochs=7)).config
    assert (config.lr, config.schedule, config.epochs, config.T, config.b) == (0.5, "cosine", 7, 4, 16)


def test_a_finished_run_says_how_to_extend_it(folders: dict[str, Path], capsys: pytest.CaptureFixture):
    before = {path: path.read_bytes() for path in folders["adam"].iterdir()}
    assert training.run(resumed(folders["adam"])) == 0
    assert capsys.readouterr().out == (
        f"nothing to do: {folders['adam']} has been trained for 1 epochs;\n"
        "to continue, give a larger -epochs, e.g. -epochs 2\n"
    )
    assert {path: path.read_bytes() for path in folders["adam"].iterdir()} == before


def test_another_optimiser_needs_force_and_begins_anew(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
):
    best = folders["adam"] / checkpoint.BEST
    given = {"opt": "sgd", "epochs": 2, "out_dir": str(tmp_path), "force": True, "j": 1}
    assert training.run(resumed(best, **given)) == 0
    assert f"{best} has the state of another optimiser, which is not used" in capsys.readouterr().out
    (folder,) = tmp_path.iterdir()
    assert checkpoint.load(folder)["config"]["opt"] == "sgd"


def test_settings_of_the_optimiser_that_have_no_flag(folders: dict[str, Path], tmp_path: Path):
    """A checkpoint of another program may have been trained with weight decay, which would be lost in silence."""
    state = checkpoint.load(folders["adam"])
    state["optimizer"]["param_groups"][0] |= {"weight_decay": 0.01, "betas": (0.5, 0.999)}
    file = tmp_path / "other.pth"
    torch.save(state, file)
    with pytest.raises(UsageError, match=r"betas 0.5,0.999 → 0.9,0.999, weight_decay 0.01 → 0; .* -force"):
        training.run(resumed(file, epochs=2, out_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    assert training.run(resumed(file, epochs=2, out_dir=str(tmp_path / "out"), force=True, j=1)) == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert checkpoint.load(folder)["optimizer"]["param_groups"][0]["weight_decay"] == 0


@pytest.mark.parametrize(("step", "images"), [(2, 31), (2, 48), (5, 80)])
def test_the_middle_of_an_epoch_must_fit(folders: dict[str, Path], tmp_path: Path, step: int, images: int):
    state = checkpoint.load(folders["adam"])
    state |= {"step": step, "running": {"rates": torch.zeros(images, 10), "seconds": 1.0}}
    torch.save(state, tmp_path / "half.pth")
    words = f"half.pth was saved within an epoch, after {step} steps with {images} images, which does not fit 4 steps"
    with pytest.raises(SNNError, match=words):
        training.run(resumed(tmp_path / "half.pth", epochs=2, out_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------- where it goes on


@pytest.fixture
def own(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A run directory of one epoch, to be changed."""
    return Path(shutil.copytree(folders["adam"], tmp_path / "runs" / "T4"))


def test_forced_mathematics_gets_a_directory_of_its_own(own: Path, tmp_path: Path):
    """The old run keeps its files; the new one has its columns, and a best epoch whose weights lie in it."""
    before = {path: path.read_bytes() for path in own.iterdir()}
    out = tmp_path / "out"
    config = resumed(own, val=100, force=True, epochs=2, out_dir=str(out), j=1)
    assert training.run(config) == 0
    assert {path: path.read_bytes() for path in own.iterdir()} == before
    (folder,) = out.iterdir()
    (row,) = metrics.read_metrics(folder / "metrics.csv")
    assert row["epochs"] == 2 and "val_acc" in row
    best = checkpoint.load(folder / checkpoint.BEST)["best"]
    assert (best["epochs"], best["score"]) == (2, row["val_acc"])


def test_going_on_from_the_best_checkpoint_makes_one_of_its_own(own: Path, tmp_path: Path):
    state = checkpoint.load(own / checkpoint.BEST)
    state["best"]["score"] = state["best"]["test_acc"] = 1.0  # not to be exceeded
    checkpoint.save(own / checkpoint.BEST, state)
    assert training.run(resumed(own / checkpoint.BEST, epochs=2, out_dir=str(tmp_path / "out"), j=1)) == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert checkpoint.load(folder / checkpoint.BEST)["best"]["epochs"] == 2


def test_another_out_dir_is_not_ignored(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, before = tmp_path / "elsewhere", sorted(path.name for path in own.iterdir())
    assert training.run(resumed(own, epochs=2, out_dir=str(out), j=1)) == 0
    (folder,) = out.iterdir()
    assert [row["epochs"] for row in metrics.read_metrics(folder / "metrics.csv")] == [2]
    assert sorted(path.name for path in own.iterdir()) == before
    monkeypatch.chdir(tmp_path)
    assert training.run(resumed(own, epochs=2, out_dir="runs", j=1)) == 0  # where it is already
    assert [row["epochs"] for row in metrics.read_metrics(own / "metrics.csv")] == [1, 2]


def test_environment_keeps_every_start(own: Path):
    for epochs in (2, 3):
        assert training.run(resumed(own, epochs=epochs, j=1)) == 0
    starts = json.loads((own / "environment.json").read_text())
    assert {"command", "started", "place", "machine", "versions"} < set(starts)
    assert len(starts["resumed"]) == 2 and all(start["place"] for start in starts["resumed"])


def test_a_death_before_the_last_figures_loses_none(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The last checkpoint is written after all else, so the last epoch is done again, figures and all."""

    class Death(BaseException):
        pass

    def die(*_: object) -> None:
        raise Death

    with monkeypatch.context() as patched:
        patched.setattr(figures, "write_run_figures", die)
        with pytest.raises(Death):
            training.run(resumed(own, epochs=2, figures=True, j=1))
    assert not (own / "curves.png").exists() and checkpoint.load(own)["epoch"] == 0
    assert training.run(resumed(own, epochs=2, figures=True, j=1)) == 0
    assert (own / "curves.png").exists() and checkpoint.load(own)["epoch"] == 1
    assert [row["epochs"] for row in metrics.read_metrics(own / "metrics.csv")] == [1, 2]
    assert training.run(Config(**SMALL | {"epochs": 2, "out_dir": str(tmp_path / "whole")})) == 0
    (whole,) = (tmp_path / "whole").iterdir()
    assert torch.equal(checkpoint.load(whole)["net"][checkpoint.WEIGHT], checkpoint.load(own)["net"][checkpoint.WEIGHT])


def test_slots_of_two_optimisers_and_odd_counts_are_damage(own: Path):
    state = checkpoint.load(own)
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(10, 784)
    checkpoint.save(own / checkpoint.LATEST, state)
    with pytest.raises(SNNError, match="an optimizer state with the unknown exp_avg"):
        checkpoint.load(own)
    del state["optimizer"]["state"][0]["momentum_buffer"]
    state |= {"step": 1, "running": {"rates": torch.zeros(16, 10), "seconds": 1.0, "skipped": -1}}
    checkpoint.save(own / checkpoint.LATEST, state)
    with pytest.raises(SNNError, match="running skipped -1"):
        checkpoint.load(own)


def test_a_figure_that_fails_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def fail(*_: object) -> None:
        raise RuntimeError("latex could not be found")

    monkeypatch.setattr(figures, "write_run_figures", fail)
    assert training.run(Config(**SMALL | {"figures": True, "out_dir": str(tmp_path)})) == 0
    (folder,) = tmp_path.iterdir()
    assert f"no figures (latex could not be found); draw them with plot {folder}" in capsys.readouterr().out
    assert checkpoint.load(folder)["epoch"] == 0 and (folder / checkpoint.BEST).exists()


def test_a_maximum_is_that_of_the_same_computation(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    for name in (checkpoint.LATEST, checkpoint.BEST):
        state = checkpoint.load(own / name) | {"max_test_acc": 1.0}
        checkpoint.save(own / name, state)
    given = {"tau": 40.0, "force": True, "epochs": 2, "out_dir": str(tmp_path / "out"), "j": 1}
    assert training.run(resumed(own, **given)) == 0
    assert "continuing in a new directory: tau 2.0 → 40.0" in capsys.readouterr().out
    (folder,) = (tmp_path / "out").iterdir()
    (row,) = metrics.read_metrics(folder / "metrics.csv")
    assert row["max_test_acc"] == row["test_acc"] < 1


def test_the_rest_of_an_epoch_has_the_mathematics_of_its_start(own: Path, tmp_path: Path):
    state = checkpoint.load(own)
    state |= {"step": 2, "running": {"rates": torch.zeros(32, 10), "seconds": 1.0}}
    checkpoint.save(own / checkpoint.LATEST, state)
    with pytest.raises(SNNError, match=r"after 2 steps, whose rest needs the same settings, not T 4 → 5; finish"):
        training.run(resumed(own, T=5, force=True, epochs=2, out_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_momentum_begins_at_zero_where_there_was_none(own: Path, folders: dict[str, Path], tmp_path: Path):
    state = checkpoint.load(folders["sgd"])
    state["optimizer"]["state"] = {}
    checkpoint.save(own / checkpoint.LATEST, state)
    start = resume.resume(resumed(own, epochs=2, j=1))
    runtime = choose_runtime("cpu", "numba", 1)
    learner = Learner(start.config, runtime, TrainingData.load(start.config, runtime.device))
    restore(start, learner)
    assert not learner.optimizer.state_dict()["state"][0]["momentum_buffer"].any()


def test_the_out_dir_of_a_configuration_file_moves_no_run(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = (own / "config.yaml").read_text()
    (own / "config.yaml").write_text(re.sub(r"out_dir: .*", "out_dir: ./logs", text))
    _, config = cli.read_command(["train", "-config", str(own / "config.yaml"), "-resume", str(own), "-epochs", "2"])
    assert training.run(config) == 0
    assert [row["epochs"] for row in metrics.read_metrics(own / "metrics.csv")] == [1, 2]
    assert list((tmp_path / "elsewhere").iterdir()) == []
