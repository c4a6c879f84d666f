"""The directory of a run: how it is made, and the names of the files in it. Imports the standard library only."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.storage.atomic_files import reason, write_error

LATEST, BEST = "checkpoint_latest.pth", "checkpoint_max.pth"
LEFTOVER = re.compile(r"\.(checkpoint_\w+\.pth|config\.yaml|environment\.json|metrics\.csv|\w+\.png)\.\d+")
LEVELS = 2  # that runs lie below -out-dir at most, as those of -seeds do


def new_run_directory(out_dir: str, name: str) -> Path:
    """Make OUT_DIR/name, or name-2, name-3, … where it exists; mkdir decides between runs that start at once."""
    base = Path(out_dir)
    try:
        base.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = base / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        raise write_error(base, error) from error


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Raise SNNError, before anything is computed, where nothing can be written in a directory or made on its path."""
    try:
        existing = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        raise write_error(folder, error) from error


def find(path: str | os.PathLike[str]) -> Path:
    """Return the checkpoint file that `-resume` names: a file, or the latest one of a run directory."""
    path = Path(path)
    remedy = "name a checkpoint file or a run directory"
    try:
        if path.is_dir():
            folder, path = path, path / LATEST
            if not path.exists():
                if any(run != folder for run in run_directories(folder)):
                    remedy = f"name a run in it, or last (with -out-dir {folder})"
                raise UsageError(f"no {LATEST} in {folder}; {remedy}")
        if path.is_file():
            return path
        if path.exists():
            raise UsageError(f"{path} is not a regular file; {remedy}")
    except OSError as error:
        raise SNNError(f"{path} can't be read ({reason(error)}); {remedy}") from error
    raise UsageError(f"there is no checkpoint {path}; {remedy}")


def run_directories(folder: Path, unreadable: Callable[[Path, OSError], None] = lambda *_: None) -> list[Path]:
    """Return the folder if it is a run's, else those of the runs in it and in the directories in it, by name.

    Each comes once, as a link only if that is all there is. OSError for the folder itself; `unreadable` is
    called with others that can't be read.
    """
    once: dict[Path, Path] = {}
    for run in sorted(_runs_in(folder, LEVELS, unreadable), key=Path.is_symlink):
        once.setdefault(run.resolve(), run)
    return list(once.values())


def _runs_in(folder: Path, levels: int, unreadable: Callable[[Path, OSError], None]) -> Iterator[Path]:
    if (folder / "metrics.csv").is_file() or (folder / LATEST).is_file():
        yield folder
    elif levels:
        for child in sorted(folder.iterdir()):
            try:
                if child.is_dir():
                    yield from _runs_in(child, levels - 1, unreadable)
            except OSError as error:
                unreadable(child, error)


def newest_run(out_dir: str) -> Path:
    """Return the run in a directory whose latest checkpoint was written last; UsageError where there is none."""
    try:
        files = [run / LATEST for run in run_directories(Path(out_dir)) if (run / LATEST).is_file()]
        times = {file.parent: file.stat().st_mtime_ns for file in files}
    except OSError as error:
        kind = UsageError if isinstance(error, FileNotFoundError | NotADirectoryError) else SNNError
        raise kind(f"no run can be found in {out_dir} ({reason(error)}); give the -out-dir of the runs") from error
    if not times:
        raise UsageError(f"there is no run in {out_dir} yet; train one, or give the -out-dir of the runs")
    return max(times, key=lambda run: (times[run], run))


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote."""
    for path in folder.glob(".*.*"):
        if LEFTOVER.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()
