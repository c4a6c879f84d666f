"""A study from its first trial to its report, on the digits."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from nursery import Nursery
from PIL import Image

from snn_mnist.cli import sweep
from snn_mnist.cli.parser import read_command
from snn_mnist.search import report
from snn_mnist.search.space import Range, Space, corners, suggest
from snn_mnist.search.study import Plan
from snn_mnist.settings.config import Config
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.storage.runs import survey
from snn_mnist.visualizing.run_figures import write
from tests.support.runs import metrics

RUN = ["-dataset", "digits", "-val", "200", "-T", "5", "-b", "50", "-epochs", "3"]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "study.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def plan() -> Plan:
    return sweep.make_plan(read_command(["sweep", "-val", "100", "-tau", "1.1,2"])[1])[0]


@pytest.fixture(scope="module")
def study(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[str]]:
    """The directory, the output and the command of a study with two runs a trial."""
    out = tmp_path_factory.mktemp("study")
    flags = ["-tau", "1.1,2", "-lr", "1e-3,1e-2,0.1", "-sampler", "grid", "-seeds", "2", "-no-prune", "-repeats", "3"]
    command = ["sweep", *RUN, *flags, "-study", "s", "-out-dir", str(out), "-workers", "1"]
    child = nursery.run(*command)
    assert child.code == 0, child.err
    return out / "s", child.out, command


def test_the_table(study: tuple[Path, str, list[str]]):
    """Best first; each accuracy is the mean of the last epochs of the trial's runs."""
    folder, out, _ = study
    rows = rows_of(folder)
    assert len(rows) == 6 and {row["state"] for row in rows} == {"complete"}
    for row in rows:
        runs = [folder / f"trial-{int(row['trial']):04}-seed{seed}" for seed in (0, 1)]
        accuracies = [read_metrics(run / "metrics.csv")[-1]["val_acc"] for run in runs]
        assert [float(row["val_acc_seed0"]), float(row["val_acc_seed1"])] == accuracies
        assert float(row["val_acc"]) == round(sum(accuracies) / 2, 6)
        assert float(row["val_std"]) == round(abs(accuracies[0] - accuracies[1]) / 2**0.5, 6)
        settings = [Config.from_yaml(run / "config.yaml") for run in runs]
        assert [each.seed for each in settings] == [0, 1]
        assert {(each.tau, each.lr) for each in settings} == {(float(row["tau"]), float(row["lr"]))}
        assert row["run"] == runs[0].name and row["epochs"] == "3" and float(row["seconds"]) > 0
    assert [row["val_acc"] for row in rows] == sorted((row["val_acc"] for row in rows), reverse=True)
    best = rows[0]
    percent, std = 100 * float(best["val_acc"]), 100 * float(best["val_std"])
    assert f"    {best['trial']}  {percent:.2f} ± {std:.2f} %  tau " in out
    lines = out.replace(str(folder), "logs/sweep").splitlines()
    assert max(map(len, lines)) <= 80 and lines[-1] == "  python -m snn_mnist train -config logs/sweep/best.yaml"


def test_the_test_images_are_looked_at_for_the_winner_only(study: tuple[Path, str, list[str]], nursery: Nursery):
    folder, out, _ = study
    assert not any("test_acc" in row for file in folder.glob("trial-*/metrics.csv") for row in read_metrics(file))
    means = []
    for seed in (0, 1):
        run = folder / rows_of(folder)[0]["run"].replace("seed0", f"seed{seed}")
        tested = nursery.run("eval", "-resume", str(run), "-repeats", "3", "-json", "-")
        means.append(100 * json.loads(tested.out)["accuracy"]["mean"])
    mean, std = sum(means) / 2, abs(means[0] - means[1]) / 2**0.5
    line = f"on the test images: {mean:.2f} ± {std:.2f} % (mean ± std over 2 seeds, each the mean of 3 encodings)"
    assert line in " ".join(out.split())


def test_only_the_sweep_trains_a_trial_on(study: tuple[Path, str, list[str]], nursery: Nursery, tmp_path: Path):
    """Its results would change behind the study's back. From its best epoch a new run may start."""
    trial = study[0] / "trial-0000-seed0"
    before = read_metrics(trial / "metrics.csv")
    refused = nursery.run("train", "-resume", "last", "-epochs", "4", "-lr", "5", "-out-dir", ".", cwd=str(study[0]))
    assert refused.code == 2 and "is a trial, which only its sweep continues" in refused.err
    best = ["-resume", str(trial / "checkpoint_max.pth"), "-out-dir", str(tmp_path), "-name", "on"]
    run = nursery.run("train", *best, "-epochs", "4", "-lr", "0.02")
    assert run.code == 0 and "changed on resume: lr 0.001 → 0.02, epochs 3 → 4" in run.out
    assert (tmp_path / "on").is_dir() and before == read_metrics(trial / "metrics.csv")


def test_the_winner_as_settings(study: tuple[Path, str, list[str]], nursery: Nursery, tmp_path: Path):
    folder, _, _ = study
    best = rows_of(folder)[0]
    settings = yaml.safe_load((folder / "best.yaml").read_text())
    drawn = {name: float(best[name]) for name in ("tau", "lr")}
    assert settings == {"dataset": "digits", "T": 5, "b": 50, "epochs": 3, **drawn}
    flags = ["-val", "200", "-no-figures", "-out-dir", str(tmp_path), "-name", "again", "-no-test"]
    assert nursery.run("train", "-config", str(folder / "best.yaml"), *flags).code == 0
    assert metrics(tmp_path / "again") == metrics(folder / best["run"])


def test_a_finished_study_is_reported_again(study: tuple[Path, str, list[str]], nursery: Nursery):
    folder, out, command = study
    before = {file: file.stat().st_mtime_ns for file in folder.glob("trial-*/*")}
    (folder / "study.csv").unlink()
    again = nursery.run(*command)
    assert again.out.startswith("study s: 6 of 6 trials finished") and rows_of(folder)
    assert again.out.partition("\nstudy s: 6 trials")[2] == out.partition("\nstudy s: 6 trials")[2] != ""
    assert {file: file.stat().st_mtime_ns for file in folder.glob("trial-*/*")} == before
    child = nursery.run(*command, "-tau", "1.1,3", "-epochs", "4", "-seeds", "3")
    changed = "epochs 3 → 4, tau 1.1,2.0 → 1.1,3.0, seeds 2 → 3"
    assert child.code == 2 and f"started with other settings: {changed}; use those" in child.err


def test_a_bad_trial_is_pruned_and_a_wrong_one_named(nursery: Nursery, tmp_path: Path):
    """After five whole trials the median counts: learning rate 1e-9 ends in its third epoch. A neuron whose reset is
    not below its threshold can't be trained: that trial fails with the reason, and the others go on."""
    (tmp_path / "sweep" / "trial-0000").mkdir(parents=True)  # of a worker that was killed before its first checkpoint
    flags = ["-lr", "0.05,0.04,0.03,0.02,0.01,1e-9", "-v-reset", "0,1", "-epochs", "5", "-sampler", "grid"]
    child = nursery.run("sweep", *RUN, *flags, "-out-dir", str(tmp_path), "-workers", "1", "-repeats", "1")
    assert child.code == 0, child.err
    rows = {(row["lr"], row["v_reset"]): row for row in rows_of(tmp_path / "sweep")}
    assert len(rows) == 12 and [row["state"] for row in rows.values()][-6:] == ["fail"] * 6
    wrong = rows["0.05", "1.0"]
    assert wrong["reason"].startswith("v_reset 1.0 is not below v_threshold 1.0") and wrong["val_acc"] == ""
    pruned = rows["1e-09", "0.0"]
    assert (pruned["state"], pruned["epochs"]) == ("pruned", "3")
    run = tmp_path / "sweep" / pruned["run"]
    assert len(read_metrics(run / "metrics.csv")) == 3 and (run / "checkpoint_latest.pth").is_file()
    states = {row.folder.name: row.state for row in survey([tmp_path])[0]}
    assert states[run.name] == "pruned" and set(states.values()) == {"pruned", "finished"}
    assert "pruned after epoch 3" in child.out and "failed: v_reset 1.0 is not below" in child.out


def test_settings_that_are_drawn_again_are_neither_trained_nor_counted_again(nursery: Nursery, tmp_path: Path):
    flags = ["-epochs", "1", "-tau", "1.1,2", "-trials", "5", "-seeds", "2", "-out-dir", str(tmp_path)]
    child = nursery.run("sweep", *RUN, *flags, "-workers", "1", "-repeats", "1")
    assert child.code == 0, child.err
    rows, runs = rows_of(tmp_path / "sweep"), [*tmp_path.glob("sweep/trial-*")]
    assert len({row["tau"] for row in rows}) == len(rows) == len(runs) / 2
    assert f"{len(rows)} trials complete, 0 pruned, 0 failed, {5 - len(rows)} repeated" in " ".join(child.out.split())


def test_a_study_whose_trials_all_diverge_is_an_error(nursery: Nursery, tmp_path: Path):
    flags = ["-lr", "1e38,2e38", "-opt", "sgd", "-sampler", "grid", "-out-dir", str(tmp_path), "-workers", "1"]
    child = nursery.run("sweep", *RUN, *flags)
    assert child.code == 1 and child.out.count("failed: the weights are not finite") == 2
    assert child.err.startswith("snn_mnist sweep: error: no trial of sweep finished; the first: failed: ")


def test_runs_of_another_study_are_not_taken_for_its_own(nursery: Nursery, tmp_path: Path):
    """The database was removed, or the study is in another storage: its directory has runs with other settings. They
    stay as they are, and no trial gets their accuracy; those with the same settings are its own."""
    command = ["sweep", *RUN, "-epochs", "1", "-sampler", "grid", "-out-dir", str(tmp_path), "-workers", "1"]
    command += ["-repeats", "1"]
    assert nursery.run(*command, "-tau", "1.1,2").code == 0
    rows, database = rows_of(tmp_path / "sweep"), tmp_path / "sweep" / "study.db"
    database.unlink()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("sweep/trial-*/*")}
    child = nursery.run(*command, "-tau", "1.2,2", "-lr", "0.01")
    words = "trial-0000 was trained with other settings than this study's (tau 1.1 → 1.2, lr 0.001 → 0.01); remove"
    assert child.code == 1 and words in child.err
    assert "  trial " not in child.out
    database.unlink()
    assert nursery.run(*command, "-tau", "1.1,2").code == 0
    assert [row["val_acc"] for row in rows_of(tmp_path / "sweep")] == [row["val_acc"] for row in rows]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("sweep/trial-*/*")} == before


# ---------------------------------------------------------------------------- figures


def study_of(space: Space, results: Sequence[tuple[dict, list[float]]]) -> optuna.Study:
    """Complete trials with these settings and accuracies of their runs."""
    study = optuna.create_study(direction="maximize")
    for point, accuracies in results:
        study.enqueue_trial(point)
        trial = study.ask()
        suggest(trial, space)
        trial.set_user_attr("runs", accuracies)
        study.tell(trial, sum(accuracies) / len(accuracies))
    return study


LISTS: Space = {"tau": (1.1, 2.0), "lr": (1e-3, 1e-2, 0.1)}
TAUS, RATES = Range(1.1, 2.0), Range(1e-4, 1.0, log=True)


@pytest.mark.parametrize(
    ("space", "accuracies", "drawn"),
    [
        ({"tau": TAUS}, [0.5], "history"),
        ({"tau": TAUS}, [0.5, 0.6], "history settings"),
        ({"v_reset": (None, 0.0), "amp": (True, False)}, [0.5, 0.6, 0.7, 0.8], "grid history importance settings"),
        ({"tau": TAUS, "T": Range(2, 9)}, [0.5] * 4, "history settings"),
        ({"tau": TAUS, "lr": RATES, "T": Range(2, 9)}, [0.5, 0.6, 0.7, 0.8, 0.9], "history importance settings"),
    ],
)
@pytest.mark.filterwarnings("error::UserWarning")
def test_figures_of_small_studies(tmp_path: Path, plan: Plan, space: Space, accuracies: list[float], drawn: str):
    """As many as say something; nothing else fails or warns."""
    study = study_of(space, [(p, [a]) for p, a in zip(corners(space), accuracies, strict=False)])
    pictures = report.figures(study, dataclasses.replace(plan, space=space))
    assert sorted(pictures) == [f"{name}.png" for name in drawn.split()]
    assert all(Image.open(write(tmp_path / name, each)).size[0] >= 600 for name, each in pictures.items())


def test_the_figures_count_equal_settings_once(plan: Plan):
    """Two workers may train the same at the same time."""
    point, other = {"tau": 1.1, "lr": 0.1}, {"tau": 2.0, "lr": 0.01}
    study = study_of(LISTS, [(point, [0.8, 0.9]), (other, [0.7, 0.7]), (point, [0.8, 0.9])])
    assert [trial.number for trial in report.distinct(study)] == [0, 1]
    pictures = report.figures(study, dataclasses.replace(plan, space=LISTS))
    assert {"85.00 ± 7.07 %"} < {text.get_text() for text in pictures["grid.png"].axes[0].texts}
    assert pictures["settings.png"].get_suptitle().startswith("The complete trials (2 of 2)")


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1e-3, 1e-2, "0.001 0.002 0.005 0.01"),
        (1e-4, 1.0, "0.0001 0.01 1"),
        (16, 256, "20 50 100 200"),
        (0.11, 0.19, "0.11 0.19"),
    ],
)
def test_a_logarithmic_setting_has_readable_ticks(plan: Plan, low: float, high: float, ticks: str):
    """Of the whole range, also where the trials lie close together."""
    space: Space = {"lr": Range(low, high, log=True)}
    trials = study_of(space, [({"lr": low * 1.5}, [0.5]), ({"lr": low * 1.6}, [0.6])]).get_trials()
    axes = report.against_each(trials, 2, ["lr"], dataclasses.replace(plan, space=space)).axes[0]
    left, right = axes.get_xlim()
    inside = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert [label.get_text() for tick, label in inside if left <= tick <= right] == ticks.split()


def test_the_figures_of_a_grid_have_every_number(plan: Plan):
    """Mean and standard deviation over three seeds of each trial but one, the worst far below the others too."""
    means = [0.92, 0.91, 0.915, 0.93, 0.12]
    points = list(corners(LISTS))[:5]
    trials = study_of(LISTS, [(p, [m - 0.01, m, m + 0.01]) for p, m in zip(points, means, strict=True)]).get_trials()
    axes = report.over_grid(trials, "tau", "lr").axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    expected = [f"{100 * mean:.2f} ± 1.00 %" for mean in means] + ["no complete\ntrial"]
    assert cells == {(n // 3, n % 3): text for n, text in enumerate(expected)}
    assert np.allclose(axes.images[0].get_array().compressed(), 100 * np.array(means)[[0, 3, 1, 4, 2]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.001", "0.01", "0.1"]
    rates = report.against_each(trials, len(trials), ["tau", "lr"], dataclasses.replace(plan, space=LISTS)).axes[1]
    ((points_drawn, _, (bars,)),) = rates.containers
    assert np.allclose(points_drawn.get_xydata(), [(n % 3, 100 * mean) for n, mean in enumerate(means)])
    assert np.allclose([np.ptp(bar[:, 1]) for bar in bars.get_segments()], 2)
