"""The training steps of the CUDA backend without a GPU: its kernels on the host, its graphs by a stand-in."""

import gc
from contextlib import contextmanager, nullcontext

import pytest
import torch

from snn_mnist.errors import SNNError
from snn_mnist.kernels.cuda import fused as fused_cuda
from snn_mnist.network.fused_steps import FusedSteps
from snn_mnist.network.poisson import SpikeKey
from tests.support.kernel_checks import firing_rate, images_of, spec_of, training_of, weight_of

MODES = pytest.mark.parametrize(("name", "scaled"), [("adam", False), ("adam", True), ("sgd", False), ("sgd", True)])


def optimizer_of(name, weight, **settings):
    if name == "adam":
        return torch.optim.Adam([weight], lr=0.01, fused=True, **settings)
    sgd = torch.optim.SGD([weight], lr=0.01, momentum=0.9, fused=True)
    sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)  # else undefined after a skipped first step
    return sgd


@MODES
def test_epoch_of_steps_is_the_ordinary_loop(host, name, scaled):
    """The steps that a CUDA graph captures, run one by one: bit for bit those of autograd and the optimiser, with
    learning rates that a float32 holds, as the static tensors do."""
    images, steps, batch, T = images_of(30, active=100), 7, 4, 20
    active, labels = fused_cuda.active_pixels(images), 300 * torch.eye(10)[torch.arange(30) % 10]
    order, precision = torch.arange(30).roll(7), torch.bfloat16 if scaled else torch.float32
    rates = torch.tensor([0.01 / (1 + step) for step in range(steps)]).tolist()
    decays = [1 - 2.0 ** -(1 + step) for step in range(steps)]
    weight, graphed = (torch.nn.Parameter(weight_of(0.1)) for _ in range(2))
    average, own = weight_of(0.1), weight_of(0.1)
    # so high at first that steps are skipped
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=2.0**127, enabled=scaled) for _ in range(2))
    optimizer, captured = optimizer_of(name, weight), optimizer_of(name, graphed)
    training = training_of(graphed, captured, steps, batch, T, other, own, scaled)
    run = FusedSteps(graphed, active, labels, spec_of(), training, chunk=3)
    for epoch in (3, 2**32 - 7):  # an int32 on the device
        key = SpikeKey(1, 0, epoch)
        run.begin(key, order, rates, decays)
        run.run(0, 5)
        run.run(5, steps)
        for step in range(steps):
            part = slice(step * batch, (step + 1) * batch)
            optimizer.param_groups[0]["lr"] = rates[step]
            optimizer.zero_grad()
            rate = firing_rate(fused_cuda, weight, active, order[part], T, key, spec_of(), precision)
            scaler.scale(torch.nn.functional.mse_loss(rate, labels[order[part]])).backward()
            scaler.step(optimizer)
            scaler.update()
            average.lerp_(weight.detach(), 1 - decays[step])
            assert torch.equal(training.rates[part], rate)
    assert torch.equal(graphed, weight) and torch.equal(own, average)
    assert captured.param_groups[0]["lr"] == rates[-1] and other.state_dict() == scaler.state_dict()
    assert (training.skipped > 0) == scaled and training.skipped < steps


class Recorded:
    """What a CUDA graph is to FusedSteps: steps are recorded and not run, until they are replayed."""

    capturing: "Recorded | None" = None

    def __init__(self):
        self.steps, self.replays = [], 0

    def pool(self):
        return "a pool"

    def replay(self):
        self.replays += 1
        for step in self.steps:
            step()


@pytest.fixture
def graphs(monkeypatch):
    """CUDA graphs without a GPU; the arguments of each capture."""
    captures, plain = [], FusedSteps._step

    @contextmanager
    def capture(graph, **settings):
        assert not gc.isenabled()  # a stray graph that is collected during a capture makes it fail
        captures.append(settings)
        Recorded.capturing = graph
        yield
        Recorded.capturing = None

    def step(run, number):
        if Recorded.capturing is None:
            plain(run, number)
        else:
            Recorded.capturing.steps.append(lambda: plain(run, number))

    monkeypatch.setattr(FusedSteps, "_step", step)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**10))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"a stream of {device}")
    return captures


@MODES
@pytest.mark.parametrize("target", ["host", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True)
def test_one_graph_serves_all_chunks(target, request, name, scaled):
    """An epoch of 11 steps in chunks of 4, cut in the middle of the second epoch: the bits of the plain loop, from one
    graph for the chunks of 4 and one for the 3 steps at the end. The very first chunk is always launched."""
    captures = request.getfixturevalue("graphs") if target.name == "host" else None
    steps, batch, images = 11, 4, images_of(48, active=100)
    active, labels = target.active(images), torch.eye(10, device=target.device)[torch.arange(48) % 10]
    results, order = [], torch.randperm(48)
    for capture in (False, True):
        weight, average = torch.nn.Parameter(weight_of(0.1).to(target.device)), weight_of(0.1).to(target.device)
        optimizer = optimizer_of(name, weight, capturable=True) if name == "adam" else optimizer_of(name, weight)
        scaler = torch.amp.GradScaler(target.device.type, enabled=scaled)
        training = training_of(weight, optimizer, steps, batch, 20, scaler, average, scaled)
        run = FusedSteps(weight, active, labels, spec_of(), training, chunk=4, capture=capture)
        rates = []
        for epoch in range(3):
            table = [0.01 * (1 + epoch) / (1 + step) for step in range(steps)]
            run.begin(SpikeKey(1, 0, epoch), order.roll(epoch), table, [0.9 + 0.01 * step for step in range(steps)])
            for cut in ((0, 6), (6, 11)) if epoch == 1 else ((0, 11),):
                run.run(*cut)
            rates.append(training.rates.clone())
        graphs = list(run.graphs.values())
        assert set(run.graphs) == ({4, 3} if capture else set()) and optimizer.param_groups[0]["lr"] == table[-1]
        state = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)]
        results.append([*rates, weight.detach(), average, *state])
    for plain, replayed in zip(*results, strict=True):
        assert torch.equal(plain, replayed) and plain.isfinite().all()
    assert not torch.equal(results[0][0], results[0][1])
    if captures is not None:
        assert [graph.replays for graph in graphs] == [4, 3]  # steps 4 to 7 of the second epoch are launched
        assert [c["pool"] for c in captures] == [None, "a pool"] and gc.isenabled()
        assert {c["stream"] for c in captures} == {"a stream of cpu"}


def test_work_memory_is_compared_with_what_is_free(host, graphs):
    """T near a million: the work of 64 samples does not lie on chip, and needs 9 GB."""
    active, weight = fused_cuda.active_pixels(images_of(2, active=100)), torch.nn.Parameter(torch.zeros(10, 784))
    training = training_of(weight, torch.optim.SGD([weight]), 1, 64, 999_000)
    with pytest.raises(SNNError, match=r"T=999000 with b=64 needs \d+\.\d GB of work memory, and 1\.0 GB are free"):
        FusedSteps(weight, active, torch.eye(10), spec_of(), training, capture=True)


def test_the_trainer(host, tmp_path, monkeypatch):
    """A run of the trainer with these kernels learns what one with the CPU's learns; only the device is another."""
    from snn_mnist.network.engine import Runtime
    from snn_mnist.settings.config import Config
    from snn_mnist.storage.metrics import read_metrics
    from snn_mnist.training import loop as trainer
    from snn_mnist.training.console import Interruption

    settings = {"dataset": "digits", "T": 8, "b": 40, "lr": 0.01, "epochs": 2, "limit_batches": 5, "figures": False}
    rows = []
    for backend in ("cupy", "numba"):
        place = Runtime(torch.device("cpu"), backend, "for a test", 1)
        monkeypatch.setattr(trainer, "choose_runtime", lambda *_, place=place: place)
        folder = trainer.train(Config(**settings, out_dir=str(tmp_path / backend)), Interruption())
        rows.append(read_metrics(folder / "metrics.csv")[-1])
    for name in ("train_loss", "train_acc", "test_loss", "test_acc", "max_test_acc"):
        assert rows[0][name] == pytest.approx(rows[1][name], abs=2e-3), name
    assert {launch[0] for launch in host.launches} == {"fused", "contract"}
