"""Draws the figures of docs/tutorial.md again, by running its snippets: docs/images/*.png.

    SNN_MNIST_DATA=DIR python scripts/tutorial_figures.py [RUN_DIR]

The three of section 11's command lines come from the program itself, trained on MNIST as it says there; two of them
from the finished run RUN_DIR if it is given. PNGs get a palette of 128 colours, or fewer: a third of the size, and no
difference.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL, IMAGES = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "images"
TRAIN = ["-T", "100", "-b", "64", "-epochs", "20", "-opt", "adam", "-lr", "1e-3"]
MAX_BYTES = 150_000


class Snippet(NamedTuple):
    line: int  # in its file, from 1
    code: str
    output: str | None  # what it must print, where the page says so


def snippets(page: Path) -> Iterator[Snippet]:
    """The ```python blocks of a page; a ```text block right behind one is its output."""
    text = page.read_text(encoding="utf-8")
    pattern = r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```\n)?"
    for found in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        yield Snippet(text.count("\n", 0, found.start()) + 2, found[1], found[2])


def run_snippets(page: Path) -> None:
    """In one namespace and the current directory; errors name the line of the page."""
    namespace: dict[str, object] = {"__name__": "tutorial"}
    for snippet in snippets(page):
        exec(compile("\n" * (snippet.line - 1) + snippet.code, str(page), "exec"), namespace)


def program(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "snn_mnist", *arguments],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def main() -> None:
    if "SNN_MNIST_DATA" not in os.environ:
        sys.exit("the tutorial's figures are of MNIST: set SNN_MNIST_DATA to the directory above MNIST/raw")
    run = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else ""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        run_snippets(TUTORIAL)
        if not run:
            program("train", *TRAIN, "-dataset", "mnist")
            run = "logs/T100_b64_adam_lr0.001"
        program("trace", "-resume", run, "-misclassified", "1", "-out", "trace")
        shutil.copy("trace/spikes.png", "trace_spikes.png")
        shutil.copy("trace/winner.png", "trace_winner.png")
        program("train", "-config", "votes", "-votes", "10", "-dataset", "mnist", "-name", "votes")
        shutil.copy("logs/votes/weights.png", "votes_fields.png")
        IMAGES.mkdir(exist_ok=True)
        for file in sorted(Path().glob("*.png")):
            target = IMAGES / file.name
            image = Image.open(file).convert("RGB")
            for colours in (128, 64):
                image.quantize(colours, dither=Image.Dither.NONE).save(target, optimize=True)
                if target.stat().st_size <= MAX_BYTES:
                    break
            print(f"{target.relative_to(ROOT)}  {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
