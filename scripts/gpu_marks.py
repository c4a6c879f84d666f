"""Speed and accuracy on a GPU, measured in one session: a Markdown report, made in five to ten minutes.

    python scripts/gpu_marks.py OUT_DIR [-device cuda] [flags of train]

The 100 epochs of configs/tutorial.yaml with and without -amp, and on the CPU beside; the kernels of a training step;
`bench`. Writes OUT_DIR/gpu_marks.md and the runs. With -device cpu it measures that, for a look at the report.
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
from pathlib import Path

import torch

from snn_mnist import __version__
from snn_mnist.cli.parser import read_command
from snn_mnist.network.engine import choose_runtime
from snn_mnist.network.fused_steps import FusedSteps
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.settings.config import Config
from snn_mnist.storage import environment
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.training.learner import Learner, TrainingData

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ["-config", str(ROOT / "configs" / "tutorial.yaml")]
LAUNCHES = 200  # in a row, of a kernel that is timed alone
SECONDS = 3.0  # of a measurement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("-device", default="cuda")
    args, flags = parser.parse_known_args()
    device, cuda = torch.device(args.device), args.device.startswith("cuda")
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "gpu_marks.md").open("w", encoding="utf-8") as report:

        def add(*lines: str) -> None:
            for stream in (sys.stdout, report):
                print(*lines, sep="\n", file=stream, flush=True)

        add(f"# Marks of snn_mnist {__version__}", "", f"{environment.describe(device)}; {environment.machine()}", "")
        add(row("run", "training and tests", "whole process", "training images/s, median [range] of epochs",
                "last epoch", "mean ± std of 10 encodings"), row(*["---"] * 6))  # fmt: skip
        for place, amp in [*[(args.device, [])] * (2 if cuda else 1), (args.device, ["-amp"]), *[("cpu", [])] * cuda]:
            add(trained(args.out, place, [*flags, *amp]))  # the first run on a GPU may compile
        for amp in ([], ["-amp"]):
            _, config = read_command(["train", *RECIPE, "-device", args.device, *flags, *amp])
            assert isinstance(config, Config)
            add("", f"## A training step {' '.join(amp)}", "", *step_times(config))
        data = ["-dataset", config.dataset, "-data-dir", config.data_dir]
        add("", "## bench", "", "```", program("bench", "-device", args.device, "-T", str(config.T), *data), "```")


def program(*flags: str) -> str:
    """Return what `python -m snn_mnist …` prints."""
    variables = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "snn_mnist", *flags]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8", env=variables).stdout


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def trained(out: Path, device: str, flags: list[str]) -> str:
    """Return a row of the report: a run from the shell's prompt to its end, and the accuracy of what it learned."""
    started = time.perf_counter()
    program("train", *RECIPE, "-device", device, "-out-dir", str(out), *flags)
    whole = time.perf_counter() - started
    folder = max((path for path in out.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime_ns)
    epochs = read_metrics(folder / "metrics.csv")
    tested = program("eval", "-resume", str(folder), "-repeats", "10", "-device", device, "-json", "-")
    accuracy = json.loads(tested)["accuracy"]
    speeds = [each["train_images_per_s"] for each in epochs]
    return row(
        " ".join([device, *flags]),
        f"{sum(each['seconds'] for each in epochs):.2f} s",
        f"{whole:.1f} s",
        f"{statistics.median(speeds):,.0f} [{min(speeds):,.0f}, {max(speeds):,.0f}]",
        f"{epochs[-1]['test_acc']:.2%}, highest {epochs[-1]['max_test_acc']:.2%}",
        f"{accuracy['mean']:.2%} ± {100 * accuracy['std']:.2f} %",
    )


def step_times(config: Config) -> list[str]:
    """Return what a training step takes, and on a GPU its two kernels alone."""
    runtime = choose_runtime(config.device, config.backend, config.j)
    learner = Learner(config, runtime, TrainingData.load(config, runtime.device))
    learner.prepare()
    device, steps, count = runtime.device, learner.training, learner.data.steps

    def epoch() -> None:
        learner.begin_epoch(0)
        learner.training.run(0, count)

    whole = microseconds(device, epoch, count)
    lines = [f"**{whole:.1f} µs** for {config.b} images at T = {config.T} ({runtime.backend}), a median of epochs"]
    if not isinstance(steps, FusedSteps):  # on the CPU the parts of a step lie in one compiled call
        return lines
    index, rates, key = steps.index[: config.b], steps.rates[: config.b], SpikeKey(0, Stream.TRAIN, 0)
    with torch.no_grad():
        learn = microseconds(device, in_a_row(lambda: steps.learn(index, rates, key), device), LAUNCHES)
        add = microseconds(device, in_a_row(lambda: steps.contract(index, rates), device), LAUNCHES)
    parts = {"`fused`": learn, "`contract`": add, "loss, scaling, optimiser, gaps": whole - learn - add}
    return [*lines, "", row("part", "µs"), row("---", "---"), *(row(k, f"{v:.1f}") for k, v in parts.items())]


def microseconds(device: torch.device, work: Callable[[], object], count: int) -> float:
    """Return the median time of one of the `count` things that work() does; two rounds warm up and capture."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - began < SECONDS and len(times) < 1000):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1e6 * (time.perf_counter() - started) / count)
    return statistics.median(times[2:])


def in_a_row(launch: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Return the replay of a CUDA graph of LAUNCHES launches: the host must not be what is measured."""
    launch()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
        for _ in range(LAUNCHES):
            launch()
    return graph.replay


if __name__ == "__main__":
    main()
