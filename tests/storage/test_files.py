"""Files that are written whole or not at all, what survives a loss of power, and the lock of a directory.

kill -9 can't show a missing fsync, for the kernel still has the data. So the calls are recorded in their order.
"""

import itertools
import os
import stat
import sys
import threading
from unittest.mock import DEFAULT, Mock

import pytest

from snn_mnist.errors import SNNError
from snn_mnist.storage import atomic_files
from tests.support.runs import train_run


@pytest.fixture
def calls(monkeypatch):
    """(call, name of the file, size or new name) of every fsync and rename of the process."""
    seen = []

    def fsync(handle, real=os.fsync):
        path = os.readlink(f"/proc/self/fd/{handle}")
        size = os.path.getsize(path) if os.path.isfile(path) else "directory"
        seen.append(("fsync", os.path.basename(path), size))
        real(handle)

    def replace(source, target, real=os.replace):
        seen.append(("replace", os.path.basename(source), os.path.basename(target)))
        real(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return seen


linux = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")


@linux
def test_a_whole_file_is_synced_before_it_is_renamed_and_its_directory_after(tmp_path, calls):
    atomic_files.write_file(tmp_path / "file", b"12345")
    temporary, then = f".file.{os.getpid()}.tmp", ("fsync", tmp_path.name, "directory")
    assert calls == [("fsync", temporary, 5), ("replace", temporary, "file"), then]


@linux
def test_the_metrics_of_an_epoch_are_on_disk_before_the_checkpoint_that_counts_it(tmp_path, calls):
    """A checkpoint that is ahead of metrics.csv would lose that epoch's row for good. The best checkpoint is written
    before the latest one, which names it."""
    folder = train_run(tmp_path, epochs=3, T=2, limit_batches=1, b=16, lr=0.01)
    lines = (folder / "metrics.csv").read_bytes().splitlines(keepends=True)
    sizes = {sum(map(len, lines[: rows + 1])): rows for rows in range(4)}  # bytes of metrics.csv -> rows
    names = {"checkpoint_latest.pth": "latest", "checkpoint_max.pth": "best"}
    story = []
    for call, name, more in calls:
        if (call, name) == ("fsync", "metrics.csv"):
            story.append(sizes[more])
        elif call == "replace" and more in names:
            story.append(names[more])
    assert story[:4] == ["latest", 1, "best", "latest"]  # a new run's first one; each epoch's row, then its checkpoint
    assert [each for each in story if each != "best"] == ["latest", 1, "latest", 2, "latest", "latest", 3, "latest"]
    assert all(after == "latest" for each, after in itertools.pairwise(story) if each == "best")


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    file = tmp_path / "curves.png"
    atomic_files.write_file(file, b"old")
    for step, error, remedy in (
        ("fsync", OSError(28, "No space left on device"), "free space or choose another -out-dir"),
        ("replace", OSError(13, "Permission denied"), "check its permissions or choose another -out-dir"),
    ):
        with (
            monkeypatch.context() as patch,
            pytest.raises(SNNError, match=f"s.png can't be .*{error.strerror}.*{remedy}"),
        ):
            patch.setattr(os, step, Mock(side_effect=error))
            atomic_files.write_file(file, b"new")
        assert file.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_a_file_that_another_program_reads_for_a_moment_is_replaced_then(tmp_path, monkeypatch):
    """As on Windows, where a file that is open can't be replaced."""
    refusing = Mock(side_effect=[PermissionError(13, "Permission denied")] * 3 + [DEFAULT], wraps=os.replace)
    monkeypatch.setattr(os, "replace", refusing)
    atomic_files.write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new" and refusing.call_count == 4


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
def test_links_are_followed_and_pipes_are_written_to(tmp_path):
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    atomic_files.write_file(file, b"one")
    link.symlink_to(file)
    atomic_files.write_file(link, "zwei ü")
    assert link.is_symlink() and file.read_bytes() == "zwei ü".encode()
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
        return os.path.exists(f"/proc/self/fd/{handle}")


@pytest.mark.parametrize("system", ["this one", pytest.param("Windows", marks=linux)])
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
    with pytest.raises(SNNError, match="can't be written"), atomic_files.exclusive_lock(tmp_path / "none"):
        pass
