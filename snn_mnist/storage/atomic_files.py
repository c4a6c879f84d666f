"""Files that are written whole or not at all, and a lock on a directory."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from snn_mnist.errors import SNNError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SHORT_WAIT = 20  # attempts, 0.05 s apart, while another program reads a file or looks at a lock
LOCK_FILE = ".lock"  # what is locked in a directory on Windows; elsewhere it is the directory itself


def write_file(path: str | os.PathLike[str], content: str | bytes, flag: str = "-out-dir") -> None:
    """Write text (as UTF-8) or bytes, whole or not at all; SNNError when it fails. `flag` is the one that named it."""
    try:
        _replace(Path(path), content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise write_error(path, error, flag) from error


def make_directory(path: str | os.PathLike[str], flag: str = "-out-dir") -> None:
    """Make a directory and its parents where they are missing; SNNError when it fails."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SNNError(f"{path} can't be made ({reason(error)}); choose another {flag}") from error


def write_error(path: str | os.PathLike[str], error: OSError, flag: str = "-out-dir") -> SNNError:
    """Return the error for a file that could not be written; `flag` is the one that named it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free space" if full else "check its permissions"
    return SNNError(f"{path} can't be written ({reason(error)}); {remedy} or choose another {flag}")


def reason(error: BaseException) -> str:
    """Return the message of an exception on one line."""
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return " ".join(text.split())[:200] or type(error).__name__


def _replace(path: Path, content: bytes) -> None:
    """Write a temporary file beside `path`, sync it and rename it: a reader sees the old file or the new one.

    After an OSError the old file is as it was and the temporary one is removed. A device or pipe
    (`-json /dev/stdout`) is written to instead of replaced, a link is followed.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # makes the rename durable, on file systems that can sync a directory
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rename(temporary: Path, path: Path) -> None:
    """Rename a file; Windows refuses while another program reads the old one, so for a second try again."""
    for attempt in range(SHORT_WAIT):
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            if attempt == SHORT_WAIT - 1:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time in: SNNError while another holds this lock. It ends with the process."""
    try:
        for _ in range(SHORT_WAIT):
            if (handle := _lock(folder, shared=False)) is not None:
                break
            time.sleep(0.05)  # the other may be `is_locked`, which holds it for microseconds
        else:
            raise SNNError(f"another process trains in {folder}; wait until it ends, or stop it first")
    except OSError as error:
        raise SNNError(f"{folder} can't be opened ({reason(error)}); check the directory") from error
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


def _lock(folder: Path, shared: bool) -> int | None:
    """Return a handle that holds the lock until it is closed; None where another process holds it."""
    handle = os.open(folder, os.O_RDONLY) if fcntl else os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    try:
        if fcntl:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:  # any other one: a network file system without locks
        if isinstance(error, BlockingIOError | PermissionError):
            os.close(handle)
            return None
    return handle
