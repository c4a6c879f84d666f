"""The verb bench: its table and its JSON; the loops of scripts/compare_libraries.py."""

import json
from importlib import util
from types import SimpleNamespace

import compare_libraries
import pytest
import torch
from torch import nn

from snn_mnist import core
from snn_mnist.__main__ import main
from snn_mnist.cli import bench
from snn_mnist.cli.shared import spread


def test_two_backends_in_one_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "SECONDS", 0.01)
    command = f"bench -backend numba torch -dataset digits -T 2 3 -repeats 2 -json {tmp_path}/out.json"
    assert main(command.split()) == 0
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    measured = [("numba", 2, 64), ("torch", 2, 64), ("numba", 3, 64), ("torch", 3, 64)]
    assert [(r["backend"], r["T"], r["b"]) for r in results] == measured
    for speed in (row[what] for row in results for what in bench.WHAT):
        assert len(speed["values"]) == 2 and 0 < speed["low"] <= speed["median"] <= speed["high"]
    out = capsys.readouterr().out
    table = [words for words in map(str.split, out.splitlines()) if words[1:2] == ["train"]]
    for words, row in zip(table, results, strict=True):
        slower = min(each["train"]["median"] for each in results if each["T"] == row["T"])
        cells = [f"{row['train'][key]:,.0f}" for key in ("median", "low", "high")]
        assert words == [row["backend"], "train", *cells, f"{row['train']['median'] / slower:.1f}x"]
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("flags", "says"), [("-backend cupy", "cupy"), ("-b 64,100000", "b 100000 is more than the 1437 training images")]
)
def test_what_cannot_be_measured_is_wrong_usage(flags, says, capsys):
    assert main(["bench", "-dataset", "digits", "-device", "cpu", *flags.split()]) == 2
    assert says in capsys.readouterr().err


def test_speeds_are_in_images_per_second(monkeypatch):
    """A clock on which a piece of work takes half a second: 250 + 500 images in the test, 4 + 8 steps of 64."""
    clock = iter(range(1000))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock) / 2)
    work = object.__new__(bench.Work)
    work.torch_threads, work.learner = torch.get_num_threads(), SimpleNamespace(training=SimpleNamespace(chunk=4))
    work.runtime = SimpleNamespace(device=torch.device("cpu"))
    work.most = {"train": 100, "test": 1000}
    work.train, work.test = (lambda steps: steps * 64), (lambda images: images)
    assert work.images_per_second("train", 1.0) == 12 * 64 and work.images_per_second("test", 1.0) == 750


def test_the_spread_of_repeated_measurements():
    """By hand: the mean of 1, 2, 6 is 3, its deviation with n - 1 is sqrt((4 + 1 + 9) / 2), the median 2."""
    found = spread([2.0, 6.0, 1.0])
    assert found.pop("values") == [2.0, 6.0, 1.0]
    assert found == {"mean": 3.0, "std": pytest.approx(7**0.5), "median": 2.0, "low": 1.0, "high": 6.0}
    assert spread([5.0])["std"] == 0.0


@pytest.mark.parametrize(
    ("name", "votes"), [*((name, ()) for name in compare_libraries.LIBRARIES), ("spikingjelly", (3,))]
)
def test_each_library_computes_the_same_rates(name: str, votes: tuple[int, ...]):
    """With images of black and white pixels every encoder gives the same spikes, so that the rates are ours."""
    if util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    net, rates_of = compare_libraries.LIBRARIES[name](20, *votes)
    torch.manual_seed(0)
    images = (torch.rand(64, 1, 28, 28) < 0.2).float()
    n = sum(votes) or 1
    lif, vote = core.neuron.LIFNode(tau=2.0), core.layer.VotingLayer(n)
    ours = nn.Sequential(nn.Flatten(), nn.Linear(784, 10 * n, bias=False), lif, vote)
    for weight, theirs in zip(ours.parameters(), net.parameters(), strict=True):
        nn.init.normal_(theirs, std=0.2)
        weight.data = theirs.data
    for _ in range(2):  # nothing is left over from the batch before
        core.functional.reset_net(ours)
        expected = torch.stack([ours(images) for _ in range(20)]).mean(0)
        rates = rates_of(images)
        assert (rates - expected).abs().max() < 0.051  # a spike more or less, of a potential at the threshold
        assert ((rates - expected).abs() > 1e-6).float().mean() < 0.02 and 0.1 < expected.mean() < 0.9
