"""Speed and accuracy on a GPU, measured in one sitting: a Markdown report, made in five to ten minutes.

    python scripts/gpu_marks.py OUT_DIR [-device cuda] [-data-dir DIR] [-flags FLAGS_OF_TRAIN …]

The 100 epochs of configs/tutorial.yaml with and without -amp, and on the CPU beside; what a training step is made of
and how far that is from its floor; `bench`. Writes OUT_DIR/gpu_marks.md and the
runs. With -device cpu it measures that, for a look at the report.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from snn_mnist import __version__
from snn_mnist.cli.parser import read_command
from snn_mnist.errors import SNNError
from snn_mnist.network.device import choose_device, choose_runtime
from snn_mnist.network.fused_steps import FusedSteps
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.settings.config import Config
from snn_mnist.storage import environment
from snn_mnist.storage.checkpoint import WEIGHT, load
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.training.learner import Learner, TrainingData
from snn_mnist.training.resume import restore

ROOT = Path(__file__).resolve().parents[1]
LAUNCHES = 200  # in a row, of a kernel that is timed alone


@dataclass(frozen=True)
class Settings:
    out: Path
    flags: list[str]  # of every run
    config: Config  # what they mean
    repeats: int  # encodings of an evaluation, measurements of bench
    seconds: float  # of a measurement


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("-device", default="cuda")
    parser.add_argument("-data-dir", default=os.environ.get("SNN_MNIST_DATA") or "./data")
    parser.add_argument("-seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("-repeats", type=int, default=10, help="encodings of an evaluation, measurements of bench")
    parser.add_argument("-flags", nargs=argparse.REMAINDER, default=[], help="more flags of train, last of all")
    args = parser.parse_args()
    flags = ["-config", str(ROOT / "configs" / "tutorial.yaml"), "-data-dir", args.data_dir, *args.flags]
    try:
        _, config = read_command(["train", *flags, "-device", args.device])
        device = choose_device(config.device)
        args.out.mkdir(parents=True, exist_ok=True)
        report(Settings(args.out, flags, config, args.repeats, args.seconds), device, shlex.join(args.flags))
    except (SNNError, OSError) as error:
        print(f"gpu_marks: error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:  # it has said why
        return error.returncode
    return 0


def report(settings: Settings, device: torch.device, flags: str) -> None:
    cuda, lines = device.type == "cuda", [f"# Marks of snn_mnist {__version__}", ""]

    def add(*more: str) -> None:
        lines.extend(more)
        print(*more, sep="\n", flush=True)
        (settings.out / "gpu_marks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

    threads = environment.threads(settings.config.threads)
    add(f"{environment.describe(device)}; {environment.machine()}, {threads}", "")
    add(f"## configs/tutorial.yaml{f' with {flags}' if flags else ''}", "")
    columns = ("run", "training and tests", "whole process", "training images/s, median [range] of epochs",
               "last epoch", f"mean ± std of {settings.repeats} encodings", "numbers")  # fmt: skip
    add(row(*columns), "|---" * len(columns) + "|")
    name = settings.config.device
    if cuda:
        add(trained(settings, name, note=", first: may compile"))
    add(trained(settings, name))
    add(trained(settings, name, "-amp"))
    if cuda:
        add(trained(settings, "cpu"))
    for amp in (False, True):
        add("", f"## A training step{' with -amp' if amp else ''}", "", *step_times(settings, amp))
    add("", "## bench", "", "```")
    data = ["-data-dir", settings.config.data_dir, "-dataset", settings.config.dataset]
    work = ["-T", str(settings.config.T), "-b", str(settings.config.b), "-repeats", str(settings.repeats)]
    add(program("bench", "-device", name, *data, *work).rstrip(), "```")


def program(*flags: str) -> str:
    """What `python -m snn_mnist …` prints."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "snn_mnist", *flags]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8", env=environment).stdout


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


# ---------------------------------------------------------------------------- whole runs


def trained(settings: Settings, device: str, *flags: str, note: str = "") -> str:
    """A row of the report: a run from the shell's prompt to its end, and the accuracy of what it learned."""
    parent = settings.out / f"{device.replace(':', '')}{''.join(flags)}"
    started = time.perf_counter()
    text = program("train", *settings.flags, "-device", device, "-out-dir", str(parent), *flags)
    whole = time.perf_counter() - started
    folder = max(parent.iterdir(), key=lambda path: path.stat().st_mtime)
    epochs = read_metrics(folder / "metrics.csv")
    finite = bool(load(folder)["net"][WEIGHT].isfinite().all()) and all(
        each["train_loss"] < float("inf") for each in epochs
    )
    skipped = sum("steps skipped" in line for line in text.splitlines())
    test = ["-repeats", str(settings.repeats), "-device", device, "-data-dir", settings.config.data_dir]
    accuracy = json.loads(program("eval", "-resume", str(folder), *test, "-json", "-"))["accuracy"]
    speeds = [each["train_images_per_s"] for each in epochs]
    return row(
        f"{' '.join([device, *flags])}{note}",
        f"{sum(each['seconds'] for each in epochs):.2f} s",
        f"{whole:.1f} s",
        f"{statistics.median(speeds):,.0f} [{min(speeds):,.0f}, {max(speeds):,.0f}]",
        f"{epochs[-1]['test_acc']:.2%}, highest {epochs[-1]['max_test_acc']:.2%}",
        f"{accuracy['mean']:.2%} ± {100 * accuracy['std']:.2f} %",
        f"{'all finite' if finite else 'NOT FINITE'}; {skipped} epochs with skipped steps",
    )


# ---------------------------------------------------------------------------- a training step


def step_times(settings: Settings, amp: bool) -> list[str]:
    """What a training step of the fused backend takes, its parts alone, and the floor."""
    config = replace(settings.config, amp=amp)
    runtime = choose_runtime(config.device, config.backend, config.threads)
    learner = Learner(config, runtime, TrainingData.load(config, runtime.device))
    restore({}, learner)
    device, steps, count, seconds = runtime.device, learner.training, learner.data.steps, settings.seconds

    def epoch() -> None:
        learner.begin_epoch(0)
        learner.run(0, count)

    whole = microseconds(device, epoch, count, seconds)
    lines = [
        f"**{whole:.1f} µs** for {config.b} images at T = {config.T} ({runtime.backend}), median of epochs of {count} "
        f"steps: {1e-3 * whole * count:.1f} ms an epoch.",
        "",
    ]
    if not isinstance(steps, FusedSteps):  # on the CPU the parts of a step lie in one compiled call
        return lines
    training, key = steps.training, SpikeKey(0, Stream.TRAIN, 0)
    index, rates = steps.index[: training.batch], steps.rates[: training.batch]

    def learn() -> None:
        steps.kernels.learn(
            steps.weight, steps.active, index, training.T, key, steps.spec, steps.precision, rates, steps.eligibility
        )

    def contract() -> None:
        steps.kernels.weight_gradient(
            steps.active, index, rates, steps.eligibility, steps.spec, training.T, steps.gradient
        )

    with torch.no_grad():
        learning, contracting = (
            microseconds(device, in_a_row(work, device), LAUNCHES, seconds) for work in (learn, contract)
        )
    lines += [
        f"Its kernels, {LAUNCHES} times in a row each:",
        "",
        "| part | µs |",
        "|---|---|",
        f"| encode to eligibility (`fused`) | {learning:.1f} |",
        f"| weight gradient (`contract`) | {contracting:.1f} |",
        f"| the rest: loss, scaling, optimiser, gaps between launches | {whole - learning - contracting:.1f} |",
        "",
    ]
    return [*lines, *floor(learner, whole)]


def microseconds(device: torch.device, work: Callable[[], object], count: int, seconds: float) -> float:
    """Of one of the `count` things that work() does, a median; the first two rounds warm up and capture."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - began < seconds and len(times) < 1000):
        times.append(1e6 * timed(device, work) / count)
    return statistics.median(times[2:])


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds that work() takes, by CUDA events on a GPU."""
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    work()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000


def in_a_row(launch: Callable[[], object], device: torch.device, count: int = LAUNCHES) -> Callable[[], object]:
    """`count` launches, on a GPU from a CUDA graph: the host must not be what is measured."""
    if device.type != "cuda":
        return lambda: [launch() for _ in range(count)]
    launch()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
        for _ in range(count):
            launch()
    return graph.replay


def floor(learner: Learner, step: float) -> list[str]:
    """The time below which no such epoch can go, and what the difference is made of."""
    pixels, device = learner.data.dataset.train.images.numel(), learner.rates.device
    source = torch.empty(max(pixels, 1 << 29), dtype=torch.uint8, device=device)  # more than any cache holds
    target = torch.empty_like(source)
    copied = microseconds(device, in_a_row(lambda: target.copy_(source), device, 10), 10, 0.5)
    read = copied / 2 * pixels / source.numel()  # a copy reads and writes
    arithmetic = pixels / 784 * learner.config.T / 6e6  # ms, 1 for 60,000 images at T = 100
    count = learner.data.steps
    low, high = (1e-3 * count * micro for micro in (6.4, 16))
    epoch = 1e-3 * step * count
    return [
        f"Floor of an epoch: {pixels / 1e6:.0f} MB of pixels are read in {read:.0f} µs (measured), the arithmetic "
        f"takes about {arithmetic:.1f} ms, and {count} steps that wait for each other have a latency of {low:.1f} "
        f"to {high:.1f} ms (counted). An epoch takes {epoch:.1f} ms, {epoch / high:.1f} to {epoch / low:.1f} times "
        "that; the table above says which kernels the difference lies in."
    ]


if __name__ == "__main__":
    sys.exit(main())
