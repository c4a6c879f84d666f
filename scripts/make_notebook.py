"""Makes docs/tutorial.ipynb of docs/tutorial.md, without outputs. Needs jupytext, which the extra `dev` brings.

    python scripts/make_notebook.py            # writes the notebook
    python scripts/make_notebook.py --check    # fails where it is not that of the page

A cell shows the figures that it saves, in place of the page's pictures of them.
"""

import json
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jupytext

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL, NOTEBOOK = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutorial.ipynb"
PICTURE = re.compile(r"!\[[^\]]*\]\(images/([^)]+)\)")
SAVED = re.compile(r'\.savefig\(f?"([^"]+)"\)')


def cells(page: str) -> list[dict[str, Any]]:
    """The page as cells of Markdown and of code; what a block must print stands below it as text."""
    found: list[dict[str, Any]] = jupytext.reads(page, fmt="md")["cells"]
    saved: dict[str, None] = {}
    for cell in found:
        source = cell["source"]
        if source.startswith("%%bash"):  # commands that take longer than a cell should
            cell["cell_type"], cell["source"] = "markdown", f"```bash{source.removeprefix('%%bash')}\n```"
        elif cell["cell_type"] == "code":
            names = {name.replace("{step_mode}", mode): None for name in SAVED.findall(source) for mode in "sm"}
            saved |= names
            cell["source"] = "\n".join([source, *(f'display(Image("{name}"))' for name in names)])
        else:
            cell["source"] = without_pictures(source, saved)
    found[1:1] = jupytext.reads("```python\nfrom IPython.display import Image, display\n```\n", fmt="md")["cells"]
    return [cell for cell in found if cell["source"]]


def without_pictures(text: str, saved: Collection[str]) -> str:
    """Markdown without the pictures of these files; a table of pictures alone goes with them."""
    lines, kept = text.split("\n"), []
    for line in lines:
        if (names := PICTURE.findall(line)) and all(name in saved for name in names):
            if line.startswith("|"):
                del kept[-2:]  # the head of the table
            continue
        kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n")


def notebook(page: str) -> str:
    """The notebook as the text of its file; the same page always gives the same text."""
    made = [
        {"cell_type": cell["cell_type"], "id": f"cell-{number}", "metadata": {}}
        | ({"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else {})
        | {"source": cell["source"].splitlines(keepends=True)}
        for number, cell in enumerate(cells(page))
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    content = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    text = notebook(TUTORIAL.read_text(encoding="utf-8"))
    if "--check" not in sys.argv:
        NOTEBOOK.write_text(text, encoding="utf-8")
        print(f"{NOTEBOOK.relative_to(ROOT)}  {len(text) / 1000:.0f} kB")
    elif not NOTEBOOK.exists() or NOTEBOOK.read_text(encoding="utf-8") != text:
        sys.exit("docs/tutorial.ipynb is not that of docs/tutorial.md; run: python scripts/make_notebook.py")


if __name__ == "__main__":
    main()
