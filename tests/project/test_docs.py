"""Snippets run, command lines parse, pictures, links and files exist, and the README's table of flags is the code's."""

import contextlib
import io
import itertools
import json
import re
import shlex
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import jupytext
import make_notebook  # scripts/ is on the path, see conftest.py
import pytest
import readme_numbers
import tutorial_figures
import yaml
from matplotlib.figure import Figure
from PIL import Image

from snn_mnist import __version__
from snn_mnist.cli import parser as cli
from snn_mnist.settings.config import Config
from snn_mnist.settings.options import options_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "snn_mnist"
README = ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.md"


def code_blocks(page, *languages):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def printed_by(code, name, namespace):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), namespace)
    return printed.getvalue()


def test_the_snippets_of_the_readme_run():
    namespace = {"__name__": "snippet"}
    for snippet in tutorial_figures.snippets(README):
        printed_by("\n" * (snippet.line - 1) + snippet.code, str(README), namespace)


def test_the_notebook_is_the_tutorial():
    page = TUTORIAL.read_text(encoding="utf-8")
    committed = make_notebook.NOTEBOOK.read_text(encoding="utf-8")
    assert committed == make_notebook.notebook(page), "run: python scripts/make_notebook.py"
    jupytext.reads(committed, fmt="ipynb")  # valid
    cells = [cell for cell in json.loads(committed)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    codes = [re.sub(r"(?m)^display\(.*\n?", "", "".join(cell["source"])).rstrip("\n") for cell in cells]
    assert codes[1:] == [snippet.code.rstrip("\n") for snippet in tutorial_figures.snippets(TUTORIAL)]


def test_the_cells_of_the_notebook_run_and_print_what_they_say(tmp_path, monkeypatch):
    """In order, in one namespace, in an empty directory; with real MNIST where SNN_MNIST_DATA names it. They make and
    show every picture of the page."""
    monkeypatch.chdir(tmp_path)
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: save(figure, file, dpi=40))  # takes a third of the time
    displayed = []
    jupyter = SimpleNamespace(Image=lambda name: Path(name).stat() and name, display=displayed.append)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=jupyter, version_info=(9,)))
    monkeypatch.setitem(sys.modules, "IPython.display", jupyter)
    namespace = {"__name__": "notebook"}
    cells = json.loads(make_notebook.NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    for number, (cell, following) in enumerate(itertools.pairwise([*cells, {"source": []}])):
        if cell["cell_type"] == "code":
            printed = printed_by("".join(cell["source"]), f"tutorial.ipynb, cell {number}", namespace)
            text = "".join(following["source"])
            if text.startswith("```text\n"):
                assert printed == text.removeprefix("```text\n").partition("```")[0], f"cell {number}"
    made = {file.name for file in tmp_path.glob("*.png")}
    shown = {Path(name).name for name in pictures(TUTORIAL)}
    assert made == {name for name in shown if not name.startswith(("trace_", "votes_fields"))}
    assert sorted(displayed) == sorted(made)


def pictures(page):
    return re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))


def test_pictures_are_there_and_small_and_shown():
    shown = {(page.parent / name).resolve() for page in PAGES for name in pictures(page) if not name.startswith("http")}
    for file in shown:
        assert file.stat().st_size < 150_000, file
        assert Image.open(file).size[0] >= 360, file  # a phone is that wide
    assert {file.resolve() for file in (ROOT / "docs" / "images").iterdir()} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page):
    for target in re.findall(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        if "://" not in name:
            file = page.parent / name if name else page
            assert file.exists(), target
            assert not heading or heading in headings(file), target


def headings(page):
    """The anchors of a page's headings, as they are made on GitHub."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    """`scripts/rooms.py`, `training/loop.py` in the package, and in a row of the rooms' table `loop.py`."""
    missing = []
    for line in page.read_text(encoding="utf-8").splitlines():
        folders = [ROOT, PACKAGE, *(PACKAGE / name for name in re.findall(r"`(\w+)/`", line))]
        names = re.findall(r"`((?:\w+/)*\w+\.(?:py|cu|cuh|sh)|(?:\w+/)+)`", line)
        names += re.findall(r"\b((?:configs|docs|scripts|snn_mnist|tests)/[\w/]*\.\w+)", line)
        missing += [name for name in names if not any((folder / name).exists() for folder in folders)]
    assert not missing, f"{page.name} names {', '.join(missing)}"


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__


def test_readme_is_short_and_has_the_flags_of_the_code():
    text = README.read_text(encoding="utf-8")
    rows = [f"| `{each.flag}` | {each.default_text} | {each.meaning} |" for each in options_of(Config)]
    table = "\n".join(["| flag | default | meaning |", "|---|---|---|", *rows, ""])
    assert len(text.splitlines()) <= 160
    assert table in text, f"README.md has another table of flags than the code:\n{table}"


@pytest.mark.parametrize("page", readme_numbers.PAGES, ids=lambda page: page.name)
def test_measured_numbers_stand_in_the_pages(page):
    measured, text = json.loads(readme_numbers.MEASURED.read_text()), page.read_text(encoding="utf-8")
    assert readme_numbers.fill(text, measured, page.name == "speed.md") == text, "run: python scripts/readme_numbers.py"
    other = {"train_s": [70], "test_s": 7000, "quick_test_s": 700, "votes_highest": 0.7, "tutorial_highest": 0.7}
    other |= {recipe: [[0.6, 0.7], [0.7, 0.8]] for recipe in ("best", "votes", "tutorial")}
    found = readme_numbers.fill(text, measured | other, page.name == "speed.md")
    new = Counter(re.findall(r"\d[\d.,]*", found)) - Counter(re.findall(r"\d[\d.,]*", text))
    wanted = {} if page.name == "speed.md" else {"70": 1, "117": 1, "12": 1, "70.00": 4, "7.07": 3, "65.00": 1}
    assert new == Counter(wanted), "the page has other words than the script looks for"


def command_lines(page):
    """The program's command lines of a page, as lists of words; what stands before the program's name is left out."""
    for block in code_blocks(page, "bash", "sh", "console", "shell"):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(\$ )?#", line):
                continue
            for part in re.split(r"&&|\|\||;|\|", line.removeprefix("$ ")):
                words = re.split(r"(?:^|\s)(?:python3? -m snn_mnist|snn_mnist)(?:\s|$)", part, maxsplit=1)
                if len(words) == 2:
                    yield [word for word in shlex.split(words[1], comments=True) if not word.startswith(">")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_are_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)  # for -config configs/….yaml
    found = list(command_lines(page))
    assert found or page.name not in ("README.md", "README.zh-CN.md", "interop.md"), "command lines have another form"
    for words in found:
        if words and words[0] in cli.VERBS:
            if not {"-help", "--help", "-h"} & set(words):
                cli.read_command(words)
        else:
            assert words and words[0] in ("-help", "--help", "-h", "-version", "--version"), words
