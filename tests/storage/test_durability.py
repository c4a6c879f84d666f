"""What survives a loss of power: the order of write, fsync, rename and fsync of the directory.

kill -9 can't show a missing fsync, for the kernel still has the data. So the calls are recorded in their order.
"""

import csv
import os

import pytest

from snn_mnist.storage import atomic_files, directory
from snn_mnist.storage.metrics import METRICS, MetricsFile
from snn_mnist.training.interruption import Interruption
from snn_mnist.training.loop import train
from tests.support.runs import config


@pytest.fixture
def calls(monkeypatch):
    """(call, name of the file) of every fsync, rename and removal of the process."""
    seen = []
    real = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}

    def fsync(handle):
        path = os.readlink(f"/proc/self/fd/{handle}")
        if os.path.isfile(path):
            seen.append(("fsync", os.path.basename(path), os.path.getsize(path)))
        else:
            seen.append(("fsync of directory", os.path.basename(path)))
        real["fsync"](handle)

    def replace(source, target):
        seen.append(("replace", os.path.basename(source), os.path.basename(target)))
        real["replace"](source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return seen


pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")


def test_a_whole_file_is_synced_before_it_is_renamed_and_its_directory_after(tmp_path, calls):
    folder = tmp_path / "run"
    folder.mkdir()
    atomic_files.write_file(folder / "file", b"12345")
    temporary = f".file.{os.getpid()}"
    assert calls == [("fsync", temporary, 5), ("replace", temporary, "file"), ("fsync of directory", "run")]


def test_a_row_of_metrics_is_synced_with_its_whole_line(tmp_path, calls):
    metrics = MetricsFile(tmp_path / "metrics.csv", METRICS, 0)
    calls.clear()
    metrics.append({"epochs": 1, "train_loss": 0.5})
    assert calls == [("fsync", "metrics.csv", (tmp_path / "metrics.csv").stat().st_size)]


def test_the_metrics_of_an_epoch_are_on_disk_before_the_checkpoint_that_counts_it(tmp_path, calls):
    """A checkpoint that is ahead of metrics.csv would lose that epoch's row for good."""
    train(config(out_dir=str(tmp_path), epochs=3, T=2, limit_batches=1, b=16), Interruption())
    (folder,) = tmp_path.iterdir()
    size_of_row = {}  # bytes of metrics.csv with that many rows
    with open(folder / "metrics.csv", newline="") as file:
        total, lines = 0, file.read().splitlines(keepends=True)
    for rows, line in enumerate(lines):
        total += len(line)
        size_of_row[total] = rows
    assert len(list(csv.reader(lines))) == 4
    story = []
    for call in calls:
        if call[:2] == ("fsync", "metrics.csv"):
            story.append(size_of_row[call[2]])
        elif call[0] == "replace" and call[2] == "checkpoint_latest.pth":
            story.append("latest")
    # a new run's first checkpoint; each epoch's row, then its checkpoint; before the last row one more, for its figures
    assert story == ["latest", 1, "latest", 2, "latest", "latest", 3, "latest"]


def test_the_best_checkpoint_is_written_before_the_latest_that_names_it(tmp_path, calls):
    train(config(out_dir=str(tmp_path), epochs=1, T=2, limit_batches=1, b=16), Interruption())
    renamed = [call[2] for call in calls if call[0] == "replace" and call[2].startswith("checkpoint")]
    assert renamed == ["checkpoint_latest.pth", "checkpoint_latest.pth", "checkpoint_max.pth", "checkpoint_latest.pth"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    file = tmp_path / "curves.png"
    atomic_files.write_file(file, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            with pytest.raises(atomic_files.SNNError, match=r"curves.png can't be written \(No space left"):
                atomic_files.write_file(file, b"new")
        assert file.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    """Every kind of file that is renamed into a run directory, figures too."""
    left = ["checkpoint_latest.pth", "checkpoint_max.pth", "config.yaml", "environment.json", "metrics.csv"]
    left += ["curves.png", "weights.png", "confusion.png", "accuracy_against_T.png"]
    kept = [*left, ".curves.png", ".metrics.csv.12.bak", ".metrics.csv.12a", ".notes.txt.12", "curves.png.12", ".12"]
    for name in (*kept, *(f".{name}.{number}" for number in (7, 12345) for name in left)):
        (tmp_path / name).write_bytes(b"")
    directory.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
