"""Values, lists and ranges of a sweep's settings; the samplers; what a study can't be made of."""

from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from nursery import Nursery

from snn_mnist.cli import sweep
from snn_mnist.cli.parser import read_command
from snn_mnist.errors import UsageError
from snn_mnist.search.objective import suggest
from snn_mnist.search.plan import Plan
from snn_mnist.search.sampler import new_sampler
from snn_mnist.search.space import SWEPT, Choices, Range, corners, grid
from snn_mnist.search.trials import return_to_queue
from snn_mnist.settings.config import Config
from snn_mnist.settings.options import options_of
from snn_mnist.storage.metrics import read_metrics


def plan_of(*flags: str) -> Plan:
    return sweep.make_plan(read_command(["sweep", "-val", "100", *flags])[1])[0]


CASES = [
    ("tau", "1.5", 1.5),
    ("tau", "1.1, 1.3,2", Choices((1.1, 1.3, 2.0))),
    ("tau", "1.1:4", Range(1.1, 4.0)),
    ("lr", "1e-3:1e-2:log", Range(0.001, 0.01, log=True)),
    ("T", "50,100", Choices((50, 100))),
    ("T", "10:50", Range(10, 50)),
    ("T", "16:256:log", Range(16, 256, log=True)),
    ("v_reset", "none", None),
    ("v_reset", "-0.5:0.5", Range(-0.5, 0.5)),
    ("v_reset", "none,0", Choices((None, 0.0))),
    ("surrogate", "ATan,soft-sign", Choices(("atan", "soft_sign"))),
    ("amp", "on,off", Choices((True, False))),
    ("limit_batches", "none,5", Choices((None, 5))),
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
    [("tau", "2:1.5"), ("tau", "2:2"), ("tau", "1:2"), ("tau", "1.1:inf"), ("tau", "1.1:2:3"), ("tau", "1.1:"),
     ("tau", "1.1,"), ("tau", "1.1,1.1"), ("tau", ","), ("tau", "1.1:2,3"), ("lr", "1e-3:1e-2:lin"),
     ("v_reset", "0:1:log"), ("v_reset", "none:1"), ("T", "1.5:3"), ("T", "50,0"), ("surrogate", "atan:rect"),
     ("schedule", "cosine,linear"), ("amp", "on,maybe"), ("dataset", "digits,mnist"), ("val", "100,200"),
     ("seed", "1,2")],
)  # fmt: skip
def test_what_is_no_value_list_or_range(name: str, text: str):
    with pytest.raises(UsageError, match=f"^-{name.replace('_', '-')} .* is not allowed; give "):
        read_command(["sweep", f"-{name.replace('_', '-')}={text}"])


def test_all_that_decides_the_result_may_vary():
    fixed = {each.name for each in options_of(Config) if each.fixed} | {"epochs", "lr", "schedule"}
    assert fixed - set(SWEPT) == {"seed", "dataset", "val"}, "these are the same for all trials"
    names = {each.name for each in options_of(sweep.SweepOptions)}
    assert {each.name for each in options_of(Config)} - names == {"resume", "force", "figures", "test", "name"}


def test_grid_and_corners():
    space = {"tau": Choices((1.1, 2.0)), "T": Choices((5, 6, 7))}
    assert [tuple(point.values()) for point in grid(space)] == [
        (1.1, 5), (1.1, 6), (1.1, 7), (2.0, 5), (2.0, 6), (2.0, 7)
    ]  # fmt: skip
    ends = [tuple(point.values()) for point in corners({"lr": Range(0.1, 0.2), "amp": Choices((True, False))})]
    assert ends == [(0.1, True), (0.1, False), (0.2, True), (0.2, False)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no setting varies; give one several values"),
        (["-lr", "1e-3:1e-2", "-sampler", "grid"], "lr 0.001:0.01 is a range, which has no grid"),
        (["-tau", "1.1,2", "-sampler", "grid", "-trials", "3"], "trials 3: the grid has 2 points"),
        (["-v-reset", "2,3"], "v_reset 2.0 is not below v_threshold 1.0"),
        (
            ["-surrogate", "leaky_k_relu,piecewise_leaky_relu", "-alpha", "1:2"],
            "alpha 1.0: the surrogate leaky_k_relu has",
        ),
    ],
)
def test_what_makes_no_study(flags: list[str], message: str):
    with pytest.raises(UsageError, match=message):
        plan_of(*flags)


def test_combinations_that_can_not_be_trained_are_allowed_beside_others():
    plan = plan_of("-v-threshold", "0.5:2", "-v-reset", "0,1")
    with pytest.raises(UsageError, match="every neuron would fire for ever"):
        plan.config({"v_threshold": 0.5, "v_reset": 1.0})
    assert plan_of("-v-threshold", "3:4", "-v-reset", "2").check().v_threshold == 3, "the default 1 is below"
    assert plan.config({"v_threshold": 1.5, "v_reset": 1.0}, run=2, name="x").seed == 2


def test_no_more_workers_than_trials():
    """The threads are shared among those that there are."""
    plan, workers = sweep.make_plan(
        read_command(["sweep", "-val", "1", "-tau", "1.1,2", "-trials", "2", "-j", "2", "-workers", "9"])[1]
    )
    assert (workers, plan.fixed["j"]) == (2, 1)
    plan, workers = sweep.make_plan(
        read_command(["sweep", "-val", "1", "-tau", "1.1,2", "-trials", "1", "-j", "2", "-device", "cpu"])[1]
    )
    assert (workers, plan.fixed["j"]) == (1, 2)


def test_run_directories_are_named_by_trial_and_seed():
    assert plan_of("-tau", "1.1,2").run_names(7) == ["trial-0007"]
    names = plan_of("-tau", "1.1,2", "-seeds", "2", "-seed", "5").run_names(12)
    assert names == ["trial-0012-seed5", "trial-0012-seed6"]


# ---------------------------------------------------------------------------- samplers


def draws(flags: Sequence[str], trials: int, study: optuna.Study | None = None) -> list[dict]:
    plan = plan_of(*flags)
    study = study or optuna.create_study(direction="maximize")
    study.sampler = new_sampler(plan)
    for _ in range(trials):
        trial = study.ask()
        values = {name: suggest(trial, name, plan) for name in plan.space}
        study.tell(trial, -abs(values.get("tau", 0) - 1.5))
    return [trial.params for trial in study.get_trials()]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_that_goes_on_draws_as_if_it_had_not_stopped(sampler: str):
    flags = ["-tau", "1.1:4", "-lr", "1e-4:1e-2:log", "-T", "5:50", "-sampler", sampler]
    whole = draws(flags, 16)
    study = optuna.create_study(direction="maximize")
    draws(flags, 9, study)
    assert draws(flags, 7, study) == whole
    assert len({params["tau"] for params in whole}) == 16
    assert draws([*flags, "-seed", "1"], 1) != whole[:1]
    assert all(float(f"{p[name]:.4g}") == p[name] for p in whole for name in ("tau", "lr"))
    assert all(1.1 <= p["tau"] <= 4 and 1e-4 <= p["lr"] <= 1e-2 and type(p["T"]) is int for p in whole)


def test_a_rounded_draw_stays_in_its_range():
    narrow = draws(["-tau", "1.23456:1.23462"], 20)
    assert all(1.23456 <= params["tau"] <= 1.23462 for params in narrow)


def test_tpe_learns():
    """Of 40 trials the last 20 come nearer to the best tau, 1.5 in 1.1 … 9, than the first 10, which are random."""
    taus = [abs(params["tau"] - 1.5) for params in draws(["-tau", "1.1:9"], 40)]
    assert sum(taus[20:]) / 20 < sum(taus[:10]) / 10 / 3


def test_a_trial_of_a_grid_that_was_killed_while_it_was_drawn_gets_its_point_again():
    """It returns to the queue with those of its settings that the storage had, under another number."""
    flags = ["-tau", "1.1,2,3", "-T", "5,6", "-sampler", "grid"]
    study = optuna.create_study(direction="maximize")
    draws(flags, 1, study)
    killed = study.ask()
    suggest(killed, "tau", plan_of(*flags))
    draws(flags, 2, study)
    study.tell(killed, state=optuna.trial.TrialState.FAIL)
    return_to_queue(study, study.get_trials()[1])
    draws(flags, 3, study)
    points = [(each.params["tau"], each.params["T"]) for each in study.get_trials() if each.value is not None]
    assert sorted(points) == [(1.1, 5), (1.1, 6), (2.0, 5), (2.0, 6), (3.0, 5), (3.0, 6)]


def test_a_grid_whose_trial_was_lost_gets_its_point_again():
    flags = ["-tau", "1.1,2", "-T", "5,6", "-sampler", "grid"]
    study = optuna.create_study(direction="maximize")
    draws(flags, 1, study)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)  # killed between two words to the storage
    points = [(params.get("tau"), params.get("T")) for params in draws(flags, 3, study)]
    assert points == [(1.1, 5), (None, None), (1.1, 6), (2.0, 6), (2.0, 5)]


# ---------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["-tau", "1.1,2"], 2, "-val is missing: without held-out training images the trials would be chosen on the"),
        (["-val", "9", "-tau"], 2, "-tau needs a value; give a number above 1; several as a,b,c; a range as low:high"),
        (["-val", "9", "-taw", "1,2"], 2, "unknown flag -taw; did you mean -tau?"),
        (["-val", "9", "-tau", "1.1,2", "-backend", "cupy", "-device", "cpu"], 2, "backend 'cupy' can't be used"),
        (["-val", "9", "-tau", "1.1,2", "-b", "1429,2000"], 2, "b 1429 is more than the 1428 training images"),
        (["-val", "9", "-tau", "1.1,2", "-storage", "."], 1, "-storage . can't be read and written (Is a directory)"),
        (["-val", "9", "-tau", "1.1,2", "-out-dir", "/dev/null/x"], 1, "/dev/null/x/sweep can't be made (Not a dir"),
        (["-val", "1437", "-tau", "1.1,2"], 2, "val 1437 holds out all 1437 training images of digits"),
        (["-val", "9", "-tau", "1.1,2", "-storage", "postgresql+psycopg2://u:secret@127.0.0.1:1/x"], 1,
         "-storage postgresql+psycopg2://u:***@127.0.0.1:1/x is out of reach (connection to server at"),
        (["-val", "9", "-tau", "1.1,2", "-storage", "nonsense://x"], 2, "nonsense://x is no URL of a database; give"),
        (["-val", "9", "-tau", "1.1,2", "-storage", "sqlite:////nowhere/x"], 1, "is out of reach (unable to open"),
        (["-val", "9", "-tau", "1.1,2", "-storage", "/dev/null/x"], 1, "/dev/null can't be made"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(nursery: Nursery, tmp_path: Path, flags: list[str], code: int, message: str):
    child = nursery.run("sweep", "-dataset", "digits", *flags, cwd=str(tmp_path))
    last = child.err.splitlines()[-1]
    assert child.code == code and last.startswith("snn_mnist sweep: error: ") and message in last
    assert child.out == "" and not list(tmp_path.glob("logs/sweep/*")), "nothing was begun"
    assert "secret" not in child.err


def test_not_looking_at_the_test_images(nursery: Nursery, tmp_path: Path):
    """-no-test of `train`: the same weights and held-out accuracy, without the columns of the test."""
    flags = ["-dataset", "digits", "-T", "4", "-b", "16", "-limit-batches", "4", "-epochs", "2", "-out-dir", "."]
    for name, more in (("a", []), ("b", ["-no-test"])):
        child = nursery.run("train", *flags, "-val", "100", "-name", name, *more, cwd=str(tmp_path))
        assert child.code == 0, child.err
    assert "last epoch: held-out accuracy " in child.out and "test " not in child.out.replace("test it again", "")
    (a, b) = (read_metrics(tmp_path / name / "metrics.csv") for name in "ab")
    assert [row["val_acc"] for row in a] == [row["val_acc"] for row in b]
    assert not any("test" in name for row in b for name in row) and all("test_acc" in row for row in a)
    assert sorted(file.name for file in (tmp_path / "b").glob("*.png")) == ["curves.png"]
    assert nursery.run("train", *flags, "-no-test").err.endswith("hold some training images out with -val\n")
