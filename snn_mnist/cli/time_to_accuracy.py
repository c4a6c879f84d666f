"""`bench -accuracy`: the seconds from the prompt until a training run reaches an accuracy on the test images.

Each measurement is a whole process, started as from the prompt: its imports, reading the data, and a test of all test
images after each epoch count.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Container
from typing import IO

from snn_mnist.errors import SNNError
from snn_mnist.terminal import fit_terminal

LIMIT = 100  # epochs at most, those of the tutorial
_OURS = re.compile(r"^epoch .* test loss \S+ acc ([\d.]+)%")
_SPIKINGJELLY = re.compile(r"\btest_acc =\s*([\d.]+)")


def command(name: str, shared: list[str], ours: list[str]) -> list[str]:
    """The command line of a backend or of SpikingJelly's example; `shared` are flags that both have."""
    endless = ["-epochs", str(LIMIT + 1)]  # ended here, so that the example writes no arrays into this directory
    if name == "spikingjelly":
        return [sys.executable, "-m", "spikingjelly.activation_based.examples.lif_fc_mnist", *shared, *endless]
    return [sys.executable, "-m", "snn_mnist", "train", "-backend", name, *shared, *endless, *ours, "-no-figures"]


def in_turns(
    commands: dict[str, list[str]], wanted: float, repeats: int, optional: Container[str]
) -> dict[str, list[tuple[float, int]]]:
    """The (seconds, epochs) of every run of each program; an optional one that fails is left out, with its reason."""
    samples: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
    for repeat, name in itertools.product(range(repeats), commands):
        if name not in samples:
            continue
        try:
            samples[name].append(measure(commands[name], wanted, f"{name}, run {repeat + 1} of {repeats}"))
        except SNNError as error:
            if name not in optional:
                raise SNNError(f"{name} can't be measured: {error}") from error
            print(fit_terminal(f"without {name}: {error}", sys.stderr), file=sys.stderr)
            del samples[name]
    return samples


def measure(words: list[str], wanted: float, who: str) -> tuple[float, int]:
    """(seconds, epochs) until the program of this command line prints a test accuracy of at least `wanted`."""
    began, reached = time.perf_counter(), []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*words, "-out-dir", folder], stdout=subprocess.PIPE, stderr=errors, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        with process:
            try:
                assert process.stdout
                for line in process.stdout:
                    if (accuracy := accuracy_in(line)) is None:
                        continue
                    seconds = time.perf_counter() - began
                    reached.append(accuracy)
                    print(f"{who}: epoch {len(reached)}, {accuracy:.2%} after {seconds:.1f} s", file=sys.stderr)
                    if accuracy >= wanted:
                        return seconds, len(reached)
                    if len(reached) == LIMIT:
                        raise SNNError(f"{max(reached):.2%} is the highest of {LIMIT} epochs; lower -accuracy")
                process.wait()
            finally:
                process.kill()
        raise SNNError(f"it ended with exit code {process.returncode}: {_last_line(errors)}")


def accuracy_in(line: str) -> float | None:
    """The accuracy on the test images that a line of our train or of SpikingJelly's example tells."""
    if found := _OURS.search(line):
        return round(float(found[1]) / 100, 6)
    found = _SPIKINGJELLY.search(line)
    return float(found[1]) if found else None


def _last_line(errors: IO[str]) -> str:
    errors.seek(0)
    return (errors.read().strip().splitlines() or ["no message"])[-1]
