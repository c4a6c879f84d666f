"""Verb `bench`: images per second of every backend, side by side in one run.

    python -m snn_mnist bench -T 10,100 -b 64,1024

Measurements of the contestants take turns, so that a machine that slows down slows all of them. Reported are the
median and the range; compilation is done before and told apart.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import multiprocessing
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from snn_mnist import __version__
from snn_mnist.contestants import serve
from snn_mnist.data import load_dataset
from snn_mnist.errors import SNNError
from snn_mnist.kernels import backends
from snn_mnist.place import choose_device
from snn_mnist.results import write_json
from snn_mnist.verb_options import BenchOptions


class Process:
    """A contestant in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name), daemon=name != "spikingjelly")
        self.process.start()
        theirs.close()

    def ask(self, order: str, value: Any) -> Any:
        try:
            self.connection.send((order, value))
            done, answer = self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as fault:
            raise SNNError(f"the benchmark's process of {self.name} died; run it alone with -backend") from fault
        if not done:
            raise SNNError(f"{self.name} can't be measured ({answer}); choose others with -backend")
        return answer

    def stop(self) -> None:
        if self.process.is_alive():
            with contextlib.suppress(OSError):
                self.connection.send(("stop", None))
            self.process.join(5)
        if self.process.is_alive():
            self.process.kill()


def run(options: BenchOptions) -> int:
    device = choose_device(options.device)
    names = _names(options, device)
    load_dataset(options.dataset, options.data_dir)  # a fault of the data is told here, not by a child
    out = sys.stderr if options.json == "-" else sys.stdout
    print(f"{_machine(device)}, {options.threads} threads, {options.dataset}, Adam", file=out)
    print(
        f"median of {options.repeats} measurements of {options.seconds:g} s each [lowest, highest]\n",
        file=out,
    )
    print(_HEAD, file=out, flush=True)
    processes = {name: Process(name) for name in names}
    results: list[dict[str, Any]] = []
    try:
        for steps, batch in itertools.product(options.T, options.b):
            rows = _measure(processes, options, device, steps, batch)
            results += rows
            for row in rows:
                print(_line(row, min(r["train"]["median"] for r in rows)), file=out, flush=True)
    finally:
        for process in processes.values():
            process.stop()
    compiled = max(row["compile_seconds"] for row in results)
    if compiled:
        print(f"\ncompilation, before the measurements: {compiled:.1f} s", file=out)
    if options.json:
        record = {"machine": _machine(device), "threads": options.threads, "dataset": options.dataset,
                  "command": " ".join(sys.argv[1:]), "seconds": options.seconds, "results": results}  # fmt: skip
        write_json(options.json, record)
    return 0


def _names(options: BenchOptions, device: torch.device) -> list[str]:
    """The contestants asked for, the slowest last; 'auto' is all that run here."""
    if "auto" not in options.backend:
        for name in options.backend:
            reason = _why_not(name, device, options)
            if reason:
                raise SNNError(f"{name} can't be measured: {reason}")
        return list(options.backend)
    known = ("cupy", "numba", "torch", "spikingjelly")
    reasons = {name: _why_not(name, device, options) for name in known}
    for name, reason in reasons.items():
        if reason:
            print(f"without {name}: {reason}", file=sys.stderr)
    return [name for name in known if not reasons[name]]


def _why_not(name: str, device: torch.device, options: BenchOptions) -> str | None:
    if name != "spikingjelly":
        return backends.why_unavailable(name, device)
    if options.dataset != "mnist":
        return "its loop is measured on mnist"
    try:
        importlib.metadata.version("spikingjelly")
    except importlib.metadata.PackageNotFoundError:
        return "it is not installed (pip install spikingjelly)"
    return None


def _measure(
    processes: dict[str, Process], options: BenchOptions, device: torch.device, steps: int, batch: int
) -> list[dict[str, Any]]:
    settings = {
        "T": steps, "b": batch, "j": options.threads, "device": str(device), "dataset": options.dataset,
        "data_dir": options.data_dir, "epochs": 1,
    }  # fmt: skip
    compiled = {name: process.ask("make", settings) for name, process in processes.items()}
    samples: dict[tuple[str, str], list[float]] = {}
    peaks: dict[str, int] = {}
    for repeat in range(options.repeats + 1):
        for name, process in processes.items():
            for what in ("train", "test"):
                seconds = options.seconds if repeat else min(0.3, options.seconds)  # the first is the warm-up
                answer = process.ask(what, seconds)
                if repeat:
                    samples.setdefault((name, what), []).append(answer["images_per_s"])
                if what == "train":
                    peaks[name] = answer["peak_bytes"]
    return [
        {
            "backend": name, "T": steps, "b": batch, "peak_bytes": peaks[name], "compile_seconds": compiled[name],
            **{what: _spread(samples[name, what]) for what in ("train", "test")},
        }
        for name in processes
    ]  # fmt: skip


def _spread(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "values": values}


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = platform.processor() or platform.machine()
        try:
            cpu = Path("/proc/cpuinfo").read_text()
            name = next(line.split(":")[1].strip() for line in cpu.splitlines() if line.startswith("model name"))
        except (OSError, StopIteration):
            pass
    return f"{name}, snn_mnist {__version__}, torch {torch.__version__}"


_HEAD = (
    f"{'':13}{'T':>5}{'batch':>6}{'training images/s':>30}{'us/image':>10}{'testing images/s':>30}"
    f"{'peak memory':>13}{'speed-up':>10}"
)


def _line(row: dict[str, Any], slowest: float) -> str:
    def speed(spread: dict[str, Any]) -> str:
        return f"{spread['median']:,.0f} [{spread['low']:,.0f}, {spread['high']:,.0f}]"

    train = row["train"]
    return (
        f"{row['backend']:13}{row['T']:>5}{row['b']:>6}{speed(train):>30}{1e6 / train['median']:>10.1f}"
        f"{speed(row['test']):>30}{row['peak_bytes'] / 2**20:>10,.0f} MB{train['median'] / slowest:>9.1f}x"
    )
