"""The directory of a run: how it is made and found, and the names of its checkpoints. Standard library only."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from snn_mnist.errors import SNNError, UsageError, reason
from snn_mnist.storage.atomic_files import TEMPORARY, writing

LATEST, BEST = "checkpoint_latest.pth", "checkpoint_max.pth"
LEVELS = 2  # that runs lie below -out-dir at most, as those of -seeds do


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


def remove_temporary_files(folder: Path) -> None:
    """Remove those that a process left which was killed while it wrote."""
    for path in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            path.unlink()


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Return the checkpoint file that `-resume` names: a file, or the latest one of a run directory."""
    file, remedy = Path(path), "name a checkpoint file or a run directory"
    try:
        if file.is_dir():
            file /= LATEST
            if not file.exists() and any(run != Path(path) for run in run_directories(Path(path))):
                remedy = f"name a run in it, or last (with -out-dir {path})"
        if file.is_file():
            return file
        what = f"{file} is not a regular file" if file.exists() else f"there is no checkpoint {file}"
    except OSError as error:
        raise SNNError(f"{file} can't be read ({reason(error)}); {remedy}") from error
    raise UsageError(f"{what}; {remedy}")


def run_directories(
    folder: Path, unreadable: Callable[[Path, OSError], None] = lambda *_: None, levels: int = LEVELS
) -> list[Path]:
    """Return the folder if it is a run's, else those of the runs in it and in the directories in it, by name.

    A run that has a link too comes once. OSError for the folder itself; `unreadable` is called with others.
    """
    if (folder / "metrics.csv").is_file() or (folder / LATEST).is_file():
        return [folder]
    once: dict[Path, Path] = {}
    for child in sorted(folder.iterdir()) if levels else ():
        try:
            for run in run_directories(child, unreadable, levels - 1) if child.is_dir() else ():
                once.setdefault(run.resolve(), run)
        except OSError as error:
            unreadable(child, error)
    return list(once.values())


def newest_run(out_dir: str) -> Path:
    """Return the run in a directory whose latest checkpoint was written last; UsageError where there is none."""
    try:
        files = [run / LATEST for run in run_directories(Path(out_dir)) if (run / LATEST).is_file()]
        times = {file.parent: file.stat().st_mtime_ns for file in files}
    except OSError as error:
        raise UsageError(f"no run can be found in {out_dir} ({reason(error)}); give the runs' -out-dir") from error
    if not times:
        raise UsageError(f"there is no run in {out_dir} yet; train one, or give the -out-dir of the runs")
    return max(times, key=lambda run: (times[run], run))
