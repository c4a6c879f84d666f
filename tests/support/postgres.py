"""A PostgreSQL server of a test's own, which listens on a socket in a temporary directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def binaries() -> Path:
    """The directory with initdb and pg_ctl; Debian does not put it on the PATH."""
    found = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    file = installed[-1] if installed else Path(found) if found else None
    return file.resolve().parent if file else pytest.skip("no PostgreSQL server here")


@contextmanager
def server() -> Iterator[str]:
    """A running server; its URL for SQLAlchemy."""
    programs = binaries()
    with tempfile.TemporaryDirectory(prefix="pg-") as name:  # the path of a socket may not be long
        folder = Path(name)
        user: dict[str, Any] = {}
        if os.geteuid() == 0:  # it refuses to run as root
            user = {"user": "nobody", "extra_groups": ()}
            shutil.chown(folder, "nobody")

        def run(program: str, *arguments: str) -> None:
            with open(folder.parent / f"{folder.name}.out", "w") as out:
                command = [programs / program, "-D", folder / "data", *arguments]
                done = subprocess.run(command, cwd=folder, stdout=out, stderr=out, **user)
            text = Path(out.name).read_text()
            Path(out.name).unlink()
            assert done.returncode == 0, text

        run("initdb", "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-w", "-o", options, "-l", str(folder / "log"), "start")
        try:
            yield f"postgresql+psycopg2://tester@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
