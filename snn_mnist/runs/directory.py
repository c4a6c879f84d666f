"""The directory of a run: how it is made, and the names of the files in it. Imports the standard library only."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from snn_mnist.errors import SNNError
from snn_mnist.runs.atomic_files import reason

LATEST, BEST = "checkpoint_latest.pth", "checkpoint_max.pth"
LEFTOVER = re.compile(r"\.(checkpoint_\w+\.pth|config\.yaml|environment\.json|metrics\.csv|\w+\.png)\.\d+")


def new_run_directory(out_dir: str, name: str) -> Path:
    """Makes OUT_DIR/name, or name-2, name-3, … where it exists; mkdir decides between runs that start at once."""
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
        raise SNNError(f"no run directory can be made in {base} ({error.strerror}); choose another -out-dir") from error


def find(path: str | os.PathLike[str]) -> Path:
    """The checkpoint file that `-resume` names: a file, or the latest one of a run directory."""
    path = Path(path)
    remedy = "name a checkpoint file or a run directory"
    try:
        if path.is_dir():
            path = path / LATEST
            if not path.exists():
                raise SNNError(f"no {LATEST} in {path}; {remedy}")
        if path.is_file():
            return path
        if path.exists():
            raise SNNError(f"{path} is not a regular file; {remedy}")
    except OSError as error:
        raise SNNError(f"{path} can't be read ({reason(error)}); {remedy}") from error
    raise SNNError(f"there is no checkpoint {path}; {remedy}")


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of a process that was killed while it wrote."""
    for path in folder.glob(".*.*"):
        if LEFTOVER.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()
