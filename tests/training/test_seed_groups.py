"""`train -seeds N`: several runs of the same settings, their summary, and what `-resume` of their directory does."""

import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from torture import same

from snn_mnist.__main__ import main
from snn_mnist.storage import checkpoint
from snn_mnist.storage.runs import SeedGroup
from tests.support.runs import metrics, newest

STEPS = 1437 // 100  # an epoch
RUN = ["train", "-dataset", "digits", "-T", "5", "-b", "100", "-lr", "5e-3", "-no-figures"]


def train(out: Path, flags: str) -> Path:
    assert main([*RUN, *flags.split(), "-out-dir", str(out)]) == 0
    return newest(out)


def resume(group: Path | str, flags: str = "") -> int:
    return main(["train", "-resume", str(group), *flags.split()])


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch):
    """Runs a command and presses Ctrl-C after that many steps."""

    def run(steps: int, *command: str) -> None:
        looks = itertools.count(1)
        with monkeypatch.context() as patch:
            look = Mock(side_effect=lambda: next(looks) == steps and os.kill(os.getpid(), signal.SIGINT))
            patch.setattr("snn_mnist.training.console.Threads.follow", look)
            patch.setattr("snn_mnist.network.compiled_steps.CHUNK_WORK", 1)  # a step a chunk
            assert main(command) == 130

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("finished"), "-epochs 2 -seed 4 -seeds 3")


@pytest.fixture
def group(finished: Path, tmp_path: Path) -> Path:
    """A finished directory of seeds 4, 5 and 6, two epochs each."""
    return Path(shutil.copytree(finished, tmp_path / "group"))


def kept(group: Path) -> dict[str, Any]:
    return json.loads((group / "seeds.json").read_text())


def begun(capsys) -> list[str]:
    """The seeds that were trained, as they were announced."""
    return [line.split()[1][:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("seed ")]


def epochs(group: Path) -> dict[str, int]:
    return {run.parent.name: len(metrics(run.parent)) for run in sorted(group.glob("seed?/metrics.csv"))}


def assert_same_runs(group: Path, whole: Path) -> None:
    assert SeedGroup.read(group).summary() == SeedGroup.read(whole).summary()
    assert SeedGroup.read(group).summary().items() <= kept(group).items()
    for run in whole.glob("seed?"):
        assert metrics(group / run.name) == metrics(run)
        assert same(checkpoint.load(group / run.name)["net"], checkpoint.load(run)["net"])


def test_mean_and_deviation_are_printed_and_kept(tmp_path, capsys):
    group = train(tmp_path, "-epochs 2 -seed 4 -seeds 3 -val 300")
    printed = capsys.readouterr().out.splitlines()
    assert group.name == "T5_b100_adam_lr0.005_digits_val300_seeds4-6"
    folders = [group / f"seed{seed}" for seed in (4, 5, 6)]
    assert sorted(group.iterdir()) == [*folders, group / "seeds.json"]
    last = [metrics(folder)[-1]["test_acc"] for folder in folders]
    chosen = [max(metrics(folder), key=lambda row: row["val_acc"])["test_acc"] for folder in folders]
    for line, values, name in zip(printed[-3:-1], (last, chosen), ("last_epoch", "chosen_by_val"), strict=True):
        assert f" {100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values):.2f} %" in line
        assert kept(group)[name]["of_seed"] == dict(zip("456", values, strict=True))


def test_an_interrupted_one_equals_an_undisturbed_one(tmp_path, capsys, interrupted, finished):
    """Interrupted within the second of three runs."""
    flags = ["-epochs", "2", "-seed", "4", "-seeds", "3", "-out-dir", str(tmp_path)]
    interrupted(2 * STEPS + STEPS + 6, *RUN, *flags)
    (group,) = tmp_path.iterdir()
    assert capsys.readouterr().out.endswith(
        f"\n1 of 3 seeds finished\nresume all with: python -m snn_mnist train -resume {group}\n"
    )
    assert epochs(group) == {"seed4": 2, "seed5": 1}
    assert resume(group) == 0
    out = capsys.readouterr().out
    assert "\nseed 6: 3 of 3 runs" in out and "seed 4" not in out
    assert "resuming in epoch 2 of 2 after 6 of 14 steps" in out and "\n3 seeds: test accuracy" in out
    assert_same_runs(group, finished)


def test_what_is_finished_has_nothing_to_do_without_pytorch(group):
    code = "import sys; sys.modules['torch'] = None; from snn_mnist.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", "-resume", str(group)]
    out = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    assert out.startswith("3 seeds: test accuracy")


def test_more_seeds_and_more_epochs(group, tmp_path, interrupted, capsys):
    """Stopped in the second run, resumed without a flag; until then only the first run counts."""
    assert resume(f"{group}/", "-seeds 4") == 0
    assert begun(capsys) == ["7"]
    assert metrics(group / "seed7") == metrics(train(tmp_path / "alone", "-epochs 2 -seed 7"))
    interrupted(STEPS + 3, "train", "-resume", str(group), "-epochs", "3")
    assert kept(group)["epochs"] == 3 and kept(group)["last_epoch"]["of_seed"].keys() == {"4"}
    assert "\n1 of 4 seeds finished\n" in capsys.readouterr().out
    assert resume(group) == 0
    assert set(epochs(group).values()) == {3}
    whole = train(tmp_path / "whole", "-epochs 3 -seed 4 -seeds 4")
    assert_same_runs(group, whole)


def test_a_run_that_was_extended_alone_counts_when_the_others_have_its_length(group, capsys):
    """-force and -out-dir change neither a seed nor where the runs lie."""
    assert main(["train", "-resume", str(group / "seed5"), "-epochs", "3"]) == 0 and kept(group)["finished"] == 2
    capsys.readouterr()
    assert resume(group, "-epochs 3 -seed 4 -force -out-dir elsewhere") == 0 and begun(capsys) == ["4", "6"]
    assert epochs(group) == {"seed4": 3, "seed5": 3, "seed6": 3} and kept(group)["finished"] == 3


def test_what_was_wanted_and_not_begun_can_be_taken_back(group, interrupted):
    before = kept(group)
    assert resume(group, "-seeds 50 -device cuda:99") == 2  # refused when the first of them begins
    assert resume(group, "-seeds 3") == 0 and kept(group) == before
    interrupted(3, "train", "-resume", str(group), "-epochs", "1000")
    assert resume(group, "-epochs 3") == 0 and kept(group)["epochs"] == 3


def test_a_gap_is_filled_and_no_run_beyond_it_is_forgotten(group, capsys, finished):
    """Seed 5 of 4, 5 and 6 is gone; the run of seed 4 was killed before its first checkpoint. Its directory stays."""
    shutil.rmtree(group / "seed5")
    (group / "seed4" / "checkpoint_latest.pth").unlink()
    assert resume(group, "-seeds 2") == 2
    assert f"{group} has seed 6; give 3 or a larger number" in capsys.readouterr().err
    assert resume(group, "-seeds 3") == 0 and begun(capsys) == ["4", "5"]
    assert resume(group) == 0 and not begun(capsys)
    assert [run.name for run in sorted(group.glob("seed[0-9]*"))] == ["seed4", "seed4-2", "seed5", "seed6"]
    assert metrics(group / "seed4-2") == metrics(finished / "seed4")
    assert SeedGroup.read(group).summary() == SeedGroup.read(finished).summary()


def test_a_group_in_which_a_process_trains_is_left_to_it(group, capsys):
    from snn_mnist.storage.atomic_files import exclusive_lock

    with exclusive_lock(group):
        assert resume(group, "-seeds 4") == 1
    assert f"another process trains in {group}" in capsys.readouterr().err and kept(group)["seeds"] == 3


def test_without_tests(tmp_path, capsys):
    group = train(tmp_path, "-epochs 1 -seeds 2 -val 100 -no-test")
    assert capsys.readouterr().out.splitlines()[-2] == "2 seeds, not tested (-no-test)"
    assert main(["runs", str(group)]) == 0
    assert "2 seeds, not tested (-no-test)" in capsys.readouterr().out


def test_the_runs_of_a_group_stay_repetitions_of_one_another(group, tmp_path, capsys):
    for path, flags, words in (
        (group, "-tau 3", "only the seeds may differ, not tau 2.0 → 3.0"),
        (group, "-seed 1 -force", "not seed 4 → 1"),
        (group, "-lr 0.1 -epochs 3", "not lr 0.005 → 0.1"),
        (group / "seed4", "-seeds 2", f"-seeds 2 is not for the single run {group / 'seed4'}"),
        ("x" * 5000, "", "name a checkpoint file or a run directory"),
    ):
        assert resume(path, flags) in (1, 2)
        assert words in capsys.readouterr().err
    cosine = train(tmp_path / "cosine", "-epochs 1 -seeds 2 -schedule cosine -limit-batches 2")
    assert resume(cosine, "-epochs 2") == 2
    assert "not epochs 1 → 2" in capsys.readouterr().err
    assert resume(cosine, "-seeds 3") == 0 and kept(cosine)["finished"] == 3


def test_damage_is_named(group, capsys):
    file = group / "seed4" / "checkpoint_latest.pth"
    file.write_bytes(file.read_bytes()[:100])
    assert resume(group) == 1
    assert f"{file} is damaged" in capsys.readouterr().err
    (group / "seeds.json").write_text("[")
    assert resume(group) == 1
    assert f"{group / 'seeds.json'} is damaged" in capsys.readouterr().err
