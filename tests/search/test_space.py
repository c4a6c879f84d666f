"""Values, lists and ranges of a sweep's settings; the queue; what a study can't be made of."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from nursery import Nursery
from optuna.trial import FrozenTrial

from snn_mnist.cli import sweep
from snn_mnist.cli.parser import read_command
from snn_mnist.errors import UsageError
from snn_mnist.search import study as search
from snn_mnist.search.space import SWEPT, Range
from snn_mnist.search.study import Plan, number_of, open_study, return_to_queue, trials_of
from snn_mnist.settings.config import Config
from snn_mnist.settings.options import options_of
from snn_mnist.training.console import Interruption


def plan_of(*flags: str) -> Plan:
    return sweep.make_plan(read_command(["sweep", "-val", "100", *flags])[1])[0]


CASES = [
    ("tau", "1.5", 1.5),
    ("tau", "1.1, 1.3,2", (1.1, 1.3, 2.0)),
    ("tau", "1.1:4", Range(1.1, 4.0)),
    ("lr", "1e-3:1e-2:log", Range(0.001, 0.01, log=True)),
    ("T", "50,100", (50, 100)),
    ("T", "10:50", Range(10, 50)),
    ("T", "16:256:log", Range(16, 256, log=True)),
    ("v_reset", "none", None),
    ("v_reset", "-0.5:0.5", Range(-0.5, 0.5)),
    ("v_reset", "none,0", (None, 0.0)),
    ("surrogate", "ATan,soft-sign", ("atan", "soft_sign")),
    ("amp", "on,off", (True, False)),
    ("limit_batches", "none,5", (None, 5)),
    ("epochs", "3", 3),
]


@pytest.mark.parametrize(("name", "text", "value"), CASES)
def test_values_lists_and_ranges(tmp_path: Path, name: str, text: str, value: object):
    """The same on the command line and in a file, where YAML 1.1 would read 10:50 as 650."""
    given = getattr(read_command(["sweep", f"-{name.replace('_', '-')}", text])[1], name)
    file = tmp_path / "study.yaml"
    file.write_text(f"{name}: {text}\n")
    from_file = getattr(read_command(["sweep", "-config", str(file)])[1], name)
    assert (given, type(given)) == (value, type(value)) and from_file == value
    if isinstance(value, Range):
        assert type(given.low) is type(given.high) is type(value.low)


@pytest.mark.parametrize(
    ("name", "text"),
    [("tau", "2:2"), ("tau", "1:2"), ("tau", "1.1:inf"), ("tau", "1.1:2:3"), ("tau", "1.1:"), ("tau", "1.1,"),
     ("tau", "1.1,1.1"), ("tau", "1.1:2,3"), ("v_reset", "0:1:log"), ("v_reset", "none:1"), ("T", "1.5:3"),
     ("surrogate", "atan:rect"), ("schedule", "cosine,linear"), ("dataset", "digits,mnist"), ("seed", "1,2")],
)  # fmt: skip
def test_what_is_no_value_list_or_range(name: str, text: str):
    with pytest.raises(UsageError, match=f"^-{name.replace('_', '-')} .* is not allowed; give "):
        read_command(["sweep", f"-{name.replace('_', '-')}={text}"])


def test_all_that_decides_the_result_may_vary():
    fixed = {each.name for each in options_of(Config) if each.fixed} | {"epochs", "lr", "schedule"}
    assert fixed - set(SWEPT) == {"seed", "dataset", "val"}, "these are the same for all trials"


def test_what_makes_no_study_and_combinations_that_can_not_be_trained():
    with pytest.raises(UsageError, match="no setting varies; give"):
        plan_of()
    with pytest.raises(UsageError, match="give one of adam, sgd; several as a,b,c"):
        plan_of("-opt", "adam,foo")
    with pytest.raises(UsageError, match=r"lr 0.001:0.01 is a range, .* no grid"):
        plan_of("-lr", "1e-3:1e-2", "-sampler", "grid")
    plan = plan_of("-v-threshold", "0.5:2", "-v-reset", "0,1")
    with pytest.raises(UsageError, match="every neuron would fire for ever"):
        plan.config({"v_threshold": 0.5, "v_reset": 1.0})
    plan_of("-v-threshold", "0.5,2", "-v-reset", "1", "-b", "9999,32").check(1000)  # the last can
    with pytest.raises(UsageError, match=r"v_reset 2.0 is not below v_threshold 1.0"):
        plan_of("-v-reset", "2,3").check(1000)


@pytest.mark.parametrize(
    ("flags", "trials", "workers", "threads"),
    [
        (["-trials", "2", "-workers", "9"], 2, 2, 1),  # no more workers than trials
        (["-trials", "1", "-device", "cpu"], 1, 1, 2),
        (["-workers", "1"], 40, 1, 2),
        (["-sampler", "grid", "-workers", "1", "-trials", "9"], 2, 1, 2),  # a grid ends at its last point
    ],
)
def test_trials_workers_and_threads(flags: list[str], trials: int, workers: int, threads: int):
    plan, count = sweep.make_plan(read_command(["sweep", "-val", "1", "-tau", "1.1,2", "-j", "2", *flags])[1])
    assert (plan.trials, count, plan.fixed["j"]) == (trials, workers, threads)


# ---------------------------------------------------------------------------- the queue


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[[Plan, int], list[FrozenTrial]]:
    """Let one more session take so many trials of a study, which train nothing; return all its trials."""
    monkeypatch.setattr(search, "train_run", lambda config, *_: -abs(config.tau - 1.5))

    def run(plan: Plan, trials: int) -> list[FrozenTrial]:
        study = open_study(plan)
        study.optimize(lambda trial: search.accuracy(trial, plan, None, None), n_trials=trials)
        return trials_of(study)

    return run


def test_a_study_that_goes_on_draws_as_if_it_had_not_stopped(tmp_path: Path, draw):
    trials = 12  # TPE draws at random ten times
    flags = ["-tau", "1.1:4", "-lr", "1e-4:1e-2:log", "-T", "5:50", "-trials"]
    plans = [plan_of("-out-dir", str(tmp_path / name), *flags, str(trials)) for name in ("whole", "twice")]
    other = plan_of("-out-dir", str(tmp_path / "other"), *flags, "1", "-seed", "1")
    whole = [trial.params for trial in draw(plans[0], trials)]
    draw(plans[1], 1)
    assert [trial.params for trial in draw(plans[1], trials - 1)] == whole
    assert len({params["tau"] for params in whole}) == trials
    assert draw(other, 1)[0].params != whole[0]
    assert all(1.1 <= p["tau"] <= 4 and 1e-4 <= p["lr"] <= 1e-2 and type(p["T"]) is int for p in whole)


def test_a_grid_has_each_point_once_also_after_a_kill_while_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw
):
    plan = plan_of("-tau", "1.1,2,3", "-v-reset", "none,0", "-sampler", "grid", "-out-dir", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "set_user_attr", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_study(dataclasses.replace(plan, trials=4))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    points = [(trial.params["tau"], trial.params["v_reset"]) for trial in draw(plan, 6)]
    assert points == [(1.1, None), (1.1, 0), (2, None), (2, 0), (3, None), (3, 0)]
    assert len(trials_of(open_study(plan))) == 6


def test_more_trials_extend_a_study(tmp_path: Path):
    for trials, total in ((3, 3), (5, 5), (2, 5)):
        plan = plan_of("-tau", "1.1:2", "-trials", str(trials), "-out-dir", str(tmp_path))
        assert len(trials_of(open_study(plan))) == total


def test_a_worker_goes_on_whose_trial_was_taken_while_it_slept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its missing heartbeats have made another worker fail the trial and put a copy into the queue."""
    plan = plan_of("-tau", "1.1:2", "-trials", "2", "-out-dir", str(tmp_path))

    def sleep(trial: optuna.Trial, *_: object) -> float:
        if trial.number == 0:
            trial.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            return_to_queue(trial.study, trial.study.get_trials()[0])
        trial.set_user_attr(search.RUNS, [0.5])
        return 0.5

    monkeypatch.setattr(search, "accuracy", sleep)
    search.work(plan, None, Interruption())
    assert [(number_of(each), each.value) for each in trials_of(open_study(plan))] == [(0, 0.5), (1, 0.5)]


def test_two_workers_never_take_the_same_trial(tmp_path: Path):
    """Of an SQLite file, where Optuna reads and writes the state of a trial in two statements."""
    plan = plan_of("-tau", "1.1:2", "-trials", "32", "-out-dir", str(tmp_path))
    open_study(plan)

    def take(_: int) -> list[int]:
        study = open_study(plan)
        return [study.ask().number for _ in range(8)]

    with ThreadPoolExecutor(4) as pool:
        assert sorted(number for taken in pool.map(take, range(4)) for number in taken) == list(range(32))


def test_a_trial_that_returns_twice_keeps_its_first_number(tmp_path: Path):
    study = open_study(plan_of("-tau", "1.1:2", "-trials", "2", "-out-dir", str(tmp_path)))
    study.ask()
    for _ in range(2):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return_to_queue(study, study.get_trials()[trial.number])
    first, again = trials_of(study)
    assert (first.number, number_of(first), again.number, number_of(again)) == (0, 0, 3, 1)
    assert again.params == study.get_trials()[1].params


# ---------------------------------------------------------------------------- the command line


TAUS = ["-val", "9", "-tau", "1.1,2"]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["-tau", "1.1,2"], 2, "-val is missing"),
        ([*TAUS, "-backend", "cupy", "-device", "cpu"], 2, "backend 'cupy' can't be used"),
        ([*TAUS, "-b", "1429,2000"], 2, "b 1429 is more than the 1428 training images"),
        ([*TAUS, "-out-dir", "/dev/null/x"], 1, "/dev/null/x/sweep can't be written (Not a dir"),
        ([*TAUS, "-storage", "postgresql+psycopg2://u:secret@127.0.0.1:1/x"], 1,
         "-storage postgresql+psycopg2://***@127.0.0.1:1/x can't be used (connection to server at"),
        ([*TAUS, "-storage", "nonsense://x"], 1, "x can't be used (Can't load plugin"),
        ([*TAUS, "-storage", "/etc/passwd"], 1, "/etc/passwd can't be used (file is not a data"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(nursery: Nursery, tmp_path: Path, flags: list[str], code: int, message: str):
    child = nursery.run("sweep", "-dataset", "digits", *flags, cwd=str(tmp_path))
    last = child.err.splitlines()[-1]
    assert child.code == code and last.startswith("snn_mnist sweep: error: ") and message in last
    assert child.out == "" and not list(tmp_path.glob("logs/sweep/*")), "nothing was begun"
    assert "secret" not in child.err
