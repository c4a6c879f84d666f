"""What the README says of a GPU, measured in one sitting: a Markdown report, five to ten minutes long.

    python scripts/gpu_marks.py OUT_DIR [-device cuda] [-data-dir DIR]

The 100 epochs of configs/tutorial.yaml with and without -amp, and on the CPU beside; what a training step is made of
and how far that is from its floor; `bench` with SpikingJelly where it is installed. Writes OUT_DIR/gpu_marks.md and the
runs. With -device cpu it measures that, for a look at the report.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from snn_mnist import __version__, machine
from snn_mnist.checkpoint import WEIGHT, load
from snn_mnist.config import Config
from snn_mnist.contestants import Stopwatch
from snn_mnist.core.poisson import Draw, Stream
from snn_mnist.interrupt import Interruption
from snn_mnist.kernels.fused_steps import FusedSteps
from snn_mnist.report import read_metrics
from snn_mnist.trainer import Run

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Settings:
    out: Path
    device: str
    common: list[str]  # flags of every run: data, and what a short look changes
    repeats: int  # encodings of an evaluation
    seconds: float  # of a measurement


def setting(settings: Settings, flag: str, default: str) -> str:
    """What the runs are given for this flag."""
    given = dict(zip(settings.common, settings.common[1:], strict=False))
    return given.get(flag, default)


def program(*flags: str) -> str:
    """What `python -m snn_mnist …` prints."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "snn_mnist", *flags]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8", env=environment).stdout


# ---------------------------------------------------------------------------- whole runs


def trained(settings: Settings, device: str, *flags: str, note: str = "") -> str:
    """A row of the report: a run of the tutorial's settings from the shell's prompt to its end, and its accuracy."""
    parent = settings.out / f"{device.replace(':', '')}{''.join(flags)}"
    started = time.perf_counter()
    config = ["-config", str(ROOT / "configs" / "tutorial.yaml")]
    text = program("train", *config, "-device", device, "-out-dir", str(parent), *settings.common, *flags)
    whole = time.perf_counter() - started
    folder = max(parent.iterdir(), key=lambda path: path.stat().st_mtime)
    epochs = read_metrics(folder / "metrics.csv")
    weights_are_finite = bool(load(folder)["net"][WEIGHT].isfinite().all())
    skipped = sum("steps skipped" in line for line in text.splitlines())
    test = ["eval", "-resume", str(folder), "-repeats", str(settings.repeats), "-device", device, "-json", "-"]
    report = json.loads(program(*test, "-data-dir", setting(settings, "-data-dir", "")))
    speeds = [each["train_images_per_s"] for each in epochs]
    finite = weights_are_finite and all(each["train_loss"] < float("inf") for each in epochs)
    cells = [
        f"{' '.join([device, *flags])}{note}",
        f"{sum(each['seconds'] for each in epochs):.1f} s",
        f"{whole:.1f} s",
        f"{statistics.median(speeds):,.0f} [{min(speeds):,.0f}, {max(speeds):,.0f}]",
        f"{epochs[-1]['test_acc']:.2%}, highest {epochs[-1]['max_test_acc']:.2%}",
        f"{report['accuracy']['mean']:.2%} ± {100 * report['accuracy']['std']:.2f} %",
        f"{'all finite' if finite else 'NOT FINITE'}; {skipped} epochs with skipped steps",
    ]
    return row(*cells)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


# ---------------------------------------------------------------------------- a training step


def step_times(settings: Settings) -> list[str]:
    """What a training step of the fused backend takes, and its parts, alone and one after another."""
    given = Config.from_yaml(ROOT / "configs" / "tutorial.yaml").to_mapping()
    given |= {"device": settings.device, "dataset": setting(settings, "-dataset", "mnist")}
    run = Run(Config(**given | {"data_dir": setting(settings, "-data-dir", "")}), Interruption())
    steps = run.training
    if not isinstance(steps, FusedSteps):
        return [f"The fused backend can't be used here: {run.place.reason}"]
    order = run.learned[torch.randperm(len(run.learned)).to(run.learned.device)]

    def epoch(number: int) -> None:
        steps.begin(Draw(0, Stream.TRAIN, number), order, *run._schedules())
        steps.run(0, run.steps)

    def learn() -> None:
        steps.kernels.learn(
            run.net.weight, steps.live, steps.order[: steps.batch], steps.T, Draw(0, Stream.TRAIN, 0), steps.spec,
            steps.precision, steps.rates[: steps.batch], steps.eligibility,
        )  # fmt: skip

    def contract() -> None:
        upstream = steps.rates[: steps.batch]
        index = steps.order[: steps.batch]
        steps.kernels.weight_gradient(
            steps.live, index, upstream, steps.eligibility, steps.spec, steps.T, steps.gradient
        )

    numbers = iter(range(10**9))
    whole = microseconds(run, lambda: epoch(next(numbers)), run.steps, settings.seconds)
    with torch.no_grad():
        parts = {
            "encode to eligibility (`fused`)": microseconds(run, many(learn, run), 200, settings.seconds),
            "weight gradient (`contract`)": microseconds(run, many(contract, run), 200, settings.seconds),
        }
    lines = [
        f"A training step of {steps.batch} images at T = {steps.T}, median of several epochs of {run.steps} steps: "
        f"**{whole:.1f} µs**, {1e-3 * whole * run.steps:.1f} ms an epoch. Its kernels alone, one launch after another:",
        "",
        "| part | µs |",
        "|---|---|",
        *(f"| {name} | {time:.1f} |" for name, time in parts.items()),
        f"| loss, scaling, optimiser and gaps | {whole - sum(parts.values()):.1f} |",
    ]
    return [*lines, "", floor(run, whole)] if run.place.device.type == "cuda" else lines


def microseconds(run: Run, work: Callable[[], None], count: int, seconds: float) -> float:
    """Of one of the `count` things that work() does; the first two rounds warm up and capture."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - began < seconds and len(times) < 1000):
        watch = Stopwatch(run.place.device)
        with watch:
            work()
        times.append(1e6 * watch.seconds / count)
    return statistics.median(times[2:])


def many(launch: Callable[[], None], run: Run, count: int = 200) -> Callable[[], None]:
    """`count` launches, from a CUDA graph on a GPU: the host must not be what is measured."""
    if run.place.device.type != "cuda":
        return lambda: [launch() for _ in range(count)] and None
    launch()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            launch()
    return graph.replay


def floor(run: Run, step: float) -> str:
    """The time below which no such epoch can go: its pixels through memory, and the dependent steps of a neuron."""
    images = run.data.train.images
    copied = images.flatten().clone()
    read = microseconds(run, lambda: copied.copy_(images.flatten()), 1, 0.2) / 2  # a copy reads and writes
    return (
        f"Floor: the {images.numel() / 1e6:.0f} MB of pixels are read in {read:.0f} µs an epoch; the rest is the "
        f"latency of {run.steps} dependent steps, 6 to 15 ms. An epoch takes {1e-3 * step * run.steps:.1f} ms."
    )


# ---------------------------------------------------------------------------- the report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("-device", default="cuda")
    parser.add_argument("-data-dir", default=os.environ.get("SNN_MNIST_DATA") or "./data")
    parser.add_argument("-seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("-repeats", type=int, default=10, help="encodings of an evaluation")
    parser.add_argument("-flags", nargs=argparse.REMAINDER, default=[], help="more flags of train, last of all")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    common = ["-data-dir", args.data_dir, *args.flags]
    settings = Settings(args.out, args.device, common, args.repeats, args.seconds)
    cuda = args.device.startswith("cuda")
    name = machine.gpu() if cuda else machine.processor()
    lines = [f"# Marks of snn_mnist {__version__}", "", f"{name}, torch {torch.__version__}", ""]

    def add(*more: str) -> None:
        lines.extend(more)
        print(*more, sep="\n", flush=True)
        (args.out / "gpu_marks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

    add("## configs/tutorial.yaml", "")
    columns = ("run", "training and tests", "whole process", "training images/s, median [range] of epochs",
               "last epoch", f"mean ± std of {args.repeats} encodings", "numbers")  # fmt: skip
    add(row(*columns), "|---" * len(columns) + "|")
    if cuda:
        add(trained(settings, args.device, note=" (compiles)"))
    add(trained(settings, args.device), trained(settings, args.device, "-amp"))
    if cuda:
        add(trained(settings, "cpu"))
    add("", "## A training step", "", *step_times(settings))
    add("", "## bench", "")
    data = ["-data-dir", args.data_dir, "-dataset", setting(settings, "-dataset", "mnist")]
    add("```", program("bench", "-device", args.device, *data, "-seconds", f"{args.seconds:g}").rstrip(), "```")


if __name__ == "__main__":
    main()
