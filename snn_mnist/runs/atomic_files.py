"""Files that are written whole or not at all, and a directory that one process at a time may train in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from snn_mnist.errors import SNNError


def _replace(path: Path, content: bytes) -> None:
    """Writes a temporary file beside `path`, syncs it and renames it: a reader sees the old file or the new.

    Raises the OSError of a failure, after which the old file stands and the temporary one is gone. A device or pipe
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
    _sync_directory(path.parent)


def write_file(path: str | os.PathLike[str], content: str | bytes, flag: str = "-out-dir") -> None:
    """Writes text (as UTF-8) or bytes, whole or not at all; SNNError when it fails. `flag` chose the path."""
    try:
        _replace(Path(path), content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise cant_write(path, error, flag) from error


def _sync_directory(folder: Path) -> None:
    """Makes a rename in this folder last, on file systems that can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """SNNError when another process is in this context with the same folder; the kernel ends it with the process."""
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
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SNNError(f"another process trains in {folder}; wait for its end, or stop it first") from None
        except OSError:  # a network file system without locks
            pass
        yield
    finally:
        os.close(handle)


def reason(error: BaseException) -> str:
    """What an exception says, on one line."""
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return " ".join(text.split())[:200] or type(error).__name__


def cant_write(path: str | os.PathLike[str], error: OSError, flag: str = "-out-dir") -> SNNError:
    """The error for a file that could not be written; `flag` is the one that chose the place."""
    return SNNError(f"{path} can't be written ({reason(error)}); free space or choose another {flag}")
