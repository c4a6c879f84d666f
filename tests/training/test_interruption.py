"""Ctrl-C, SIGTERM and kill -9 on real processes: what is saved, how it goes on, that nothing is lost."""

import os
import shlex
import signal
import time
from pathlib import Path

import pytest
import torture
from nursery import Child, Nursery
from torture import QUICK, differences

from snn_mnist.cli import train as training
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint
from snn_mnist.training import loop
from snn_mnist.training.interruption import Interruption
from tests.support.runs import wait_until

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


def test_a_signal_that_comes_twice_at_once_is_one(nursery: Nursery, tmp_path: Path):
    """As `timeout` and some schedulers send it, to the process and to its group."""
    child = nursery.start("train", *QUICK, *LONG, "-out-dir", str(tmp_path))
    folder = training_goes_on(child, tmp_path)
    child.send(signal.SIGTERM)
    child.send(signal.SIGTERM)
    assert child.wait() == 143 and checkpoint.load(folder)["step"]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux's /proc")
@pytest.mark.parametrize(("backend", "long"), [("torch", "-T 5000 -step-mode s"), ("numba", "-T 400000")])
def test_a_second_ctrl_c_leaves_in_the_middle_of_a_step(nursery: Nursery, tmp_path: Path, backend: str, long: str):
    flags = [*QUICK, "-backend", backend, "-limit-batches", "1"]
    assert nursery.run("train", *flags, "-epochs", "1", "-out-dir", str(tmp_path / "compiles")).code == 0
    out = tmp_path / "out"
    child = nursery.start("train", *flags, *long.split(), "-b", "1400", "-out-dir", str(out))
    wait_until(lambda: "run directory" in child.out or child.poll() is not None, 200)
    before = cpu_seconds(child)
    wait_until(lambda: cpu_seconds(child) > before + 1 or child.poll() is not None, 200)  # within the step
    assert child.code is None, child.err
    child.send(signal.SIGINT)
    time.sleep(0.5)
    assert child.poll() is None, child.err
    while child.poll() is None:  # two that reach the program at the same time count as one
        child.send(signal.SIGINT)
        time.sleep(0.2)
    assert child.code == 130
    (folder,) = out.iterdir()
    state = checkpoint.load(folder)
    assert (state["epoch"], state["step"]) == (-1, 0)


def cpu_seconds(child: Child) -> float:
    """User and system time of the process, which a busy machine does not change."""
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    settings = {"dataset": "digits", "T": 4, "b": 16, "limit_batches": 4, "figures": False, "backend": "torch", "j": 1}
    settings |= {"epochs": 2, "val": 100, "out_dir": str(tmp_path / "a")}
    interruption = InTheTest()
    loop.train(Config(**settings), interruption)
    assert interruption.exit_code == 143
    (folder,) = (tmp_path / "a").iterdir()
    state = checkpoint.load(folder)
    assert (state["epoch"], state["step"]) == (-1, 4)
    assert training.run(Config(resume=str(folder), j=1, given=frozenset({"resume", "j"}))) == 0
    assert training.run(Config(**settings | {"out_dir": str(tmp_path / "b")})) == 0
    assert differences(next((tmp_path / "b").iterdir()), folder) == []


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in Interruption.SIGNALS], signal.set_wakeup_fd(-1)
    for _ in range(3):
        with Interruption():
            assert signal.getsignal(signal.SIGINT) != before[0][0]
    assert ([signal.getsignal(number) for number in Interruption.SIGNALS], signal.set_wakeup_fd(-1)) == before


def test_between_the_seeds_of_a_repeated_run(nursery: Nursery, tmp_path: Path):
    child = nursery.start("train", *QUICK, "-epochs", "60", "-seeds", "50", "-out-dir", str(tmp_path))
    wait_until(lambda: len(list(tmp_path.glob("*/seed*/"))) >= 2)
    child.stop()
    begun = len(list(tmp_path.glob("*/seed*/")))
    child.send(signal.SIGINT)
    child.go_on()
    assert child.wait() == 130
    assert len(list(tmp_path.iterdir())) == 1 and len(list(tmp_path.glob("*/seed*/"))) <= begun + 1
    (group,) = tmp_path.iterdir()
    assert child.out.endswith(f" of 50 seeds finished\nresume all with: python -m snn_mnist train -resume {group}\n")


# ---------------------------------------------------------------------------- one directory, two processes


def test_a_directory_is_trained_in_by_one_process(nursery: Nursery, tmp_path: Path):
    child = nursery.start("train", *QUICK, *LONG, "-out-dir", str(tmp_path))
    folder = training_goes_on(child, tmp_path)
    second = nursery.run("train", "-resume", str(folder))
    assert second.code == 1
    assert second.err == (
        f"snn_mnist train: error: another process trains in {folder}; wait until it ends, or stop it first\n"
    )
    assert child.poll() is None
    child.send(signal.SIGINT)
    assert child.wait() == 130
    rows = [row["epochs"] for row in torture.metrics(folder)]
    assert rows == list(range(1, len(rows) + 1))


def test_runs_that_start_at_once_get_a_directory_each(tmp_path: Path):
    found = torture.directories(tmp_path, 20)
    assert found.faults == [] and found.counts["directories"] == 20


@pytest.mark.slow
def test_whole_runs_that_start_at_wait_until(nursery: Nursery, tmp_path: Path):
    assert torture.starts(nursery, tmp_path, 20).faults == []


# ---------------------------------------------------------------------------- kill -9


def test_killed_at_random_moments_and_resumed_equals_undisturbed(nursery: Nursery, tmp_path: Path):
    found = torture.kills(nursery, tmp_path, 8)
    assert found.faults == []
    assert found.counts["kills"] == 8 and found.counts["in the writing of a checkpoint"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_killed_50_times(nursery: Nursery, tmp_path: Path, backend: str):
    found = torture.kills(nursery, tmp_path, 50, 1, [*QUICK, "-backend", backend])
    assert found.faults == []
    assert found.counts["in the writing of a checkpoint"] >= 10
