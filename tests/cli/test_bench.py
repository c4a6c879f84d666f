"""The verb bench: real processes that take turns, its table and its JSON."""

import json

import pytest
import torch

from snn_mnist.cli import bench
from snn_mnist.cli.bench import BenchOptions
from snn_mnist.cli.contestants import Stopwatch


def test_two_backends_in_one_run(program, tmp_path):
    done = program(
        "bench", "-backend", "numba", "torch", "-dataset", "digits", "-T", "3", "5", "-repeats", "3", "-seconds",
        "0.05", "-json", "out.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(r["backend"], r["T"], r["b"]) for r in results] == [
        ("numba", 3, 64), ("torch", 3, 64), ("numba", 5, 64), ("torch", 5, 64),
    ]  # fmt: skip
    for row in results:
        for speed in (row["train"], row["test"]):
            assert len(speed["values"]) == 3 and 0 < speed["low"] <= speed["median"] <= speed["high"]
        assert row["peak_bytes"] > 2**20 and row["ready_seconds"] > 0 and row["capture_seconds"] == 0
    table = [line.split() for line in done.stdout.splitlines() if line.startswith(("numba ", "torch "))]
    for words, row in zip(table, results, strict=True):
        assert words[:4] == [row["backend"], str(row["T"]), "64", f"{row['train']['median']:,.0f}"]
    for two in (table[:2], table[2:]):  # speed-ups are those over the slower
        assert "1.0x" in [words[-1] for words in two]


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


@pytest.mark.skipif(bench._why_not("spikingjelly", torch.device("cpu"), BenchOptions()) is None, reason="it is here")
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


def test_a_stopwatch_sums_up():
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(3):
        before = watch.seconds
        with watch:
            sum(range(1000))
        assert watch.seconds > before
