"""Verb `bench`: images per second of every backend and of other libraries, side by side in one run.

    python -m snn_mnist bench -T 10,100 -b 64,1024
    python -m snn_mnist bench -accuracy 0.925

The contestants are measured in turns, so that a slower machine slows all of them. The report gives the median and the
range; compile time is reported apart. On a GPU, times are taken with CUDA events. With -accuracy it is the seconds
from the prompt until a training run has reached it, of whole processes.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import sys
from collections.abc import Container
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from snn_mnist.cli.results import spread, write_json
from snn_mnist.cli.shared_options import json_option
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import DIGITS_INCLUDED, MAX_T, Config, Threads, backends
from snn_mnist.settings.fields import Options, choice, integer, like, number, option, optional, several
from snn_mnist.terminal import StatusLine, fit, fit_terminal, say

if TYPE_CHECKING:
    import torch

PEERS = {  # the loops of other libraries (cli/peers.py), and the package to install for each
    "spikingjelly-fused": "spikingjelly",  # with its fused multi-step neurons
    "spikingjelly": "spikingjelly",  # its example as shipped
    "snntorch": "snntorch",
    "norse": "norse",
}


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Threads, Options):
    """Settings of `bench`."""

    backend: tuple[str, ...] = option(
        ("auto",),
        several(choice(lambda: (*backends(), *PEERS))),
        "Machine",
        "which to measure",
        shown="all that are available",
    )
    T: tuple[int, ...] = option((100,), several(integer(1, MAX_T)), "Work", "time steps")
    b: tuple[int, ...] = option((64,), several(integer(1)), "Work", "batch sizes")
    repeats: int = option(5, integer(1, 10_000), "Work", "measurements of each; the median is reported")
    seconds: float = option(2.0, number(above=0), "Work", "length of one measurement")
    accuracy: float | None = option(
        None, optional(number(above=0, below=1)), "Work",
        "measure instead the seconds from the prompt until a training run reaches this accuracy on the test images "
        "(0.925); SpikingJelly's example takes tens of minutes on a CPU",
    )  # fmt: skip
    dataset: str = like(Config, "dataset", help="what to compute with")
    data_dir: str = like(Config, "data_dir")
    json: str | None = json_option()
    device: str = like(Config, "device")
    j: int | None = like(Config, "j")

    def notes(self) -> list[str]:
        reasons = {"seconds": "-accuracy measures whole runs"} if self.accuracy else {}
        if self.dataset == "digits":
            reasons["data_dir"] = DIGITS_INCLUDED
        return super().notes() + self.without_effect(reasons)


class Process:
    """A contestant in a process of its own."""

    def __init__(self, name: str) -> None:
        import multiprocessing

        from snn_mnist.cli.contestants import serve

        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name), daemon=name not in PEERS)
        self.process.start()
        theirs.close()

    def ask(self, order: str, value: Any) -> Any:
        try:
            self.connection.send((order, value))
            done, answer = self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise SNNError(f"the benchmark's process of {self.name} died; run it alone with -backend") from error
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
    from snn_mnist.data.datasets import load_dataset
    from snn_mnist.network.device import choose_device
    from snn_mnist.storage import environment

    device = choose_device(options.device)
    names = _names(options, device)
    images = len(load_dataset(options.dataset, options.data_dir).train)  # errors are reported here, not by a child
    for batch in options.b:
        Config(b=batch, dataset=options.dataset).check_sizes(images)
    out = sys.stderr if options.json == "-" else sys.stdout
    about = f"{environment.describe(device)}, {environment.threads(options.threads)}, {options.dataset}, Adam"
    print(fit(about), file=out)
    optional = names if "auto" in options.backend else []  # programs chosen by 'auto' are skipped if they fail
    work = _seconds_to_accuracy if options.accuracy else _images_per_second
    results = work(names, optional, options, device, out)
    if options.json:
        record = {"machine": environment.describe(device), "threads": options.threads, "dataset": options.dataset,
                  "command": " ".join(sys.argv[1:]), "seconds": options.seconds, "results": results}  # fmt: skip
        write_json(options.json, record)
    return 0


def _images_per_second(
    names: list[str], optional: Container[str], options: BenchOptions, device: torch.device, out: TextIO
) -> list[dict[str, Any]]:
    """Prints and returns a row for each T, batch size and contestant."""
    several = f"median of {options.repeats} measurements" if options.repeats > 1 else "one measurement"
    print(f"{several} of {options.seconds:g} s each", file=out, flush=True)
    say(f"starting {', '.join(names)}: importing PyTorch, compiling")
    processes = {name: Process(name) for name in names}
    results: list[dict[str, Any]] = []
    try:
        for steps, batch in itertools.product(options.T, options.b):
            rows = _measure(processes, optional, options, device, steps, batch)
            results += rows
            slowest = {what: min(row[what]["median"] for row in rows) for what in ("train", "test")}
            print(f"\n{f'T {steps}, batch {batch}':24}{_HEAD}", file=out)
            for row in rows:
                print(_lines(row, slowest), file=out, flush=True)
    finally:
        for process in processes.values():
            process.stop()
    for line in _told_apart(results):
        print(fit(line), file=out)
    return results


def _seconds_to_accuracy(
    names: list[str], optional: Container[str], options: BenchOptions, device: torch.device, out: TextIO
) -> list[dict[str, Any]]:
    """Prints and returns a row for each T, batch size and program; whole processes, in turns."""
    from snn_mnist.cli import time_to_accuracy

    assert options.accuracy
    runs = f"median of {options.repeats} runs [lowest, highest]" if options.repeats > 1 else "one run each"
    print(f"from the prompt to {options.accuracy:.1%} on the test images, tested after each epoch", file=out)
    print(f"{runs}\n", file=out)
    print(f"{'':18}{'T':>5}{'batch':>6}{'seconds':>28}{'epochs':>8}{'speed-up':>10}", file=out, flush=True)
    ours = ["-dataset", options.dataset, "-j", str(options.threads)]
    results: list[dict[str, Any]] = []
    for steps, batch in itertools.product(options.T, options.b):
        shared = ["-T", str(steps), "-b", str(batch), "-device", str(device), "-data-dir", options.data_dir]
        commands = {name: time_to_accuracy.command(name, shared, ours) for name in names}
        samples = time_to_accuracy.in_turns(commands, options.accuracy, options.repeats, optional)
        slowest = max((statistics.median(s for s, _ in each) for each in samples.values()), default=0.0)
        for name, each in samples.items():
            seconds, epochs = spread([s for s, _ in each]), statistics.median_high(e for _, e in each)
            results.append({"backend": name, "T": steps, "b": batch, "accuracy": options.accuracy,
                            "seconds": seconds, "epochs": epochs})  # fmt: skip
            print(f"{name:18}{steps:>5}{batch:>6}{_cell(seconds, 1):>28}{epochs:>8}"
                  f"{slowest / seconds['median']:>9.1f}x", file=out, flush=True)  # fmt: skip
    if not results:
        raise SNNError("no program reached it (see above); choose with -backend")
    return results


def _names(options: BenchOptions, device: torch.device) -> list[str]:
    """The contestants that -backend names, the slowest last; 'auto' stands for all that are available here."""
    if "auto" not in options.backend:
        for name in options.backend:
            reason = _why_not(name, device, options)
            if reason:
                raise UsageError(f"{name} can't be measured: {reason}")
        return list(options.backend)
    from snn_mnist.kernels.backends import BACKENDS
    from snn_mnist.network.device import choose_backend

    if options.accuracy:
        names = [choose_backend("auto", device)[0], "spikingjelly"]
    else:
        fused = [name for name, backend in BACKENDS.items() if backend.device == device.type]
        names = [*fused, "torch", *(name for name in PEERS if device.type == "cuda" or name != "spikingjelly-fused")]
    reasons = {name: _why_not(name, device, options) for name in names}
    for name, reason in reasons.items():
        if reason:
            print(fit_terminal(f"without {name}: {reason}", sys.stderr), file=sys.stderr)
    return [name for name in names if not reasons[name]]


def _why_not(name: str, device: torch.device, options: BenchOptions) -> str | None:
    from importlib import metadata

    from snn_mnist.network.device import why_unavailable

    if name not in PEERS:
        return why_unavailable(name, device)
    if name == "spikingjelly-fused" and device.type != "cuda":
        return "its fused neurons are for CUDA devices; measure spikingjelly"
    if options.accuracy and name != "spikingjelly":
        return "it has no program for this task to start from the prompt; measure spikingjelly"
    if options.dataset != "mnist":
        return "its loop is measured on mnist"
    try:
        metadata.version(PEERS[name])
    except metadata.PackageNotFoundError:
        return f"it is not installed (pip install {PEERS[name]})"
    return None


def _measure(
    processes: dict[str, Process], optional: Container[str], options: BenchOptions, device: torch.device, steps: int,
    batch: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each contestant; an optional one that can't be made is left out, with its reason."""
    settings = {
        "T": steps, "b": batch, "j": options.threads, "device": str(device), "dataset": options.dataset,
        "data_dir": options.data_dir, "epochs": 1,
    }  # fmt: skip
    made: dict[str, dict[str, Any]] = {}
    for name, process in list(processes.items()):
        try:
            made[name] = process.ask("make", settings)
        except SNNError as error:
            if name not in optional:
                raise
            print(fit_terminal(f"without {name}: {error}", sys.stderr), file=sys.stderr)
    if not made:
        raise SNNError(f"nothing can be measured at T {steps}, b {batch} (see above); choose with -backend")
    samples: dict[tuple[str, str], list[float]] = {}
    peaks: dict[str, int] = {}
    busy: dict[str, str] = {}
    line = StatusLine()
    for repeat in range(options.repeats + 1):
        for name in made:
            for what in ("train", "test"):
                turn = f"measurement {repeat} of {options.repeats}" if repeat else "warming up"
                line.show(f"T {steps}, batch {batch}, {turn}: {name}, {what}")
                seconds = options.seconds if repeat else min(0.3, options.seconds)  # the first is the warm-up
                answer = processes[name].ask(what, seconds)
                if repeat:
                    samples.setdefault((name, what), []).append(answer["images_per_s"])
                if what == "train":
                    peaks[name], busy[name] = answer["peak_bytes"], answer["busy"] or busy.get(name, "")
    line.clear()
    return [
        {
            "backend": name, "T": steps, "b": batch, "peak_bytes": peaks[name], "busy": busy[name], **made[name],
            **{what: spread(samples[name, what]) for what in ("train", "test")},
        }
        for name in made
    ]  # fmt: skip


def _told_apart(results: list[dict[str, Any]]) -> list[str]:
    """A line per contestant: what its name stands for, the time it took to compile before the measurements, and
    whether fewer threads were faster."""
    lines = {}
    for row in results:  # the last row of a contestant has the sums of its process
        work = (("compile_seconds", "compiled"), ("capture_seconds", "captured CUDA graphs"))
        before = " and ".join(f"{what} for {row[key]:.1f} s" for key, what in work if row[key] >= 0.05)
        parts = [row["about"], f"{before} before the measurements" if before else "", row["busy"]]
        lines[row["backend"]] = f"{row['backend']}: {', '.join(filter(None, parts))}" if any(parts) else ""
    return ["", *filter(None, lines.values())] if any(lines.values()) else []


def _cell(spread: dict[str, Any], digits: int = 0) -> str:
    """'median [low, high]'"""
    reach = f" [{spread['low']:,.{digits}f}, {spread['high']:,.{digits}f}]" if len(spread["values"]) > 1 else ""
    return f"{spread['median']:,.{digits}f}{reach}"


_HEAD = f"{'images/s':>11}{'lowest':>11}{'highest':>11}{'memory':>11}{'speed-up':>10}"


def _lines(row: dict[str, Any], slowest: dict[str, float]) -> str:
    """The lines of a contestant: training and testing."""
    lines = []
    for what, name, memory in (("train", row["backend"], f"{row['peak_bytes'] / 2**20:,.0f} MB"), ("test", "", "")):
        speed = row[what]
        reach = (f"{speed[end]:,.0f}" if len(speed["values"]) > 1 else "" for end in ("low", "high"))
        low, high = reach
        faster = f"{speed['median'] / slowest[what]:.1f}x"
        lines.append(f"{name:19}{what:5}{speed['median']:>11,.0f}{low:>11}{high:>11}{memory:>11}{faster:>10}")
    return "\n".join(lines)
