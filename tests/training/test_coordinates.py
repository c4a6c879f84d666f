"""What decides a run's random numbers: the coordinates of each use of spikes, the initial weights, the orders.

A resumed and an undisturbed run share every seed and stream, so neither can show that one is wrong. Here the
coordinates that reach the encoder are recorded and compared with those written out.
"""

import pytest
import torch

from snn_mnist.cli.main import main
from snn_mnist.network import engine
from snn_mnist.network.poisson import SpikeKey, Stream
from tests.support.runs import train_run

TRAIN_IMAGES, TEST_IMAGES = 1437, 360


@pytest.fixture
def encoded(monkeypatch):
    """(key, indices of the images, T) of each encoding by the torch engine."""
    calls = []

    def record(images, index, start, stop, key, real=engine.poisson_encode):
        calls.append((SpikeKey(*map(int, key)), index.tolist(), stop))
        return real(images, index, start, stop, key)

    monkeypatch.setattr(engine, "poisson_encode", record)
    return calls


def test_each_use_of_spikes_has_its_own_stream_and_epoch(tmp_path, encoded):
    settings = {"backend": "torch", "T": 4, "b": 500, "seed": 7, "epochs": 2, "val": 30, "limit_batches": 2}
    folder = train_run(tmp_path, **settings)
    uses = {}
    for key, index, _ in encoded:
        if key.seed == 7:  # warming up is seed 0
            uses.setdefault((key.stream, key.epoch), []).extend(index)
    assert set(uses) == {(int(s), e) for s in (Stream.TRAIN, Stream.TEST, Stream.VALIDATION) for e in (0, 1)}
    assert (Stream.TRAIN, Stream.TEST, Stream.VALIDATION, Stream.EVAL) == (0, 1, 2, 3)
    held_out = uses[2, 0]
    assert len(held_out) == 30 and held_out == sorted(set(held_out)) == uses[2, 1]
    for epoch in (0, 1):
        assert uses[1, epoch] == list(range(TEST_IMAGES))
        assert len(set(uses[0, epoch])) == 1000 and not set(uses[0, epoch]) & set(held_out)
    assert uses[0, 0] != uses[0, 1]

    encoded.clear()
    assert main(["eval", "-resume", str(folder), "-repeats", "3", "-backend", "torch"]) == 0
    tested = [key for key, index, _ in encoded if len(index) == TEST_IMAGES]
    assert tested == [SpikeKey(7, Stream.EVAL, repeat) for repeat in range(3)]  # no two alike, none of training


def test_initial_weights_are_torchs_for_each_seed(tmp_path):
    """The weights of torch.nn.Linear(784, 10, bias=False) after torch.manual_seed(seed), pinned for two seeds."""
    pinned = {0: [-0.000267, 0.019159, -0.029394], 1: [0.018402, -0.015764, -0.006924]}
    for seed, first in pinned.items():
        torch.manual_seed(seed)
        weight = torch.nn.Linear(784, 10, bias=False).weight.detach()
        assert weight[0, :3].tolist() == pytest.approx(first, abs=1e-6)
        # A learning rate too small to change any of them: what a run began with is what it saves.
        folder = train_run(tmp_path / str(seed), seed=seed, opt="sgd", lr=1e-30, epochs=1, limit_batches=1, T=2)
        saved = torch.load(folder / "checkpoint_latest.pth", weights_only=True)["net"]["layer.1.weight"]
        assert torch.equal(saved, weight)
