"""Several processes on one study: a journal file, a real PostgreSQL server; workers that are killed."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from nursery import Child, Nursery
from optuna.trial import TrialState

from snn_mnist.search import storage
from snn_mnist.search.trials import number_of, return_to_queue, standing
from snn_mnist.storage import checkpoint
from snn_mnist.storage.metrics import read_metrics
from tests.support import postgres
from tests.support.runs import assert_same, metrics, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")

TRIALS, EPOCHS = 4, 30
RUN = ["-dataset", "digits", "-val", "100", "-T", "20", "-b", "32"]
RUN += ["-epochs", str(EPOCHS), "-j", "1"]  # threads that wait for each other take time
STUDY = ["sweep", *RUN, "-tau", "1.1,2", "-v-reset", "none,0", "-sampler", "grid", "-no-prune", "-repeats", "2"]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres.server() as url:
        yield url


def start(nursery: Nursery, out: Path, url: str, *more: str) -> Child:
    return nursery.start(*STUDY, "-heartbeat", "1", "-workers", "1", "-out-dir", str(out), "-storage", url, *more)


def opened(url: str, name: str = "sweep") -> optuna.Study:
    kept = url if storage.is_url(url) else storage.Journal(Path(url), 1)
    return optuna.load_study(study_name=name, storage=kept)


def stopped(child: Child, out: Path, workers: int = 1) -> tuple[int, Path]:
    """A worker of the command, stopped (SIGSTOP) within a trial, and the directory of that run.

    The child itself is its only worker, or its processes are.
    """
    found: list[tuple[int, Path]] = []

    def look() -> bool:
        assert child.poll() is None, child.out + child.err
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
    trials = standing(opened(url))
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
        assert trial.intermediate_values == {row["epochs"] - 1: row["val_acc"] for row in rows}
        assert checkpoint.load(folder)["config"]["tau"] == trial.params["tau"]


@pytest.mark.parametrize("kind", ["journal", "PostgreSQL"])
def test_two_machines_one_is_killed(nursery: Nursery, tmp_path: Path, request: pytest.FixtureRequest, kind: str):
    """They start at once on a storage that neither has made; the trial of the dead one is resumed by the other."""
    url = str(tmp_path / "shared.log") if kind == "journal" else request.getfixturevalue("database")
    dies, stays = start(nursery, tmp_path, url), start(nursery, tmp_path, url)
    stopped(dies, tmp_path)
    dies.kill()
    assert stays.wait() == 0, stays.out + stays.err
    check(url, tmp_path)
    again = opened(url).get_trials(states=(TrialState.FAIL,))
    assert len(again) == 1, "the killed one was in one trial"
    assert stays.out.count("  trial ") + dies.out.count("  trial ") == TRIALS


def test_the_whole_sweep_is_killed_and_goes_on(nursery: Nursery, tmp_path: Path):
    url = str(tmp_path / "sweep" / "journal.log")
    child = start(nursery, tmp_path, url)
    _, folder = stopped(child, tmp_path)
    child.kill()
    done = len(read_metrics(folder / "metrics.csv"))
    first = checkpoint.load(folder)["epoch"] + 1
    assert first < EPOCHS and abs(done - first) <= 1
    child = start(nursery, tmp_path, url)
    assert child.wait() == 0, child.out + child.err
    assert child.out.startswith(f"study sweep: {int(folder.name[-4:])} of {TRIALS} trials finished, 1 worker, ")
    check(url, tmp_path)
    (trial,) = [each for each in standing(opened(url)) if each.number != number_of(each)]
    assert number_of(trial) == int(folder.name[-4:]) < trial.number
    flags = [f"-tau={trial.params['tau']}", f"-v-reset={'none' if trial.params['v_reset'] is None else 0}", "-no-test"]
    undisturbed = ["train", *RUN, *flags, "-no-figures", "-out-dir", str(tmp_path), "-name", "whole"]
    assert nursery.run(*undisturbed).code == 0
    assert metrics(folder) == metrics(tmp_path / "whole")
    assert_same(checkpoint.load(folder)["net"], checkpoint.load(tmp_path / "whole")["net"])


def test_a_worker_process_is_killed_and_another_resumes_its_trial(nursery: Nursery, tmp_path: Path):
    """Two processes of one command; the command itself sees it and says so."""
    url = str(tmp_path / "sweep" / "journal.log")
    child = nursery.start(*STUDY, "-heartbeat", "1", "-workers", "2", "-out-dir", str(tmp_path))
    worker, _ = stopped(child, tmp_path, workers=2)
    os.kill(worker, signal.SIGKILL)
    assert child.wait() == 0, child.out + child.err
    assert "a worker was killed by signal 9; its trial goes back to the queue 3 s" in child.out
    check(url, tmp_path)


def children(pid: int) -> list[int]:
    """The worker processes; multiprocessing has a process of its own beside."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            words = status.read_text().rpartition(")")[2].split()
            line = status.with_name("cmdline").read_bytes()
            if int(words[1]) == pid and b"spawn_main" in line:
                found.append(int(status.parent.name))
    return found


def test_interrupted_and_going_on(nursery: Nursery, tmp_path: Path):
    """The trial goes back to the queue at once, without waiting for a heartbeat."""
    url = str(tmp_path / "sweep" / "journal.log")
    child = start(nursery, tmp_path, url, "-heartbeat", "1000")
    _, folder = stopped(child, tmp_path)
    child.send(signal.SIGINT)
    child.send(signal.SIGCONT)
    assert child.wait() == 130 and child.err == ""
    assert child.out.splitlines()[-1].endswith("trials finished; the same command goes on")
    assert checkpoint.load(folder)["epoch"] < EPOCHS - 1
    child = start(nursery, tmp_path, url, "-heartbeat", "1000")
    assert child.wait() == 0, child.out + child.err
    check(url, tmp_path)


def test_two_worker_processes_stop_with_their_command(nursery: Nursery, tmp_path: Path):
    child = nursery.start(*STUDY, "-workers", "2", "-out-dir", str(tmp_path), "-heartbeat", "1000")
    worker, folder = stopped(child, tmp_path, workers=2)
    workers = children(child.pid)
    assert len(workers) == 2
    child.kill()
    os.kill(worker, signal.SIGCONT)
    wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))
    trials = standing(opened(str(tmp_path / "sweep" / "journal.log")))
    assert TrialState.RUNNING not in [each.state for each in trials]
    (mine,) = [each for each in trials if f"trial-{number_of(each):04}" == folder.name]
    assert mine.state == TrialState.WAITING and checkpoint.load(folder)["epoch"] < EPOCHS - 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_database_that_goes_away_is_one_line(nursery: Nursery, tmp_path: Path, workers: int):
    """Nothing is lost: runs stand at their last checkpoint."""
    with postgres.server() as url:
        child = start(nursery, tmp_path, url, "-workers", str(workers))
        worker, folder = stopped(child, tmp_path, workers)
    os.kill(worker, signal.SIGCONT)
    assert child.wait() == 1
    lines = child.err.splitlines()
    assert len(lines) == (1 if workers == 1 else 3), "the command, and each of its two processes"
    assert all(" is out of reach (" in line and line.startswith("snn_mnist sweep: error: -storage")
               for line in lines)  # fmt: skip
    assert checkpoint.load(folder)["epoch"] < EPOCHS


# ---------------------------------------------------------------------------- the journal's heartbeat


def test_a_journal_finds_the_dead_by_its_own_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(storage.time, "monotonic", lambda: now[0])
    here, there = (storage.Journal(tmp_path / "journal.log", 10) for _ in range(2))
    study = optuna.create_study(storage=here, study_name="s")
    same = optuna.load_study(storage=there, study_name="s")
    alive, dead, finished = (study.ask() for _ in range(3))
    study.tell(finished, 1.0)
    monkeypatch.setattr(storage.time, "time", lambda: -1e9)  # clocks of two machines need not agree
    for now[0] in (0, 10, 20, 30):
        here.record_heartbeat(alive._trial_id)
        monkeypatch.setattr(storage.time, "time", lambda: now[0])
        assert there._get_stale_trial_ids(same._study_id) == []
    now[0] = 31
    assert there._get_stale_trial_ids(same._study_id) == [dead._trial_id]
    optuna.storages.fail_stale_trials(same)
    assert [each.state.name for each in study.get_trials()] == ["RUNNING", "FAIL", "COMPLETE", "WAITING"]
    here.record_heartbeat(dead._trial_id)  # of a worker that was only slow: no error in its thread


def test_a_trial_that_returns_twice_keeps_its_first_number():
    study = optuna.create_study()
    study.ask()
    for _ in range(2):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.report(0.5, 0) if not trial.number > 1 else None
        study.tell(trial, state=TrialState.FAIL)
        return_to_queue(study, study.get_trials()[trial.number])
    first, again = standing(study)
    assert (first.number, number_of(first), again.number, number_of(again)) == (0, 0, 3, 1)
    assert again.params == study.get_trials()[1].params and again.intermediate_values == {0: 0.5}


def test_another_file_is_not_written_to(tmp_path: Path):
    file = tmp_path / "notes.txt"
    for text in ("hello\n", "[]\n", "{}\n"):
        file.write_text(text)
        with pytest.raises(storage.SNNError, match="is not a journal of Optuna"), storage._errors(str(file)):
            storage._journal(type("plan", (), {"storage": str(file), "folder": tmp_path, "heartbeat": 1})())  # type: ignore[arg-type]
        assert file.read_text() == text
