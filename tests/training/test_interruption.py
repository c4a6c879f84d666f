"""Ctrl-C, SIGTERM and kill -9 on real processes: what is saved, how it goes on, that nothing is lost."""

import os
import shlex
import signal
from pathlib import Path

import pytest
import torture
from nursery import Child, Nursery
from torture import QUICK, differences

from snn_mnist.__main__ import main
from snn_mnist.storage import checkpoint
from snn_mnist.training.console import Interruption
from tests.support.runs import train_run, wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and fork of POSIX")

LONG = ["-epochs", "100000"]


def training_goes_on(child: Child, out: Path, rows: int = 2) -> Path:
    """The run directory, once it has so many rows of metrics."""

    def has_rows() -> bool:
        assert child.poll() is None, child.err
        files = list(out.glob("*/metrics.csv"))
        return bool(files) and files[0].read_text().count("\n") > rows

    wait_until(has_rows)
    return next(out.iterdir())


# ---------------------------------------------------------------------------- Ctrl-C and SIGTERM


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_how_to_go_on_and_goes_on_exactly(nursery: Nursery, tmp_path: Path, number, code):
    out = tmp_path / "it's 数据"
    child = nursery.start("train", *QUICK, *LONG, "-limit-batches", "9", "-out-dir", str(out))
    folder = training_goes_on(child, out)
    child.send(number)
    assert child.wait() == code and child.err == ""
    state = checkpoint.load(folder)
    said, last = child.out.splitlines()[-2:]
    assert said == f"interrupted in epoch {state['epoch'] + 2} after {state['step']} of 9 steps, saved"
    program, _, module, *arguments = shlex.split(last.partition("resume with: ")[2])
    assert (program, module, arguments) == ("python", "snn_mnist", ["train", "-resume", str(folder)])
    assert state["step"] and not list(folder.glob(".*"))

    more = ["-epochs", str(state["epoch"] + 3), "-j", "1"]
    assert nursery.run(*arguments, *more).code == 0
    whole = nursery.run("train", *QUICK, "-limit-batches", "9", *more, "-out-dir", str(tmp_path / "whole"))
    assert whole.code == 0
    assert differences(next((tmp_path / "whole").iterdir()), folder) == []


def test_a_second_signal_ends_the_program_at_once(monkeypatch: pytest.MonkeyPatch):
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with Interruption() as interruption:
        monkeypatch.setattr("snn_mnist.training.console.REPEAT_SECONDS", 100)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # repeats the first
        assert interruption.exit_code == 143 and not ended
        monkeypatch.setattr("snn_mnist.training.console.REPEAT_SECONDS", 0)
        signal.raise_signal(signal.SIGINT)
    assert ended == [130]


class InTheTest(Interruption):
    """A SIGTERM arrives each time a test is about to begin on a batch of images, from the second time on."""

    tests = 0

    def check(self) -> None:
        self.tests += 1
        if self.tests > 2:
            os.kill(os.getpid(), signal.SIGTERM)
        super().check()


def test_interrupted_while_testing(tmp_path: Path):
    """The epoch counts as trained but not finished: going on begins with its test."""
    settings = {"T": 4, "b": 16, "limit_batches": 4, "backend": "torch", "epochs": 2, "val": 100}
    interruption = InTheTest()
    folder = train_run(tmp_path / "a", interruption, **settings)
    assert interruption.exit_code == 143
    state = checkpoint.load(folder)
    assert (state["epoch"], state["step"]) == (-1, 4)
    assert main(["train", "-resume", str(folder)]) == 0
    assert differences(train_run(tmp_path / "b", **settings), folder) == []


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in Interruption.SIGNALS]
    for _ in range(3):
        with (outer := Interruption()), outer:
            assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in Interruption.SIGNALS] == before


# ---------------------------------------------------------------------------- one directory, two processes


def test_a_directory_is_trained_in_by_one_process(nursery: Nursery, tmp_path: Path):
    child = nursery.start("train", *QUICK, *LONG, "-out-dir", str(tmp_path))
    folder = training_goes_on(child, tmp_path)
    second = nursery.run("train", "-resume", str(folder))
    assert second.code == 1 and second.err.startswith(f"snn_mnist train: error: another process trains in {folder}; ")
    assert child.poll() is None
    child.send(signal.SIGINT)
    assert child.wait() == 130
    rows = [row["epochs"] for row in torture.metrics(folder)]
    assert rows == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("n", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_runs_that_start_at_once_get_a_directory_each(nursery: Nursery, tmp_path: Path, n: int):
    children = [nursery.start("train", *QUICK, "-epochs", "1", "-out-dir", str(tmp_path)) for _ in range(n)]
    assert [child.wait(600) for child in children] == [0] * n
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == n and not any(differences(folders[0], folder) for folder in folders)


# ---------------------------------------------------------------------------- kill -9


def test_killed_at_random_moments_and_resumed_equals_undisturbed(nursery: Nursery, tmp_path: Path):
    assert torture.kills(nursery, tmp_path, 5) >= 1  # in the writing of a checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_killed_50_times(nursery: Nursery, tmp_path: Path, backend: str):
    assert torture.kills(nursery, tmp_path, 50, 1, [*QUICK, "-backend", backend]) >= 10
