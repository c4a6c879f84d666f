"""Verb `bench`: images per second of every backend, side by side.

    python -m snn_mnist bench -T 10,100 -b 64,1024

The backends take turns, so that a machine that slows down slows all of them. Compilation is reported apart.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from snn_mnist.cli.shared import json_option, publish, spread
from snn_mnist.settings.config import BACKENDS, MAX_T, Config, train_option
from snn_mnist.settings.options import Options, option
from snn_mnist.terminal import wrapped

if TYPE_CHECKING:
    from snn_mnist.data.datasets import Dataset

SECONDS, FULL_SECONDS = 0.5, 2.0  # length of one measurement, without and with -full
WHAT = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    """Settings of `bench`."""

    backend: tuple[str, ...] = option(
        ("auto",), "Machine", "which to measure", choices=BACKENDS, shown="all that are available"
    )
    T: tuple[int, ...] = option((100,), "Work", "time steps", low=1, high=MAX_T)
    b: tuple[int, ...] = option((64,), "Work", "batch sizes", low=1)
    votes: int = train_option("votes")
    repeats: int = option(5, "Work", "measurements of each; the median is reported", low=1, high=10_000)
    full: bool = option(False, "Work", f"measure for {FULL_SECONDS:g} s each time instead of {SECONDS:g} s")
    dataset: str = train_option("dataset", help="what to compute with")
    data_dir: str = train_option("data_dir")
    json: str | None = json_option()
    device: str = train_option("device")
    j: int = train_option("j")


def run(options: BenchOptions) -> int:
    from snn_mnist.data.datasets import load_dataset
    from snn_mnist.kernels import BACKENDS, compile_seconds
    from snn_mnist.network.engine import choose_device, why_refused
    from snn_mnist.storage import environment
    from snn_mnist.training.console import SPARE, others_seconds

    device = choose_device(options.device)
    available = [name for name in BACKENDS if not why_refused(name, device)]
    names = available if "auto" in options.backend else options.backend
    dataset = load_dataset(options.dataset, options.data_dir)
    for batch in options.b:
        Config(b=batch, dataset=options.dataset).check_sizes(len(dataset.train))
    machine, seconds = environment.describe(device), FULL_SECONDS if options.full else SECONDS
    began, others = time.perf_counter(), others_seconds()
    lines = [wrapped(f"{machine}, {environment.threads(options.j)}, {options.dataset}, Adam")]
    lines.append(f"median [lowest, highest] of {options.repeats} measurements of {seconds:g} s each")
    results: list[dict[str, Any]] = []
    for steps, batch in itertools.product(options.T, options.b):
        config = Config(T=steps, b=batch, votes=options.votes, j=options.j, device=str(device), dataset=options.dataset)
        rows = measure({name: Work(replace(config, backend=name), dataset) for name in names}, options.repeats, seconds)
        results += [{"backend": name, "T": steps, "b": batch, **speeds} for name, speeds in rows.items()]
        title = f"T {steps}, batch {batch}"
        lines += ["", f"{title:20}{'images/s':>11}{'lowest':>12}{'highest':>12}{'relative':>10}"]
        for (name, speeds), what in itertools.product(rows.items(), WHAT):
            speed, slowest = speeds[what], min(each[what]["median"] for each in rows.values())
            cells = "".join(f"{speed[key]:>12,.0f}" for key in ("median", "low", "high"))
            lines.append(f"{name:12}{what:7}{cells}{speed['median'] / slowest:>9.1f}x")
    if compiled := sum(compile_seconds.values()):
        lines += ["", f"compiled for {compiled:.1f} s before the measurements"]
    if (others_seconds() - others) / (time.perf_counter() - began) > 1 - SPARE:  # of a core; `train` then uses fewer
        lines += ["other programs are busy: measure again when they have ended"]
    about = {"machine": machine, "threads": options.j, "dataset": options.dataset, "seconds": seconds}
    publish(options.json, about | {"compile_seconds": compiled, "results": results}, "\n".join(lines))
    return 0


def measure(works: dict[str, Work], repeats: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Return the speeds of each backend in images/s, in turns after a warm-up."""
    from tqdm import tqdm

    samples: dict[str, dict[str, list[float]]] = {name: {what: [] for what in WHAT} for name in works}
    turns = [*itertools.product(range(repeats + 1), works, WHAT)]
    for repeat, name, what in tqdm(turns, "measuring", leave=False, ncols=79, disable=None, unit="measurement"):
        speed = works[name].images_per_second(what, seconds if repeat else seconds / 4)
        if repeat:
            samples[name][what].append(speed)
    return {name: {what: spread(values) for what, values in each.items()} for name, each in samples.items()}


class Work:
    """The training steps and the test of a run on one backend."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        import torch

        from snn_mnist.network.engine import choose_runtime
        from snn_mnist.training.learner import Evaluator, Learner, TrainingData
        from snn_mnist.training.resume import restore

        self.b, self.epochs = config.b, itertools.count()
        self.runtime = choose_runtime(config.device, config.backend, config.j)
        self.torch_threads = torch.get_num_threads()  # the next backend's may be another number
        data = TrainingData.load(config, self.runtime.device, dataset)
        self.learner = Learner(config, self.runtime, data)
        self.evaluator = Evaluator(self.learner)
        self.most = {"train": data.steps, "test": len(dataset.test)}  # in one go
        restore({}, self.learner)
        for _ in range(2 if config.backend == "cupy" else 0):  # CUDA graphs are captured in two whole epochs
            self.train(data.steps)

    def train(self, steps: int) -> int:
        """Train the first steps of a new epoch; return the number of images."""
        self.learner.begin_epoch(next(self.epochs))
        training = self.learner.training
        for first in range(0, steps, training.chunk):
            training.run(first, min(first + training.chunk, steps))
        return steps * self.b

    def test(self, images: int) -> int:
        """Compute the forward pass of the first test images; return their number."""
        from snn_mnist.network.poisson import SpikeKey, Stream

        self.evaluator.score(Stream.TEST, SpikeKey(0, Stream.TEST, next(self.epochs)), count=images)
        return images

    def images_per_second(self, what: str, seconds: float) -> float:
        """Return the speed over at least this many seconds, in pieces of work that double in length."""
        import torch

        torch.set_num_threads(self.torch_threads)
        images, passed, count = 0, 0.0, self.learner.training.chunk if what == "train" else 250
        while passed < seconds:
            began = time.perf_counter()
            images += getattr(self, what)(min(count, self.most[what]))
            if self.runtime.device.type == "cuda":
                torch.cuda.synchronize(self.runtime.device)
            passed += time.perf_counter() - began
            count *= 2
        return images / passed
