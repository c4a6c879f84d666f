"""The verb runs, on directories written by hand, and the word last for the newest run."""

import csv
import json
import os
import re
import time
from pathlib import Path

import pytest
import torch

from snn_mnist.__main__ import main
from snn_mnist.cli.parser import read_command
from snn_mnist.cli.runs import COLUMNS, SETTINGS
from snn_mnist.cli.shared import resolve_runs
from snn_mnist.settings.config import Config, yaml_text
from snn_mnist.storage import checkpoint
from snn_mnist.storage.atomic_files import exclusive_lock
from snn_mnist.storage.checkpoint import newest_run
from snn_mnist.storage.runs import SEEDS, SeedGroup, survey
from tests.support.runs import metrics, train_run

CHECKPOINT = {"net": {checkpoint.WEIGHT: torch.zeros(10, 784)}}
NOON = time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1))


def make(folder, tests, *, step=0, at=NOON, speeds=(100.0, 3000.0, 200.0), **settings):
    """A run directory with these (val_acc, test_acc) or test_acc after each epoch, trained last at this time."""
    folder.mkdir(parents=True)
    config = Config(**({"epochs": 3, "data_dir": "d"} | settings))
    (folder / "config.yaml").write_text(yaml_text(config.to_mapping()))
    lines = ["epochs,train_images_per_s,test_acc,val_acc"]
    for number, test in enumerate(tests):
        val, acc = test if isinstance(test, tuple) else ("", test)
        lines.append(f"{number + 1},{speeds[number]},{acc},{val}")
    (folder / "metrics.csv").write_text("\n".join([*lines, ""]))
    state = CHECKPOINT | {"epoch": len(tests) - 1, "step": step, "config": config.to_mapping()}
    if step:
        state["running"] = {"rates": torch.zeros(64 * step, 10), "seconds": 1.0}
    checkpoint.save(folder / checkpoint.LATEST, state)
    os.utime(folder / checkpoint.LATEST, (at, at))
    return folder


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "logs" / "plain", [0.5, 0.9, 0.8])
    make(tmp_path / "logs" / "slow", [0.7], step=12, tau=1.1, at=NOON + 60, epochs=7)
    make(tmp_path / "logs" / "held", [(0.6, 0.75), (0.9, 0.7), (0.9, 0.95)], tau=3, val=500, at=NOON + 120)
    make(tmp_path / "logs" / "soft", [], neuron="if", v_reset=None, at=NOON - 60)
    return tmp_path / "logs"


def shown(capsys, *arguments):
    assert main(["runs", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def records(capsys, *arguments):
    assert main(["runs", *arguments, "-json", "-"]) == 0
    return json.loads(capsys.readouterr().out)["runs"]


def names(capsys, *arguments):
    return [run["run"].rpartition("/")[2] for run in records(capsys, *arguments)]


# ---------------------------------------------------------------------------- the table


def test_the_table_has_a_line_for_each_run(logs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    head, *lines, _, word, chosen = shown(capsys)
    slow = "tau 1.1, epochs 7"
    assert re.split("  +", head.strip())[4:] == ["run", "what differs", "images/s", "date"]
    assert [re.split("  +", line.strip()) for line in lines] == [
        ["0/3", "interrupted", "logs/soft", "if, v-reset none", "2026-03-04 11:59"],
        ["80.00", "90.00*", "3/3", "finished", "logs/plain", "tau 2", "200", "2026-03-04 12:00"],
        ["70.00", "70.00*", "1/7", "interrupted at step 12", "logs/slow", slow, "100", "2026-03-04 12:01"],
        ["95.00", "70.00c", "3/3", "finished", "logs/held", "tau 3, val 500", "200", "2026-03-04 12:02"],
    ]
    assert word.startswith("* the highest of all tests") and chosen.startswith("c of the epoch that held-out images")
    monkeypatch.setenv("COLUMNS", "60")
    assert shown(capsys)[1:5] == [line[:60].rstrip() for line in lines]
    monkeypatch.setenv("COLUMNS", "20")  # the names of the runs are whole: they are there to be copied
    assert [line.split()[-1] for line in shown(capsys)[1:5]] == [
        f"logs/{name}" for name in ("soft", "plain", "slow", "held")
    ]


def test_an_accuracy_that_is_no_test_of_the_network_is_marked(logs, capsys, monkeypatch):
    """A trial of a sweep has none on the test images; that of a converted run is the ANN's."""
    monkeypatch.setenv("COLUMNS", "200")
    make(logs / "trial", [(0.7, ""), (0.95, ""), (0.9086, "")], val=500, test=False, at=NOON + 300)
    converted = make(logs / "converted", [0.75], neuron="if", v_reset=None, at=NOON + 400)
    state = checkpoint.load(converted / checkpoint.LATEST)
    checkpoint.save(converted / checkpoint.LATEST, state | {"ann": {"weight": torch.zeros(10, 784), "scale": 1.0}})
    cells = {next((w for w in line.split() if "/" in w[4:]), line[:1]): line.split() for line in shown(capsys) if line}
    assert {"90.86v", "95.00v"} < {*cells["logs/trial"]} and {"75.00a", "75.00*"} < {*cells["logs/converted"]}
    assert cells["v"][1:4] == ["on", "the", "held-out"] and cells["a"][1:4] == ["of", "the", "ANN,"]
    found = {record["run"]: (record["last_test_acc"], record["last_val_acc"]) for record in records(capsys)}
    assert found["logs/trial"] == (None, 0.9086) and found["logs/held"] == (0.95, 0.9)


def test_a_run_that_is_named_wrongly(logs, capsys):
    assert main(["runs", "nowhere"]) == main(["eval", "-resume", "logs"]) == 2
    err = capsys.readouterr().err
    assert (
        f"no run was found in {Path.cwd() / 'nowhere'}; " in err
        and "no checkpoint logs/checkpoint_latest.pth; name a" in err
    )


def test_a_running_run_is_recognised_and_not_disturbed(logs, capsys):
    with exclusive_lock(logs / "slow"):
        assert [(run["state"], run["step"]) for run in records(capsys, "logs/slow")] == [("running", 0)]
    assert [(run["state"], run["step"]) for run in records(capsys, "logs/slow")] == [("interrupted", 12)]


# ---------------------------------------------------------------------------- sorted


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["soft", "plain", "slow", "held"]),
        *[(["-sort", name], None) for name in (*COLUMNS, *SETTINGS)],
        (["-sort", "last"], ["soft", "slow", "plain", "held"]),
        (["-sort", "best"], ["soft", "slow", "held", "plain"]),
        (["-sort", "tau"], ["slow", "soft", "plain", "held"]),
        (["logs/held", "logs/slow", "logs/slow/../held"], ["slow", "held"]),
        (["-out-dir", "logs/plain"], ["plain"]),
    ],
)
def test_runs_are_sorted(logs, capsys, arguments, expected):
    found = names(capsys, *arguments)
    assert found == expected or (expected is None and {*found} == {"soft", "plain", "slow", "held"})


# ---------------------------------------------------------------------------- files


def test_csv_has_all_settings_and_results(logs, capsys):
    assert main(["runs", "-csv", "all.csv"]) == 0
    assert "logs/held" in capsys.readouterr().out  # the table too
    with open("all.csv", newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    expected = {"last_test_acc": "0.95", "best_test_acc": "0.7", "best_chosen_on": "held-out images", "tau": "3.0"}
    assert expected.items() <= rows["logs/held"].items()
    assert rows["logs/soft"]["last_test_acc"] == rows["logs/soft"]["v_reset"] == ""
    assert main(["runs", "-csv", "-", "logs/held"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and out[0].startswith("run,") and out[1].startswith("logs/held,")


# ---------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        (checkpoint.LATEST, lambda file: file.write_bytes(b"nonsense"), "checkpoint_latest.pth is damaged"),
        ("metrics.csv", lambda file: file.write_bytes(b"\xff\n"), "metrics.csv can't be read"),
        ("metrics.csv", Path.unlink, "metrics.csv can't be read"),
        ("config.yaml", Path.unlink, "config.yaml: no such file"),
        ("config.yaml", lambda file: file.write_text("tau: 0.5\n"), "slow/config.yaml: tau 0.5 is not allowed"),
    ],
)
def test_a_damaged_directory_is_named_in_one_line_and_skipped(logs, capsys, name, damage, words):
    damage(logs / "slow" / name)
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert "slow" not in out and all(name in out for name in ("plain", "held", "soft"))
    assert err.startswith("skipped: ") and words in err and len(err.splitlines()) == 1


def test_a_directory_that_may_not_be_read_hides_no_other(logs, capsys, monkeypatch):
    """As lost+found, where the runs have a disk of their own. What is no run is passed over."""
    (logs / "notes.txt").write_text("")
    (logs / "up").symlink_to("..", target_is_directory=True)
    (logs / "lost+found").mkdir()
    iterdir = Path.iterdir

    def refusing(folder):
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refusing)
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("logs/") == 4
    assert newest_run("logs").name == "held"


def test_a_row_that_is_ahead_of_the_checkpoint_does_not_count(logs):
    """Written by a run that was killed between the two, which writes it again when it is resumed."""
    with (logs / "slow" / "metrics.csv").open("a") as file:
        file.write("2,1,0.99,\n")
    (run,), _ = survey([logs / "slow"])
    assert (run.epochs_done, run.last_test_acc, run.state, run.step) == (1, 0.7, "interrupted", 12)


# ---------------------------------------------------------------------------- seeds


def test_seeds_are_summed_up(tmp_path, capsys, monkeypatch):
    """Last epochs 90, 92, 94 %: mean 92, deviation 2; chosen on held-out images 80, 82, 87 %: 83 and 3.61."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    group = tmp_path / "logs" / "group"
    for seed, (best, last) in enumerate([(0.80, 0.90), (0.82, 0.92), (0.87, 0.94)]):
        make(group / f"seed{seed}", [(0.5, 0.1), (0.9, best), (0.8, last)], seed=seed, val=9)
    make(group / "seed3", [(0.9, 0.5)], seed=3, val=9)
    settings = Config(seeds=4, epochs=3, val=9)
    SeedGroup(group, settings).save()
    kept = json.loads((group / SEEDS).read_text())
    assert (kept["seeds"], kept["finished"]) == (4, 3)
    assert kept["last_epoch"]["mean"] == pytest.approx(0.92) and kept["last_epoch"]["std"] == pytest.approx(0.02)
    assert kept["last_epoch"]["of_seed"] == {"0": 0.9, "1": 0.92, "2": 0.94}
    out = shown(capsys)
    assert "3 of 4 seeds: test accuracy of the last epoch 92.00 ± 2.00 % (mean ± std)" in out
    assert "of the epochs chosen on held-out images: 83.00 ± 3.61 %" in out
    assert main(["runs", "-json", "-"]) == 0
    (summary,) = json.loads(capsys.readouterr().out)["seeds"]
    assert summary | {"settings": kept["settings"]} == {"folder": "logs/group"} | kept


@pytest.mark.parametrize(("name", "text"), [("seed0/metrics.csv", "epochs\nx\n"), (SEEDS, "[")])
def test_damage_in_a_group_hides_no_run(tmp_path, capsys, name, text):
    group = tmp_path / "group"
    for seed in (0, 1):
        make(group / f"seed{seed}", [0.5], seed=seed, epochs=1)
    SeedGroup(group, Config(seeds=2, epochs=1)).save()
    (group / name).write_text(text)
    assert main(["runs", str(group), "-csv", str(tmp_path / "all.csv")]) == 0
    out, err = capsys.readouterr()
    assert str(group / "seed1") in out and (tmp_path / "all.csv").exists()
    assert f"skipped: the mean over {group}: {group / name} " in err


# ---------------------------------------------------------------------------- last


def test_last_is_the_run_that_was_trained_last(logs, tmp_path):
    assert newest_run("logs").name == "held"
    make(logs / "group" / "seed7", [0.5], at=NOON + 500)
    assert newest_run("logs") == logs.relative_to(tmp_path) / "group" / "seed7"
    os.utime(logs / "plain" / checkpoint.LATEST, (NOON + 900, NOON + 900))  # resumed
    assert newest_run("logs").name == "plain"


def test_last_goes_on_where_it_was_found(tmp_path):
    """Below -out-dir, as newest_run looks; in -out-dir itself; through a link."""
    folder = train_run(tmp_path / "study", epochs=1, limit_batches=1, T=5)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "one").symlink_to(folder)
    for epochs, place in enumerate([tmp_path, folder, tmp_path / "links"], 2):
        assert main(["train", "-resume", "last", "-out-dir", str(place), "-epochs", str(epochs)]) == 0
        assert len(metrics(folder)) == epochs


def test_without_a_run_last_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "-resume", "last"]) == 2
    (tmp_path / "logs").mkdir()
    assert main(["plot", "last"]) == 2
    assert capsys.readouterr().err.count("there is no run in ./logs; train one, or give") == 2


@pytest.mark.parametrize("verb", ["train", "eval", "trace", "export", "predict", "runs", "plot"])
def test_every_verb_knows_last(verb, logs):
    tokens = ["last"] if verb in ("runs", "plot") else ["-resume", "last", *["-"] * (verb == "predict")]
    options = resolve_runs(read_command([verb, *tokens, "-out-dir", "logs"])[1])
    assert "logs/held" in (getattr(options, "resume", ""), *getattr(options, "runs", ()))
