"""`train -resume` of a directory that -seeds made: what is trained yet, with which settings, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from snn_mnist.cli import train as training
from snn_mnist.cli.main import main
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint, seeds
from tests.support.runs import assert_same, metrics, newest

STEPS = 1437 // 100  # an epoch
RUN = ["train", "-dataset", "digits", "-T", "5", "-b", "100", "-lr", "5e-3", "-no-figures"]


def train(out: Path, *flags: str) -> Path:
    assert main([*RUN, *flags, "-out-dir", str(out)]) == 0
    return newest(out)


def resume(group: Path, flags: str = "") -> int:
    return main(["train", "-resume", str(group), *flags.split()])


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch):
    """Runs a command and presses Ctrl-C after that many steps."""

    def run(steps: int, *command: str) -> None:
        done = [0]

        def step(self, images):
            done[0] += 1
            if done[0] == steps:
                os.kill(os.getpid(), signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr("snn_mnist.training.progress.Progress.step", step)
            patch.setattr("snn_mnist.network.compiled_steps.CHUNK_WORK", 1)  # a step a chunk
            assert main(command) == 130

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("finished"), "-epochs", "2", "-seed", "4", "-seeds", "3")


@pytest.fixture
def group(finished: Path, tmp_path: Path) -> Path:
    """A finished directory of seeds 4, 5 and 6, two epochs each."""
    return Path(shutil.copytree(finished, tmp_path / "group"))


def kept(group: Path) -> dict:
    return json.loads((group / "seeds.json").read_text())


def begun(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("seed ")]


def epochs(group: Path) -> dict[str, int]:
    return {run.parent.name: len(metrics(run.parent)) for run in sorted(group.glob("seed?/metrics.csv"))}


def assert_same_runs(group: Path, whole: Path) -> None:
    assert seeds.summary(group) == seeds.summary(whole) == kept(group)
    for run in whole.glob("seed?"):
        assert metrics(group / run.name) == metrics(run)
        assert_same(checkpoint.load(group / run.name)["net"], checkpoint.load(run)["net"])


def test_an_interrupted_one_equals_an_undisturbed_one(tmp_path, capsys, interrupted, finished):
    """Interrupted within the second of three runs."""
    flags = ["-epochs", "2", "-seed", "4", "-seeds", "3", "-out-dir", str(tmp_path)]
    interrupted(2 * STEPS + STEPS + 6, *RUN, *flags)
    (group,) = tmp_path.iterdir()
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "1 of 3 seeds finished",
        f"resume all with: python -m snn_mnist train -resume {group}",
    ]
    assert epochs(group) == {"seed4": 2, "seed5": 1}
    assert resume(group) == 0
    out = capsys.readouterr().out
    assert begun(out) == ["seed 5: 2 of 3 runs", "seed 6: 3 of 3 runs"]
    assert "resuming in epoch 2 of 2 after 6 of 14 steps" in out and "\n3 seeds: test accuracy" in out
    assert_same_runs(group, finished)


def test_a_finished_one_has_nothing_to_do(group, capsys):
    assert resume(group) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"nothing to do: all 3 runs in {group} have been trained for 2 epochs;"
    assert lines[1] == "to continue, give a larger -epochs or -seeds" and lines[2].startswith("3 seeds: test accuracy")
    code = "import sys; sys.modules['torch'] = None; from snn_mnist.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", "-resume", str(group)]
    assert subprocess.run(command, capture_output=True).returncode == 0  # said without PyTorch


def test_more_seeds(group, capsys):
    assert resume(f"{group}/", "-seeds 4") == 0
    assert begun(capsys.readouterr().out) == ["seed 7: 4 of 4 runs"]
    alone = train(group.parent / "alone", "-epochs", "2", "-seed", "7")
    assert metrics(group / "seed7") == metrics(alone) and (kept(group)["first_seed"], kept(group)["seeds"]) == (4, 4)


def test_an_interrupted_extension_goes_on_with_what_was_given(group, tmp_path, interrupted, finished, capsys):
    """More epochs, stopped in the second run, resumed without a flag; until then only the first one counts."""
    whole = Path(shutil.copytree(finished, tmp_path / "whole"))
    assert resume(whole, "-epochs 3") == 0
    interrupted(STEPS + 3, "train", "-resume", str(group), "-epochs", "3")
    assert kept(group)["epochs"] == 3 and kept(group)["last_epoch"]["of_seed"].keys() == {"4"}
    assert "\n1 of 3 seeds finished\n" in capsys.readouterr().out
    assert resume(group) == 0
    assert epochs(group) == {"seed4": 3, "seed5": 3, "seed6": 3}
    assert_same_runs(group, whole)


def test_the_others_follow_a_run_that_was_extended_alone(group, capsys):
    assert main(["train", "-resume", str(group / "seed5"), "-epochs", "3"]) == 0
    assert (kept(group)["finished"], epochs(group)) == (1, {"seed4": 2, "seed5": 3, "seed6": 2})
    capsys.readouterr()
    assert resume(group) == 0
    assert begun(capsys.readouterr().out) == ["seed 4: 1 of 3 runs", "seed 6: 3 of 3 runs"]
    assert set(epochs(group).values()) == {3}


def test_epochs_can_be_taken_back(group, interrupted):
    interrupted(3, "train", "-resume", str(group), "-epochs", "1000")
    assert resume(group, "-epochs 3") == 0
    assert (kept(group)["epochs"], kept(group)["finished"], set(epochs(group).values())) == (3, 3, {3})


def test_another_process_that_was_faster(group, capsys, monkeypatch):
    """It trains a seed while this one loads PyTorch."""
    lock = training.exclusive_lock

    def late(folder):
        monkeypatch.setattr(training, "exclusive_lock", lock)
        assert resume(group, "-seeds 4") == 0
        return lock(folder)

    monkeypatch.setattr(training, "exclusive_lock", late)
    assert resume(group, "-seeds 5") == 0
    assert begun(capsys.readouterr().out) == ["seed 7: 4 of 4 runs", "seed 8: 5 of 5 runs"]
    assert list(epochs(group)) == [f"seed{n}" for n in range(4, 9)]


def test_a_run_killed_before_its_first_checkpoint_is_begun_anew(group, capsys):
    """It is the first one; its directory stays, and counts as no seed of its own."""
    (group / "seed4" / "checkpoint_latest.pth").unlink()
    (group / "seed4" / "metrics.csv").write_text("epoch\n")
    for _ in range(2):
        assert resume(group) == 0
        assert kept(group)["seeds"] == kept(group)["finished"] == 3
    assert begun(capsys.readouterr().out) == ["seed 4: 1 of 3 runs"]
    assert [run.name for run in sorted(group.glob("seed[0-9]*"))] == ["seed4", "seed4-2", "seed5", "seed6"]


def test_flags_of_a_single_run(group, capsys):
    """Its own config.yaml, -seed and -force change no seed; where the runs lie is not changed."""
    flags = f"-config {group}/seed5/config.yaml -seed 4 -force -epochs 3 -out-dir elsewhere -name other"
    assert resume(group, flags) == 0
    err = capsys.readouterr().err
    assert f"note: -out-dir elsewhere has no effect: the runs stay in {group}" in err
    assert "note: -name other has no effect" in err and "note: -force has no effect: it is for a single run" in err
    assert epochs(group) == {"seed4": 3, "seed5": 3, "seed6": 3}
    assert {Config.from_yaml(group / f"seed{n}" / "config.yaml").seed for n in (4, 5, 6)} == {4, 5, 6}


def test_without_tests(tmp_path, capsys):
    group = train(tmp_path, "-epochs", "1", "-seeds", "2", "-val", "100", "-no-test")
    assert capsys.readouterr().out.splitlines()[-2] == "2 seeds, not tested (-no-test)"
    assert main(["runs", str(group)]) == 0
    assert f"{group}: 2 of 2 seeds finished" in capsys.readouterr().out


def test_what_can_not_go_on_says_why(group, capsys):
    before = kept(group)
    empty = group.parent / "empty"
    empty.mkdir()
    (empty / "seeds.json").write_text('{"first_seed": 1e999, "seeds": 3}')
    for path, flags, words in (
        (group, "-tau 3", f"can't resume {group}: tau 2.0 → 3.0 makes its runs differ; leave that setting as it is"),
        (group, "-seed 1 -force", "seed 4 → 1 makes its runs differ"),
        (group, "-lr 0.1 -epochs 3", "lr 0.005 → 0.1 makes its runs differ"),
        (group, "-schedule cosine", "schedule constant → cosine makes its runs differ"),
        (group, "-seeds 2", f"-seeds 2: {group} has 3; give that number or a larger one"),
        (group, "-epochs 1", f"-epochs 1: a run in {group} has 2; give that number or a larger one"),
        (group / "seed4", "-seeds 2", f"-seeds is for new runs or for a directory of them; resume {group}"),
        (empty, "", f"no run in {empty} has a checkpoint; remove it and give its first command again"),
        ("x" * 5000, "", "name a checkpoint file or a run directory"),
    ):
        assert resume(path, flags) in (1, 2)
        assert words in capsys.readouterr().err
    assert resume(group, "-seeds 50 -device cuda:99") == 2  # refused later: nothing is begun, and it can be taken back
    assert resume(group, "-seeds 3") == 0 and kept(group) == before


def test_runs_that_differ_are_not_summed_up(group, capsys):
    """One learned at another rate; another has lost its test."""
    assert main(["train", "-resume", str(group / "seed5"), "-epochs", "3", "-lr", "0.1"]) == 0
    assert resume(group) == 2
    what = f"{group / 'seed5'} is no repetition of {group / 'seed4'} (lr 0.005 → 0.1); move it elsewhere"
    assert what in capsys.readouterr().err
    shutil.rmtree(group / "seed5")
    assert resume(group) == 0
    (group / "seed6" / "metrics.csv").unlink()
    capsys.readouterr()
    assert resume(group) == 0
    assert "\n2 of 3 seeds: test accuracy of the last epoch " in capsys.readouterr().out


def test_cosines_keep_their_length(tmp_path, capsys):
    group = train(tmp_path, "-epochs", "1", "-seeds", "2", "-schedule", "cosine", "-limit-batches", "2")
    assert resume(group, "-epochs 2") == 2
    assert "epochs 1 → 2 makes its runs differ" in capsys.readouterr().err
    assert resume(group, "-seeds 3") == 0 and kept(group)["finished"] == 3


def test_a_damaged_file_of_seeds_is_asked_for(group, capsys):
    for text in ("[", '{"first_seed": -5, "seeds": 3, "epochs": 2}', '{"first_seed": 4, "seeds": 1e9, "epochs": 2}'):
        (group / "seeds.json").write_text(text)
        assert resume(group) == 2
        err = capsys.readouterr().err
        assert err.endswith(f"{group / 'seeds.json'} is damaged; say with -seeds how many seeds there are\n")
    assert resume(group, "-seeds 3") == 0
    assert (kept(group)["first_seed"], kept(group)["seeds"], kept(group)["epochs"]) == (4, 3, 2)
    (group / "seeds.json").write_text('{"first_seed": 4, "seeds": 3, "epochs": 1}')  # killed before it was brought up
    assert resume(group) == 0
    assert "have been trained for 2 epochs" in capsys.readouterr().out


def test_damaged_runs_are_named_with_a_remedy(group, capsys):
    file = group / "seed4" / "checkpoint_latest.pth"
    file.write_bytes(file.read_bytes()[:100])
    assert resume(group) == 1
    assert capsys.readouterr().err.endswith(f"; remove {group / 'seed4'} to train its seed anew\n")
    shutil.rmtree(group / "seed4")
    assert resume(group) == 0
    assert begun(capsys.readouterr().out) == ["seed 4: 1 of 3 runs"]
    (group / "seed6" / "config.yaml").unlink()
    assert resume(group) == 1
    assert f"{group / 'seed6'} has no config.yaml; put it back, or remove" in capsys.readouterr().err
