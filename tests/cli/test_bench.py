"""The verb bench: real processes that take turns, its table and its JSON."""

import json
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from snn_mnist.cli import bench, contestants, time_to_accuracy
from snn_mnist.cli.bench import BenchOptions
from snn_mnist.cli.main import main
from snn_mnist.cli.measuring import Stopwatch
from snn_mnist.cli.peers import LOOPS
from snn_mnist.cli.results import spread
from snn_mnist.errors import SNNError
from snn_mnist.settings.config import Config


def test_two_backends_in_one_run(tmp_path, capsys):
    """Their processes are real ones."""
    command = f"bench -backend numba torch -dataset digits -T 2 3 -repeats 2 -seconds 0.01 -json {tmp_path}/out.json"
    assert main(command.split()) == 0
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(r["backend"], r["T"], r["b"]) for r in results] == [
        ("numba", 2, 64), ("torch", 2, 64), ("numba", 3, 64), ("torch", 3, 64),
    ]  # fmt: skip
    for row in results:
        for speed in (row["train"], row["test"]):
            assert len(speed["values"]) == 2 and 0 < speed["low"] <= speed["median"] <= speed["high"]
        assert row["peak_bytes"] > 2**20 and row["ready_seconds"] > 0 and row["capture_seconds"] == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    table = [words for words in lines if words[:1] in (["numba"], ["torch"]) and words[1:2] == ["train"]]
    for words, row in zip(table, results, strict=True):
        assert words[:3] == [row["backend"], "train", f"{row['train']['median']:,.0f}"]
    medians = [row["train"]["median"] for row in results]
    slower = [min(medians[:2])] * 2 + [min(medians[2:])] * 2  # of those with the same T
    assert [words[-1] for words in table] == [f"{a / b:.1f}x" for a, b in zip(medians, slower, strict=True)]
    assert [words[:4] for words in lines if words[:1] == ["T"]] == [["T", n, "batch", "64"] for n in ("2,", "3,")]
    assert max(map(len, out.splitlines())) <= 80


def test_what_is_not_here_is_told(capsys):
    for name, why in (
        ("spikingjelly", "its loop is measured on mnist"),
        ("spikingjelly-fused", "its fused neurons are"),
        ("snntorch", "its loop is measured on mnist"),
    ):
        assert main(["bench", "-backend", name, "-dataset", "digits", "-device", "cpu"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and f"{name} can't be measured: {why}" in err
    assert main(["bench", "-backend", "cupy", "-device", "cpu", "-dataset", "digits"]) == 2
    assert "cupy can't be measured: cupy's kernels run on a CUDA device" in capsys.readouterr().err


def test_a_batch_that_is_too_large_is_wrong_usage(capsys):
    assert main(["bench", "-dataset", "digits", "-b", "64,100000", "-device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "b 100000 is more than the 1437 training images" in err


@pytest.mark.skipif(bench._why_not("spikingjelly", torch.device("cpu"), BenchOptions()) is None, reason="it is here")
def test_a_contestant_that_can_not_be_made_is_left_out_where_nobody_asked_for_it(capsys):
    options = BenchOptions(dataset="digits", repeats=1, seconds=0.01)
    names, device = ("torch", "spikingjelly-fused"), torch.device("cpu")
    processes = {name: bench.Process(name) for name in names}
    try:
        rows = bench._measure(processes, names[1:], options, device, 2, 64)
        assert [row["backend"] for row in rows] == ["torch"]
        assert "without spikingjelly-fused: " in capsys.readouterr().err
        with pytest.raises(bench.SNNError, match="spikingjelly-fused can't be measured"):
            bench._measure(processes, (), options, device, 2, 64)
    finally:
        for process in processes.values():
            process.stop()


def test_lines_below_the_table():
    row = {"backend": "cupy", "about": "", "busy": "", "compile_seconds": 3.14, "capture_seconds": 0.52}
    other = {"backend": "norse", "about": "norse 1.1.0", "busy": "", "compile_seconds": 0.0, "capture_seconds": 0.0}
    slowed = other | {"backend": "numba", "about": "", "busy": "the machine is busy: 1 of 2 threads was faster"}
    assert bench._told_apart([row | {"compile_seconds": 1.0}, other, slowed, row]) == [
        "",
        "cupy: compiled for 3.1 s and captured CUDA graphs for 0.5 s before the measurements",
        "norse: norse 1.1.0",
        "numba: the machine is busy: 1 of 2 threads was faster",
    ]
    assert bench._told_apart([other | {"about": ""}]) == []


def test_a_stopwatch_sums_up():
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(3):
        before = watch.seconds
        with watch:
            sum(range(1000))
        assert watch.seconds > before


def test_a_missing_library_is_told_on_a_line_each(monkeypatch, capsys):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert bench._names(BenchOptions(device="cpu"), torch.device("cpu")) == ["numba", "torch"]
    assert capsys.readouterr().err.splitlines() == [
        f"without {name}: it is not installed (pip install {name})" for name in ("spikingjelly", "snntorch", "norse")
    ]


def test_every_peer_has_a_loop():
    assert {name: loop.package for name, loop in LOOPS.items()} == bench.PEERS


def test_seconds_to_an_accuracy_are_those_of_a_whole_process(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = "bench -backend numba -dataset digits -T 4 -accuracy 0.5 -repeats 1 -device cpu -json out.json"
    assert main(command.split()) == 0
    out, err = capsys.readouterr()
    (row,) = json.loads((tmp_path / "out.json").read_text())["results"]
    told = [line for line in err.splitlines() if line.startswith("numba, run 1 of 1: epoch ")]
    accuracies = [float(line.partition("%")[0].split()[-1]) for line in told]
    assert len(told) == row["epochs"] and accuracies[-1] >= 50 > max(accuracies[:-1], default=0)
    assert row["seconds"]["median"] > 1  # importing PyTorch alone takes as long
    assert out.splitlines()[-1].split() == [
        "numba", "4", "64", f"{row['seconds']['median']:,.1f}", str(row["epochs"]), "1.0x",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_lines_of_both_programs_are_read():
    ours = "epoch 3/100  train loss 0.0171 acc 91.20%  test loss 0.0160 acc 92.51%  6.10 s"
    theirs = "epoch =2, train_acc = 0.9120, test_loss = 0.0160, test_acc = 0.9251, max_test_acc = 0.9260"
    assert time_to_accuracy.accuracy_in(ours) == time_to_accuracy.accuracy_in(theirs) == 0.9251
    assert time_to_accuracy.accuracy_in("train speed = 900.0 images/s, test speed = 1900.0 images/s") is None


def test_programs_that_do_not_reach_the_accuracy(capfd):
    def says(code: str) -> list[str]:
        return [sys.executable, "-c", code]

    lines = "for i in range(200): print(f'test_acc = 0.{i:03}', flush=True)"
    programs = {"good": says(lines), "broken": says("raise RuntimeError('no data')")}
    samples = time_to_accuracy.in_turns(programs, 0.05, 2, ["broken"])
    assert [epochs for _, epochs in samples["good"]] == [51, 51] and [*samples] == ["good"]
    assert "without broken: it ended with exit code 1: RuntimeError: no data" in capfd.readouterr().err
    with pytest.raises(SNNError, match=r"good can't be measured: 9\.90% is the highest of 100 epochs; lower -accuracy"):
        time_to_accuracy.in_turns(programs, 0.5, 1, [])


def test_a_peer_without_a_program_has_no_seconds_to_an_accuracy():
    options = BenchOptions(accuracy=0.9)
    assert "has no program for this task" in str(bench._why_not("norse", torch.device("cpu"), options))


def test_the_lines_of_the_table_by_hand():
    """Training is 2.5 times the 20,000 of the slowest, testing 1.5 times 80,000; 300 MB."""
    row = {
        "backend": "spikingjelly-fused", "T": 100, "b": 64, "peak_bytes": 300 * 2**20,
        "train": spread([50_000, 40_000, 70_000, 60_000, 45_000]), "test": spread([119_999.7]),
    }  # fmt: skip
    train, test = bench._lines(row, {"train": 20_000.0, "test": 80_000.0}).split("\n")
    assert train.split() == ["spikingjelly-fused", "train", "50,000", "40,000", "70,000", "300", "MB", "2.5x"]
    assert test.split() == ["test", "120,000", "1.5x"]
    head = f"{'':24}{bench._HEAD}"
    assert len(head) == len(train) == len(test) <= 80
    cells = {"images/s": "50,000", "lowest": "40,000", "highest": "70,000", "memory": "MB", "speed-up": "2.5x"}
    for what, cell in cells.items():
        assert head.index(what) + len(what) == train.index(cell) + len(cell)  # each number ends under its name


def test_the_spread_of_repeated_measurements():
    """By hand: the mean of 1, 2, 6 is 3, its deviation with n - 1 is sqrt((4 + 1 + 9) / 2), the median 2."""
    found = spread([2.0, 6.0, 1.0])
    assert found == {
        "mean": 3.0, "std": pytest.approx(7**0.5), "median": 2.0, "low": 1.0, "high": 6.0, "values": [2.0, 6.0, 1.0],
    }  # fmt: skip
    assert spread([5.0])["std"] == 0.0


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
    trainer, counts = object.__new__(contestants.OurLoop), []
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
