from pathlib import Path

import pytest


@pytest.fixture
def code(tmp_path: Path):
    def write(text: str, name: str = "make", file: str = "my_net.py") -> str:
        (tmp_path / file).write_text(text, encoding="utf-8")
        return f"{tmp_path / file}:{name}"

    return write
