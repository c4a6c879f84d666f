"""Several processes on one study: an SQLite file, a real PostgreSQL server; workers that are killed."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from nursery import Child, Nursery
from optuna.trial import TrialState
from torture import same

from snn_mnist.search.study import number_of, trials_of
from snn_mnist.storage import checkpoint
from snn_mnist.storage.metrics import read_metrics
from tests.support import postgres
from tests.support.runs import metrics, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")

TRIALS, EPOCHS = 4, 18
RUN = ["-dataset", "digits", "-val", "100", "-T", "20", "-b", "32"]
RUN += ["-epochs", str(EPOCHS), "-j", "1"]  # threads that wait for each other take time
STUDY = ["sweep", *RUN, "-tau", "1.1,2", "-v-reset", "none,0", "-sampler", "grid", "-no-prune", "-repeats", "2"]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres.server() as url:
        yield url


def start(nursery: Nursery, out: Path, url: str, *more: str, **settings: str) -> Child:
    return nursery.start(*STUDY, "-workers", "1", "-out-dir", str(out), "-storage", url, *more, **settings)


@contextlib.contextmanager
def started_in_a_hurry(nursery: Nursery, out: Path, url: str) -> Iterator[Child]:
    """The same command with heartbeats of a second, after three of which a worker counts as dead."""
    hurry = "from snn_mnist.search import study; study.HEARTBEAT, study.DEAD_AFTER = 1, 3"
    child = start(nursery, out, url, before=hurry)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()


def opened(url: str) -> optuna.Study:
    return optuna.load_study(study_name="sweep", storage=url if "://" in url else f"sqlite:///{url}")


def stopped(child: Any, out: Path, workers: int = 1) -> tuple[int, Path]:
    """A worker of the command, stopped (SIGSTOP) within a trial, and the directory of that run.

    The child itself is its only worker, or its processes are.
    """
    found: list[tuple[int, Path]] = []

    def look() -> bool:
        assert child.poll() is None
        for pid in [child.pid] if workers == 1 else children(child.pid):
            os.kill(pid, signal.SIGSTOP)
            for file in out.glob("sweep/trial-*/metrics.csv"):
                if 2 <= file.read_text().count("\n") - 1 < EPOCHS - 2 and opened_by(pid, file.parent):
                    found.append((pid, file.parent))
                    return True
            os.kill(pid, signal.SIGCONT)
        return False

    wait_until(look)
    return found[0]


def opened_by(pid: int, folder: Path) -> bool:
    """A run holds a lock on its directory."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return any(link.is_symlink() and os.readlink(link) == str(folder) for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def check(url: str, out: Path) -> None:
    """Each trial of the study once: its settings, its run directory, its epochs."""
    trials = trials_of(opened(url))
    numbers = [number_of(each) for each in trials]
    assert len(numbers) == len(set(numbers)) == TRIALS
    assert all(each.state == TrialState.COMPLETE for each in trials)
    assert set(Counter((each.params["tau"], each.params["v_reset"]) for each in trials).values()) == {1}
    folders = sorted((out / "sweep").glob("trial-*"))
    assert [folder.name for folder in folders] == [f"trial-{number:04}" for number in numbers]
    for trial, folder in zip(trials, folders, strict=True):
        rows = read_metrics(folder / "metrics.csv")
        assert [row["epochs"] for row in rows] == list(range(1, EPOCHS + 1))
        assert trial.value == rows[-1]["val_acc"]
        assert trial.intermediate_values.items() <= {row["epochs"]: row["val_acc"] for row in rows}.items()
        assert checkpoint.load(folder)["config"]["tau"] == trial.params["tau"]


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_two_commands_one_is_killed(nursery: Nursery, tmp_path: Path, request: pytest.FixtureRequest, kind: str):
    """They start at once on a storage that neither has made; the trial of the dead one is resumed by the other."""
    url = str(tmp_path / "shared.db") if kind == "SQLite" else request.getfixturevalue("database")
    with started_in_a_hurry(nursery, tmp_path, url) as dies, started_in_a_hurry(nursery, tmp_path, url) as stays:
        _, folder = stopped(dies, tmp_path)
        dies.kill()
        assert stays.wait() == 0, stays.out + stays.err
    check(url, tmp_path)
    assert len(opened(url).get_trials(states=(TrialState.FAIL,))) == 1, "the killed one was in one trial"
    assert (dies.out + stays.out).count("  trial ") == TRIALS
    assert_undisturbed(nursery, tmp_path, url, folder)


def assert_undisturbed(nursery: Nursery, out: Path, url: str, folder: Path) -> None:
    """The resumed run is bit for bit one that was never killed, under the number with which it began."""
    (trial,) = [each for each in trials_of(opened(url)) if each.number != number_of(each)]
    assert number_of(trial) == int(folder.name[-4:]) < trial.number
    flags = [f"-tau={trial.params['tau']}", f"-v-reset={'none' if trial.params['v_reset'] is None else 0}", "-no-test"]
    assert nursery.run("train", *RUN, *flags, "-no-figures", "-out-dir", str(out), "-name", "whole").code == 0
    assert metrics(folder) == metrics(out / "whole")
    assert same(checkpoint.load(folder)["net"], checkpoint.load(out / "whole")["net"])


def test_a_worker_process_is_killed(nursery: Nursery, tmp_path: Path):
    """The command goes on with the others, and stops with them; another command ends the study."""
    url = str(tmp_path / "sweep" / "study.db")
    child = nursery.start(*STUDY, "-workers", "2", "-out-dir", str(tmp_path))
    worker, _ = stopped(child, tmp_path, workers=2)
    os.kill(worker, signal.SIGKILL)
    child.send(signal.SIGTERM)
    assert child.wait() == 143 and child.err == ""
    with started_in_a_hurry(nursery, tmp_path, url) as other:
        assert other.wait() == 0, other.out + other.err
    check(url, tmp_path)


def children(pid: int) -> list[int]:
    """The worker processes."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            words = status.read_text().rpartition(")")[2].split()
            line = status.with_name("cmdline").read_bytes()
            if int(words[1]) == pid and b"work_as_process" in line:
                found.append(int(status.parent.name))
    return found


def test_interrupted_and_going_on(nursery: Nursery, tmp_path: Path):
    """The trial goes back to the queue at once, without waiting for a heartbeat."""
    url = str(tmp_path / "sweep" / "study.db")
    child = start(nursery, tmp_path, url)
    _, folder = stopped(child, tmp_path)
    child.send(signal.SIGINT)
    child.send(signal.SIGCONT)
    assert child.wait() == 130 and child.err == ""
    assert child.out.splitlines()[-1].endswith("trials finished; the same command continues the study")
    assert checkpoint.load(folder)["epoch"] < EPOCHS - 1
    child = start(nursery, tmp_path, url)
    assert child.wait() == 0, child.out + child.err
    check(url, tmp_path)


def test_two_worker_processes_stop_with_their_command(nursery: Nursery, tmp_path: Path):
    child = nursery.start(*STUDY, "-workers", "2", "-out-dir", str(tmp_path))
    worker, folder = stopped(child, tmp_path, workers=2)
    workers = children(child.pid)
    assert len(workers) == 2
    child.kill()
    os.kill(worker, signal.SIGCONT)
    wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))
    trials = trials_of(opened(str(tmp_path / "sweep" / "study.db")))
    assert TrialState.RUNNING not in [each.state for each in trials]
    (mine,) = [each for each in trials if f"trial-{number_of(each):04}" == folder.name]
    assert mine.state == TrialState.WAITING and checkpoint.load(folder)["epoch"] < EPOCHS - 1


def test_a_database_that_goes_away_is_one_line(nursery: Nursery, tmp_path: Path):
    """Nothing is lost: runs stand at their last checkpoint."""
    with postgres.server() as url:
        child = start(nursery, tmp_path, url, "-workers", "2")
        worker, folder = stopped(child, tmp_path, workers=2)
    os.kill(worker, signal.SIGCONT)
    assert child.wait() == 1
    lines = child.err.splitlines()
    assert len(lines) == 3, "the command, and each of its two processes"
    for line in lines:
        assert line.startswith("snn_mnist sweep: error: -storage") and "can't be used (" in line
    assert checkpoint.load(folder)["epoch"] < EPOCHS
