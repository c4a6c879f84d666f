"""Files that are written whole or not at all, what survives a loss of power, and the lock of a directory.

kill -9 can't show a missing fsync, for the kernel still has the data. So the calls are recorded in their order.
"""

import csv
import os
import stat
import sys
import threading

import pytest

from snn_mnist.errors import SNNError
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


linux = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")


@linux
def test_a_whole_file_is_synced_before_it_is_renamed_and_its_directory_after(tmp_path, calls):
    folder = tmp_path / "run"
    folder.mkdir()
    atomic_files.write_file(folder / "file", b"12345")
    temporary = f".file.{os.getpid()}"
    assert calls == [("fsync", temporary, 5), ("replace", temporary, "file"), ("fsync of directory", "run")]


@linux
def test_a_row_of_metrics_is_synced_with_its_whole_line(tmp_path, calls):
    metrics = MetricsFile(tmp_path / "metrics.csv", METRICS, 0)
    calls.clear()
    metrics.append({"epochs": 1, "train_loss": 0.5})
    assert calls == [("fsync", "metrics.csv", (tmp_path / "metrics.csv").stat().st_size)]


@linux
def test_the_metrics_of_an_epoch_are_on_disk_before_the_checkpoint_that_counts_it(tmp_path, calls):
    """A checkpoint that is ahead of metrics.csv would lose that epoch's row for good."""
    folder = train(config(out_dir=str(tmp_path), epochs=3, T=2, limit_batches=1, b=16), Interruption())
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


@linux
def test_the_best_checkpoint_is_written_before_the_latest_that_names_it(tmp_path, calls):
    train(config(out_dir=str(tmp_path), epochs=1, T=2, limit_batches=1, b=16), Interruption())
    renamed = [call[2] for call in calls if call[0] == "replace" and call[2].startswith("checkpoint")]
    assert renamed == ["checkpoint_latest.pth", "checkpoint_latest.pth", "checkpoint_max.pth", "checkpoint_latest.pth"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    file = tmp_path / "curves.png"
    atomic_files.write_file(file, b"old")
    for step, error, remedy in (
        ("fsync", OSError(28, "No space left on device"), "free space or choose another -out-dir"),
        ("replace", OSError(13, "Permission denied"), "check its permissions or choose another -out-dir"),
    ):

        def fail(*_, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(SNNError, match=r"curves.png can't be written") as caught:
                atomic_files.write_file(file, b"new")
        assert str(caught.value).endswith(remedy) and error.strerror in str(caught.value)
        assert file.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_a_file_that_another_program_reads_for_a_moment_is_replaced_then(tmp_path, monkeypatch):
    """As on Windows, where a file that is open can't be replaced."""
    replace, refusals = os.replace, [None, None, None]

    def refusing(source, target):
        if refusals:
            refusals.pop()
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    atomic_files.write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new" and not refusals


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
def test_links_are_followed_and_pipes_are_written_to(tmp_path):
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    atomic_files.write_file(file, b"one")
    link.symlink_to(file)
    atomic_files.write_file(link, "zwei ü")
    assert link.is_symlink() and file.read_bytes() == "zwei ü".encode()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask
    with pytest.raises(SNNError, match=r"no/file can't be written .No such file or directory"):
        atomic_files.write_file(tmp_path / "no" / "file", "")
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    atomic_files.write_file(pipe, b"to the reader")
    reader.join(20)
    assert read == [b"to the reader"] and stat.S_ISFIFO(pipe.stat().st_mode)


class FakeLocking:
    """Windows' module msvcrt: locks a byte of a file for one handle; errors as Windows gives them."""

    LK_NBLCK = 2

    def __init__(self):
        self.locked = {}

    def locking(self, handle, mode, size):
        inode = os.fstat(handle).st_ino
        holder = self.locked.get(inode)
        if holder not in (None, handle) and self.is_open(holder):
            raise PermissionError(13, "Permission denied")
        self.locked[inode] = handle

    @staticmethod
    def is_open(handle):
        try:
            os.fstat(handle)
        except OSError:
            return False
        return True


@pytest.mark.parametrize("system", ["this one", "Windows"])
def test_one_holder_of_a_lock_at_a_time(tmp_path, monkeypatch, system):
    if system == "Windows":
        monkeypatch.setattr(atomic_files, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", FakeLocking())
    assert not atomic_files.is_locked(tmp_path) and list(tmp_path.iterdir()) == []
    with atomic_files.exclusive_lock(tmp_path):
        assert atomic_files.is_locked(tmp_path)
        with pytest.raises(SNNError, match="another process trains in"), atomic_files.exclusive_lock(tmp_path):
            pass
    assert not atomic_files.is_locked(tmp_path)
    with atomic_files.exclusive_lock(tmp_path):
        pass
    with pytest.raises(SNNError, match="can't be opened"), atomic_files.exclusive_lock(tmp_path / "none"):
        pass


def test_a_place_that_can_not_be_written_to_is_found_without_a_trace(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SNNError, match="choose another -out-dir"):
            directory.require_writable(place)
    directory.require_writable(tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    """Every kind of file that is renamed into a run directory, figures too."""
    left = ["checkpoint_latest.pth", "checkpoint_max.pth", "config.yaml", "environment.json", "metrics.csv"]
    left += ["curves.png", "weights.png", "confusion.png", "accuracy_against_T.png"]
    kept = [*left, ".curves.png", ".metrics.csv.12.bak", ".metrics.csv.12a", ".notes.txt.12", "curves.png.12", ".12"]
    for name in (*kept, *(f".{name}.{number}" for number in (7, 12345) for name in left)):
        (tmp_path / name).write_bytes(b"")
    directory.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
