"""Files that are written whole or not at all, and a lock on a directory."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from snn_mnist.errors import SNNError


def write_file(path: str | os.PathLike[str], content: str | bytes, flag: str = "-out-dir") -> None:
    """Writes text (as UTF-8) or bytes, whole or not at all; SNNError when it fails. `flag` is the one that named it."""
    try:
        _replace(Path(path), content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise write_error(path, error, flag) from error


def make_directory(path: str | os.PathLike[str], flag: str = "-out-dir") -> None:
    """Makes a directory and its parents where they are missing; SNNError when it fails."""
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
    """What an exception says, on one line."""
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return " ".join(text.split())[:200] or type(error).__name__


def _replace(path: Path, content: bytes) -> None:
    """Writes a temporary file beside `path`, syncs it and renames it: a reader sees the old file or the new.

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
        os.replace(temporary, path)
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


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """One process at a time: SNNError when another holds this lock. It ends with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise SNNError(f"{folder} can't be opened ({reason(error)}); check the directory") from error
    try:
        for attempt in range(6):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 5:
                    what = f"another process trains in {folder}; wait for its end, or stop it first"
                    raise SNNError(what) from None
                time.sleep(0.05)  # it may be `is_locked`, which holds it for microseconds
            except OSError:  # a network file system without locks
                break
        yield
    finally:
        os.close(handle)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of this directory."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # a network file system without locks
        return False
    finally:
        os.close(handle)
