"""Files that are written whole or not at all, directories for them, and a lock on a directory."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from snn_mnist.errors import SNNError, reason

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ATTEMPTS, PAUSE = 20, 0.05  # seconds, while another program reads a file or looks at a lock
TEMPORARY = ".tmp"  # ends the name of a file that is being written
LOCK_FILE = ".lock"  # what is locked in a directory on Windows; elsewhere it is the directory itself


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], flag: str = "-out-dir") -> Iterator[None]:
    """Raise an OSError as an SNNError that names path, reason and remedy; `flag` is the one that named the path."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free space" if full else "check its permissions"
        raise SNNError(f"{path} can't be written ({reason(error)}); {remedy} or choose another {flag}") from error


def make_directory(path: str | os.PathLike[str], flag: str = "-out-dir") -> None:
    """Make a directory and its parents where they are missing; SNNError when it fails."""
    with writing(path, flag):
        Path(path).mkdir(parents=True, exist_ok=True)


def new_run_directory(out_dir: str, name: str) -> Path:
    """Make OUT_DIR/name, or name-2, name-3, … where it exists; mkdir decides between runs that start at once."""
    base, number = Path(out_dir), 1
    with writing(base):
        base.mkdir(parents=True, exist_ok=True)
        while True:
            folder = base / (name if number == 1 else f"{name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
            number += 1


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Raise SNNError, before anything is computed, where nothing can be written in a directory or made on its path."""
    with writing(folder):
        existing = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
        tempfile.TemporaryDirectory(dir=existing).cleanup()


def write_file(path: str | os.PathLike[str], content: str | bytes, flag: str = "-out-dir") -> None:
    """Write text (as UTF-8) or bytes, whole or not at all: a reader sees the old file or the new one.

    A link is followed; a device or pipe (`-json /dev/stdout`) is written to. SNNError when it fails.
    """
    target = Path(os.path.realpath(path))
    data = content.encode() if isinstance(content, str) else content
    temporary = target.with_name(f".{target.name}.{os.getpid()}{TEMPORARY}")
    with writing(path, flag):
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _rename(temporary, target)
        finally:
            with contextlib.suppress(OSError):  # it is still there after an error or Ctrl-C
                temporary.unlink()
    with contextlib.suppress(OSError):  # makes the rename durable, on file systems that can sync a directory
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rename(temporary: Path, path: Path) -> None:
    """Rename a file; Windows refuses while another program reads the old one, so for a second try again."""
    for _ in range(ATTEMPTS):
        try:
            return os.replace(temporary, path)
        except PermissionError as error:
            refusal = error
            time.sleep(PAUSE)
    raise refusal


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time in: SNNError while another holds this lock. It ends with the process."""
    for _ in range(ATTEMPTS):
        with writing(folder):
            handle = _lock(folder)
        if handle is not None:
            break
        time.sleep(PAUSE)  # the other may be `is_locked`, which holds it for microseconds
    else:
        raise SNNError(f"another process trains in {folder}; wait until it ends, or stop it first")
    try:
        yield
    finally:
        os.close(handle)


def is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock of this directory."""
    if not fcntl and not (folder / LOCK_FILE).exists():
        return False
    handle = _lock(folder, shared=True)
    if handle is not None:
        os.close(handle)
    return handle is None


def _lock(folder: Path, shared: bool = False) -> int | None:
    """Return a handle that holds the lock until it is closed; None where another process holds it."""
    handle = os.open(folder, os.O_RDONLY) if fcntl else os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    try:
        if fcntl:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except (BlockingIOError, PermissionError):
        os.close(handle)
        return None
    except OSError:  # a network file system without locks
        pass
    return handle
