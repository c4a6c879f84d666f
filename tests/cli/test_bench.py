"""The verb bench: real processes that take turns, its table and its JSON."""

import json
from types import SimpleNamespace

import pytest
import torch

from snn_mnist.cli import bench, contestants
from snn_mnist.cli.bench import BenchOptions
from snn_mnist.cli.contestants import Stopwatch
from snn_mnist.cli.main import main
from snn_mnist.runs.config import Config


def test_two_backends_in_one_run(tmp_path, capsys):
    flags = ["-T", "3", "5", "-repeats", "3", "-seconds", "0.05", "-json", str(tmp_path / "out.json")]
    assert main(["bench", "-backend", "numba", "torch", "-dataset", "digits", *flags]) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(r["backend"], r["T"], r["b"]) for r in results] == [
        ("numba", 3, 64), ("torch", 3, 64), ("numba", 5, 64), ("torch", 5, 64),
    ]  # fmt: skip
    for row in results:
        for speed in (row["train"], row["test"]):
            assert len(speed["values"]) == 3 and 0 < speed["low"] <= speed["median"] <= speed["high"]
        assert row["peak_bytes"] > 2**20 and row["ready_seconds"] > 0 and row["capture_seconds"] == 0
    table = [line.split() for line in printed.splitlines() if line.startswith(("numba ", "torch "))]
    for words, row in zip(table, results, strict=True):
        assert words[:4] == [row["backend"], str(row["T"]), "64", f"{row['train']['median']:,.0f}"]
    for shown, two in ((table[:2], results[:2]), (table[2:], results[2:])):  # speed-ups are those over the slower
        slowest = min(row["train"]["median"] for row in two)
        assert [words[-1] for words in shown] == [f"{row['train']['median'] / slowest:.1f}x" for row in two]


def test_what_is_not_here_is_told(program):
    for name, why in (
        ("spikingjelly", "its loop is measured on mnist"),
        ("spikingjelly-fused", "its fused neurons are"),
    ):
        done = program("bench", "-backend", name, "-dataset", "digits", "-device", "cpu")
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert f"{name} can't be measured: {why}" in done.stderr
    done = program("bench", "-backend", "cupy", "-device", "cpu", "-dataset", "digits")
    assert done.returncode == 1 and "cupy can't be measured: cupy's kernels run on a CUDA device" in done.stderr


def test_a_batch_that_is_too_large_is_wrong_usage(program):
    done = program("bench", "-dataset", "digits", "-b", "64,100000", "-device", "cpu")
    assert (done.returncode, done.stdout) == (2, "") and "b 100000 is more than the 1437 training images" in done.stderr


@pytest.mark.skipif(
    bench._why_not("spikingjelly", torch.device("cpu"), BenchOptions()) is None, reason="SpikingJelly is installed"
)
def test_a_contestant_that_can_not_be_made_is_left_out_where_nobody_asked_for_it(capsys):
    options = BenchOptions(dataset="digits", repeats=1, seconds=0.01)
    names, device = ("torch", "spikingjelly-fused"), torch.device("cpu")
    for optional in (names[1:], ()):
        processes = {name: bench.Process(name) for name in names}
        everyone = list(processes.values())
        try:
            if optional:
                rows = bench._measure(processes, optional, options, device, 2, 64)
                assert [row["backend"] for row in rows] == ["torch"]
                assert "without spikingjelly-fused: " in capsys.readouterr().err
            else:
                with pytest.raises(bench.SNNError, match="spikingjelly-fused can't be measured"):
                    bench._measure(processes, optional, options, device, 2, 64)
        finally:
            for process in everyone:
                process.stop()


def test_lines_below_the_table():
    row = {"backend": "cupy", "about": "", "compile_seconds": 3.14, "capture_seconds": 0.52}
    other = {"backend": "spikingjelly", "about": "SpikingJelly 2.0.0", "compile_seconds": 0.0, "capture_seconds": 0.0}
    assert bench._told_apart([row | {"compile_seconds": 1.0}, other, row]) == [
        "",
        "cupy: compiled for 3.1 s and captured CUDA graphs for 0.5 s before the measurements",
        "spikingjelly: SpikingJelly 2.0.0",
    ]
    assert bench._told_apart([other | {"about": ""}]) == []


def test_a_line_of_the_table_by_hand():
    """50,000 images/s are 20 us per image, and 2.5 times the 20,000 of the slowest; 300 MB."""
    row = {
        "backend": "numba", "T": 100, "b": 64, "peak_bytes": 300 * 2**20,
        "train": bench._spread([50_000, 40_000, 70_000, 60_000, 45_000]), "test": bench._spread([123_456.7]),
    }  # fmt: skip
    line = bench._line(row, 20_000.0)
    assert line.split() == [
        "numba", "100", "64", "50,000", "[40,000,", "70,000]", "20.0", "123,457", "300", "MB", "2.5x",
    ]  # fmt: skip
    head = bench._HEAD
    ends = [(head.index(what) + len(what), line.index(cell) + len(cell)) for what, cell in (
        ("training images/s", "70,000]"), ("us/image", "20.0"), ("testing images/s", "123,457"), ("memory", "MB"),
        ("speed-up", "2.5x"),
    )]  # fmt: skip
    assert all(a == b for a, b in ends)  # each number ends under its name


class Ticks:
    """A stopwatch on which each block takes half a second."""

    def __init__(self, device):
        self.seconds = 0.0

    def __enter__(self):
        pass

    def __exit__(self, *_):
        self.seconds += 0.5


def test_speeds_are_in_images_per_second(monkeypatch):
    """Training by chunks of 4 steps of 64 images, 4 + 4 of them in a second; testing 30 images twice."""
    monkeypatch.setattr(contestants, "Stopwatch", Ticks)
    trainer, counts = object.__new__(contestants.Trainer), []
    trainer.device, trainer.steps, trainer.keys = torch.device("cpu"), 100, iter(range(9))
    trainer.config, trainer.learner = Config(b=64), SimpleNamespace(chunk=4)
    trainer.runtime = SimpleNamespace(test_batch=30)
    trainer._steps = counts.append
    assert trainer.train(1.0) == 8 * 64 and counts == [4, 4]
    tested = SimpleNamespace(labels=torch.zeros(30))
    trainer.evaluator = SimpleNamespace(score_test_images=lambda key, count: tested)
    assert trainer.test(1.0) == 60


def test_a_stopwatch_on_a_gpu_takes_the_milliseconds_of_events(monkeypatch):
    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            pass

        synchronize = elapsed_time = lambda self, *_: 1500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    watch = Stopwatch(torch.device("cuda"))
    for _ in range(2):
        with watch:
            pass
    assert watch.seconds == 3.0


def test_a_stopwatch_sums_up():
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(3):
        before = watch.seconds
        with watch:
            sum(range(1000))
        assert watch.seconds > before
