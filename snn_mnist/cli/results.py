"""Results of a verb: the spread of repeated measurements, and all results as one JSON file or on standard output."""

import json
import statistics
from typing import Any

from snn_mnist.storage.atomic_files import write_file
from snn_mnist.storage.seeds import mean_std


def spread(values: list[float]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1; 0 for a single value), median and range of repeated measurements."""
    mean, std = mean_std(values)
    return {
        "mean": mean, "std": std or 0.0,
        "median": statistics.median(values), "low": min(values), "high": max(values), "values": values,
    }  # fmt: skip


def write_json(where: str, results: dict[str, Any]) -> None:
    """`where` is what -json names; - is standard output. The file is written whole or not at all."""
    text = json.dumps(results, indent=2) + "\n"
    if where == "-":
        print(text, end="")
        return
    write_file(where, text, "-json")
