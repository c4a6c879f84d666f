"""The CUDA backend on a GPU: what the tests with the fixture `target` do not show. All of them:
`bash scripts/test_gpu.sh`, which ends with a table."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from snn_mnist.core import functional, neuron
from snn_mnist.kernels.cuda import fused as fused_cuda
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.network import fused_steps
from snn_mnist.network.fused_steps import FusedSteps
from snn_mnist.network.poisson import SpikeKey
from tests.conftest import ROOT
from tests.support.kernel_checks import KEY, spec_of, training_of

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda")


@pytest.fixture(autouse=True)
def skip_without_kernels():
    reason = cuda.why_unavailable(DEVICE)
    if reason:
        pytest.skip(reason)


def digits_like(n, seed=0):
    """Images [n, 784] with MNIST's mix: 150 +- 41 active pixels, 351 at most, and 3.5 % of them 255.

    White pixels need no random numbers, so their share decides the speed.
    """
    rng = np.random.default_rng(seed)
    images = np.zeros((n, 784), np.uint8)
    for row in images:
        at = rng.choice(784, int(rng.normal(150, 41).clip(20, 351)), replace=False)
        row[at] = np.where(rng.random(len(at)) < 0.035, 255, rng.integers(1, 255, len(at)))
    return torch.from_numpy(images)


def on_device(images):
    return fused_cuda.active_pixels(images.to(DEVICE))


def test_start_up_check():
    fused_steps.start_up_error.cache_clear()
    assert fused_steps.start_up_error(DEVICE) is None


def test_a_step_never_waits_for_the_device():
    active, index = on_device(digits_like(64)), torch.arange(64).to(DEVICE)
    weight, upstream = torch.zeros(10, 784, device=DEVICE), torch.ones(64, 10, device=DEVICE)
    rate, gradient, table = upstream.clone(), weight.clone(), torch.empty(64, *weight.shape, device=DEVICE)
    for attempt in range(2):
        torch.cuda.set_sync_debug_mode("error" if attempt else "default")  # the first time it compiles
        try:
            fused_cuda.learn(weight, active, index, 100, KEY, spec_of(), torch.float32, rate, table)
            fused_cuda.weight_gradient(active, index, upstream, table, spec_of(), 100, gradient)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_speed_of_a_training_step():
    """No claim but a figure: an epoch of MNIST's size, T = 100, batch 64, Adam, in graphs."""
    steps, batch = 937, 64
    images = digits_like(6000)[torch.arange(60_000) % 6000]
    active, labels = on_device(images), torch.eye(10)[torch.arange(60_000) % 10].to(DEVICE)
    weight = torch.nn.Parameter(0.03 * torch.randn(10, 784, device=DEVICE))
    optimizer = torch.optim.Adam([weight], lr=1e-3, fused=True, capturable=True)
    training = training_of(weight, optimizer, steps, batch, 100)
    run = FusedSteps(weight, active, labels, spec_of(), training)
    times = []
    for epoch in range(7):
        run.begin(SpikeKey(0, 0, epoch), torch.randperm(60_000), [1e-3] * steps)
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        run.run(0, steps)
        ended.record()
        torch.cuda.synchronize()
        times.append(started.elapsed_time(ended) * 1000 / steps)
    steady = times[2:]  # the first two compile and capture
    low, high = min(steady), max(steady)
    print(f"training step in graphs: {statistics.median(steady):.1f} us, {low:.1f} to {high:.1f} in epochs of {steps}")
    everything = torch.arange(10_000).to(DEVICE)
    for _ in range(2):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        fused_cuda.firing_counts(weight.detach(), active, everything, [100], SpikeKey(0, 1, 0), spec_of())
        ended.record()
        torch.cuda.synchronize()
    print(f"test of 10,000 images: {started.elapsed_time(ended):.2f} ms")
    assert weight.isfinite().all()


def test_neurons_under_autocast_and_in_a_graph():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(20, 30), neuron.LIFNode(step_mode="m", backend="cupy")).to(DEVICE)
    x = 4 * torch.rand(12, 8, 20, device=DEVICE)
    with torch.autocast("cuda"):
        fired = net(x)
    fired.float().sum().backward()
    assert fired.dtype == torch.float32 and fired.sum() > 0 and net[0].weight.grad.isfinite().all()
    functional.reset_net(net)
    current, spec = 2 * torch.randn(12, 1000, device=DEVICE), spec_of()
    plain = fused_cuda.multi_step(current, 0.0, spec, False)[0]
    graph, start = torch.cuda.CUDAGraph(), torch.zeros(1000, device=DEVICE)
    with torch.no_grad(), torch.cuda.graph(graph):
        graphed = fused_cuda.multi_step(current, start, spec, False)[0]
    graph.replay()
    assert torch.equal(plain, graphed)


# ---- the program ----


@pytest.mark.parametrize(
    "flags",
    [
        "-backend cupy", "-backend cupy -amp", "-backend cupy -val 200 -schedule cosine -ema 0.9",
        "-backend torch", "-backend torch -amp",
    ],
)  # fmt: skip
def test_training_and_test_by_the_command_line(program, tmp_path, flags):
    """The bundled digits: the weights learn as the CPU's do (91 %), and are tested on the GPU again."""
    done = program(
        "train", "-dataset", "digits", "-device", "cuda", "-epochs", "3", "-T", "20", "-out-dir", "runs",
        *flags.split(), timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"backend {flags.split()[1]} on" in done.stdout and "Warning" not in done.stderr
    (last,) = [line for line in done.stdout.splitlines() if line.startswith("last epoch")]
    accuracy = float(last.rsplit(" ", 1)[1].rstrip("%")) / 100
    (folder,) = (tmp_path / "runs").iterdir()
    done = program("eval", "-resume", str(folder), "-device", "cuda", "-repeats", "3", "-json", "-", timeout=280)
    assert done.returncode == 0, done.stderr
    assert accuracy > 0.85 and abs(json.loads(done.stdout)["accuracy"]["mean"] - accuracy) < 0.03


def test_bench(program, tmp_path):
    names = ["cupy", "torch"]
    done = program(
        "bench", "-device", "cuda:0", "-dataset", "digits", "-backend", *names, "-T", "20", "-repeats", "2",
        "-json", "out.json", timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [row["backend"] for row in rows] == names
    assert all(row["train"]["low"] > 0 and row["test"]["low"] > 0 for row in rows)


def test_report_of_marks(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "gpu_marks.py"), str(tmp_path), "-dataset", "digits"]
    command += ["-epochs", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "gpu_marks.md").read_text(encoding="utf-8")
    assert report.count("| cuda") == 3 and "`contract`" in report and "cupy" in report


def run_on(device: str, out, epochs: int, **settings) -> tuple[torch.Tensor, list[dict]]:
    """Weights and metrics (timings aside) of a run on the digits: 22 steps an epoch, so less than a graph."""
    from snn_mnist.settings.config import Config
    from snn_mnist.storage import checkpoint, metrics
    from snn_mnist.training import loop as trainer
    from snn_mnist.training.console import Interruption

    given = {"dataset": "digits", "T": 20, "epochs": epochs, "device": device, "figures": False, "out_dir": str(out)}
    given |= {"backend": "cupy"} | settings
    trainer.train(Config(**given, given=frozenset(given)), Interruption())
    folder = max(Path(out).iterdir(), key=lambda path: path.stat().st_mtime_ns)
    timings = {"train_images_per_s", "test_images_per_s", "seconds"}
    rows = metrics.read_metrics(folder / "metrics.csv")
    rows = [{name: value for name, value in row.items() if name not in timings} for row in rows]
    return checkpoint.load(folder)["net"][checkpoint.WEIGHT], rows


@pytest.mark.parametrize(
    "settings", [{}, {"amp": True}, {"opt": "sgd", "lr": 1.0, "amp": True}, {"ema": 0.99}], ids=str
)
def test_resumed_is_uninterrupted(tmp_path, settings):
    weight, rows = run_on("cuda", tmp_path / "whole", 4, **settings)
    run_on("cuda", tmp_path / "cut", 2, **settings)
    (folder,) = (tmp_path / "cut").iterdir()
    resumed, resumed_rows = run_on("cuda", tmp_path / "cut", 4, resume=str(folder))
    assert torch.equal(weight, resumed) and rows == resumed_rows and weight.isfinite().all()


def test_the_cpu_learns_the_same(tmp_path):
    _, rows = run_on("cuda", tmp_path / "gpu", 3)
    _, expected = run_on("cpu", tmp_path / "cpu", 3, backend="numba")
    for row, other in zip(rows, expected, strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-2)
        assert abs(row["test_acc"] - other["test_acc"]) < 0.02


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device or none")
def test_another_device_than_the_first(tmp_path):
    first, second = (run_on(device, tmp_path / device[-1], 3) for device in ("cuda:0", "cuda:1"))
    assert torch.equal(first[0], second[0]) and first[1] == second[1]
