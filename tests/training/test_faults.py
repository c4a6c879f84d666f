"""Disks that fill up or fail, directories that vanish, numbers that blow up: one line, exit code 1, nothing lost."""

import os
import re
import shutil
from pathlib import Path

import pytest
import torture
from nursery import Child, Nursery
from torture import QUICK, differences

from snn_mnist.storage import checkpoint
from snn_mnist.storage.checkpoint import Position
from snn_mnist.storage.metrics import read_metrics
from tests.training.test_interruption import LONG, training_goes_on

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits, mounts and users of POSIX")
ONE_LINE = re.compile(r"snn_mnist (train|eval): error: .{,600}\n")


@pytest.fixture(scope="module")
def runs(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of two epochs, and an undisturbed one of four."""
    out = tmp_path_factory.mktemp("runs")
    for epochs in ("2", "4"):
        assert nursery.run("train", *QUICK, "-epochs", epochs, "-out-dir", str(out / epochs)).code == 0
    return next((out / "2").iterdir()), next((out / "4").iterdir())


@pytest.fixture
def run(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the run of two epochs."""
    return Path(shutil.copytree(runs[0], tmp_path / "run"))


def failed(child: Child, *words: object) -> None:
    """One line on stderr, which has these words, and exit code 1."""
    assert child.code == 1, (child.code, child.err)
    assert ONE_LINE.fullmatch(child.err), child.err
    for word in words:
        assert str(word) in child.err, (word, child.err)


def intact(folder: Path, runs: tuple[Path, Path]) -> None:
    """The checkpoints of two epochs stand as they were, with no temporary file beside them."""
    for name in (checkpoint.LATEST, checkpoint.BEST):
        assert (folder / name).read_bytes() == (runs[0] / name).read_bytes()
    assert not list(folder.glob(".*"))


def goes_on(nursery: Nursery, folder: Path, runs: tuple[Path, Path]) -> None:
    """Resumed without the fault, the run ends as if there had been none."""
    child = nursery.run("train", "-resume", str(folder), "-epochs", "4", "-j", "1")
    assert child.code == 0, child.err
    assert differences(runs[1], folder) == []


# ---------------------------------------------------------------------------- full disks and limits


def test_a_limit_on_the_size_of_files(nursery: Nursery, run: Path, runs: tuple[Path, Path]):
    """Whatever file is the first that can't be written: configuration, metrics, events, checkpoint."""
    reached = set()
    for limit in (300, 600, 1_200, 60_000):  # what it prints goes into files too, so not 0
        child = nursery.run("train", "-resume", str(run), "-epochs", "4", file_size=limit)
        failed(child, run, "can't be written (File too large)")
        reached.add(child.err.split(str(run))[1].split()[0].strip("/"))
        intact(run, runs)
    assert {"metrics.csv", "checkpoint_max.pth"} <= reached, reached
    goes_on(nursery, run, runs)


def test_stdout_on_a_full_disk(nursery: Nursery, run: Path, runs: tuple[Path, Path]):
    """What it has to say is lost, what it has learned is not."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    child = nursery.run("train", "-resume", str(run), "-epochs", "4", "-j", "1", out="/dev/full")
    failed(child, "No space left on device")
    goes_on(nursery, run, runs)


# ---------------------------------------------------------------------------- directories


def test_a_read_only_directory(nursery: Nursery, run: Path, runs: tuple[Path, Path], tmp_path: Path):
    for folder in (run, tmp_path):
        folder.chmod(0o555)
    failed(nursery.run("train", "-resume", str(run), "-epochs", "4", powerless=True), run, "Permission denied")
    intact(run, runs)
    out = tmp_path / "new"
    child = nursery.run("train", *QUICK, "-out-dir", str(out), powerless=True)
    failed(child, f"{out} can't be written (Permission denied); check its permissions or choose another -out-dir")
    (run / checkpoint.LATEST).chmod(0)
    child = nursery.run("eval", "-resume", str(run), powerless=True)
    failed(child, run / checkpoint.LATEST, "can't be read (Permission denied)")


@pytest.mark.parametrize("what", ["directory", "metrics.csv"])
def test_what_vanishes_while_it_trains(nursery: Nursery, tmp_path: Path, what: str):
    out, kept = tmp_path / "out", tmp_path / "elsewhere"
    child = nursery.start("train", *QUICK, *LONG, "-out-dir", str(out))
    folder = training_goes_on(child, out)
    child.stop()  # so that the files copied fit together
    if what == "directory":
        folder.rename(kept)
    else:
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns(".*"))
        (folder / what).unlink()
    child.go_on()
    child.wait()
    failed(child, folder, "No such file or directory")
    assert list(out.iterdir()) == ([] if what == "directory" else [folder])
    assert not (folder / "metrics.csv").exists()  # a new one would begin in the middle
    epochs = Position.of(checkpoint.load(kept)).epochs
    rows = read_metrics(kept / "metrics.csv")
    assert epochs and [row["epochs"] for row in rows[:epochs]] == [*range(1, epochs + 1)]


# ---------------------------------------------------------------------------- a run directory with holes


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [(b"\n2,", b"\nx,", "after row 1"), (b"e", b"\xff", "byte")],
)
def test_metrics_are_damaged(nursery: Nursery, run: Path, runs: tuple[Path, Path], old: bytes, new: bytes, words: str):
    content = (run / "metrics.csv").read_bytes().replace(old, new)
    (run / "metrics.csv").write_bytes(content)
    failed(nursery.run("train", "-resume", str(run), "-epochs", "4"), run / "metrics.csv", words)
    assert (run / "metrics.csv").read_bytes() == content  # for its owner to mend
    intact(run, runs)


def test_a_torn_or_surplus_row_of_metrics_is_dropped(nursery: Nursery, run: Path, runs: tuple[Path, Path]):
    with (run / "metrics.csv").open("a") as file:
        file.write("3,0.5,0.5,0.5,0.5,0.5,0.001,1,1,1\n4,0.")
    goes_on(nursery, run, runs)


@pytest.mark.parametrize("tail", [b"\x18\0\0\0\0\0\0\0\xa3\x7fK\x22\t", b"\xff" * 40])
def test_events_have_a_torn_end_or_rows_to_come(nursery: Nursery, run: Path, runs: tuple[Path, Path], tail: bytes):
    from snn_mnist.storage.metrics import TensorBoard

    board = TensorBoard(run, 2)
    board.write({"epochs": 3, "train_loss": 9.0})
    board.close()
    with max(run.glob("events*")).open("ab") as file:
        file.write(tail)
    goes_on(nursery, run, runs)


def test_what_may_be_missing(nursery: Nursery, run: Path, runs: tuple[Path, Path]):
    for name in (checkpoint.BEST, "environment.json", "metrics.csv"):
        (run / name).unlink()
    (run / f".{checkpoint.LATEST}.4711.tmp").write_bytes(b"left by a process that was killed")
    (run / ".hidden").write_bytes(b"not ours")
    child = nursery.run("train", "-resume", str(run), "-epochs", "4", "-j", "1")
    assert child.code == 0, child.err
    assert (run / "environment.json").is_file()
    assert torture.metrics(run) == torture.metrics(runs[1])[2:] and torture.curves(run) == torture.curves(runs[1])
    assert sorted(path.name for path in run.glob(".*")) == [".hidden"]


def test_without_its_configuration_a_directory_is_not_continued(nursery: Nursery, run: Path, tmp_path: Path):
    """The tutorial's script names its checkpoints alike: what is not our directory is not written to."""
    (run / "config.yaml").unlink()
    before = sorted(path.name for path in run.iterdir())
    child = nursery.run("train", "-resume", str(run), "-epochs", "4", "-out-dir", str(tmp_path / "out"))
    assert child.code == 0, child.err
    assert sorted(path.name for path in run.iterdir()) == before
    (folder,) = (tmp_path / "out").iterdir()
    assert [row["epochs"] for row in read_metrics(folder / "metrics.csv")] == [3, 4]


# ---------------------------------------------------------------------------- numbers


def test_weights_that_are_not_finite_stop_the_run(nursery: Nursery, run: Path, runs: tuple[Path, Path]):
    child = nursery.run("train", "-resume", str(run), "-epochs", "5", "-lr", "1e38")
    failed(child, "the weights are not finite by step 1 of epoch 3: a learning rate of 1e+38 is probably too high")
    failed(child, "lower -lr; the last checkpoint is good")
    intact(run, runs)
    assert torture.metrics(run) == torture.metrics(runs[0])


@pytest.mark.parametrize("lr", ["1e-30", "1e30"])
def test_a_network_that_has_learned_nothing_is_named_with_a_remedy(nursery: Nursery, tmp_path: Path, lr: str):
    child = nursery.run("train", *QUICK, "-lr", lr, "-epochs", "1", "-out-dir", str(tmp_path))
    assert child.code == 0
    assert "is chance; try -lr 0.001, which suits adam, or more -epochs\n" in child.out, child.out
