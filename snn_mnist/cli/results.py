"""The option -json of a verb: all its results as one file, or on standard output."""

import json
from typing import Any

from snn_mnist.runs.atomic_files import write_file


def write_json(where: str, results: dict[str, Any]) -> None:
    """`where` is what -json names; - is standard output. The file is written whole or not at all."""
    text = json.dumps(results, indent=2) + "\n"
    if where == "-":
        print(text, end="")
        return
    write_file(where, text, "-json")
