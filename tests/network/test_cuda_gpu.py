"""The CUDA backend on a GPU. All of it: `bash scripts/test_gpu.sh`, which ends with a table.

Sizes go well beyond one block, and odd ones are among them. Oracles are the CPU's spikes bit for bit, and the
equations in float64.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from snn_mnist.core import functional, neuron, surrogate
from snn_mnist.kernels.cpu import fused as fused_cpu
from snn_mnist.kernels.cpu import spikes
from snn_mnist.kernels.cuda import available
from snn_mnist.kernels.cuda import fused as fused_cuda
from snn_mnist.kernels.cuda import neuron as neuron_cuda
from snn_mnist.kernels.formulas import FORMULAS
from snn_mnist.network import start_check
from snn_mnist.network.engine import TorchEngine, make_engine
from snn_mnist.network.fused_steps import FusedSteps
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import SpikeKey
from tests.conftest import ROOT
from tests.support.kernel_checks import (
    FULL,
    HALF,
    check_fused,
    check_multi_step,
    check_surrogate,
    firing_rate,
    training_of,
)
from tests.support.neurons import KEY, spec_of

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda")


@pytest.fixture(autouse=True)
def skip_without_kernels():
    reason = available.why_unavailable(DEVICE)
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
    start_check.find_error.cache_clear()
    assert start_check.find_error(fused_cuda, DEVICE) is None


# ---- spikes ----


@pytest.mark.parametrize(
    ("n", "pixels", "start", "steps"),
    [
        (1000, 784, 0, 100),
        (3, 784, 16, 1),
        (257, 33, 112, 129),
        (1, 1, 0, 300),
        (2, 2000, 0, 128),
        (4, 97, 2**31 - 64, 63),
    ],
)
def test_spikes_are_the_cpus_bit_for_bit(n, pixels, start, steps):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, pixels), dtype=torch.uint8, generator=generator)
    images[:, ::3], images[:, 1::7] = 0, 255
    if pixels == 2000:
        images.random_(1, 255, generator=generator)  # 1,000 ties an image: more than the kernel lists
    index, key = torch.arange(n).flip(0), SpikeKey(2**32 - 1, 5, 4_000_000_000)
    expected = spikes.encode(images[index], index, start, start + steps, key)
    got = fused_cuda.encode(on_device(images), index, start, start + steps, key)
    assert torch.equal(got.cpu(), expected)


# ---- the fused pass ----


@pytest.mark.parametrize("name", FORMULAS)
def test_fused_pass_against_the_equations(name):
    check_surrogate(fused_cuda, name, DEVICE)


@pytest.mark.parametrize(
    ("n", "steps", "active", "outputs", "rounded"),
    [
        (1, 1, 40, 10, False),
        (3, 129, 300, 10, True),
        (300, 100, 250, 10, False),
        (65, 16, 90, 1, False),
        (2, 300, 780, 17, False),
        (1, 4000, 700, 10, False),  # more than shared memory holds
        (9, 32, 0, 4, True),
        (7, 64, 60, 128, False),
    ],
)
def test_fused_pass_in_many_sizes(n, steps, active, outputs, rounded):
    ties = check_fused(fused_cuda, spec_of(), n, steps, active, outputs, seed=n, rounded=rounded, device=DEVICE)
    assert ties <= max(4, n * outputs // 20)


def test_rates_and_gradient_against_the_cpu_kernel():
    """A batch as in training: the same rates but for ties at the threshold, gradients within 1e-5."""
    images, index = digits_like(512), torch.arange(512)
    weight = 0.05 * torch.randn(10, 784, generator=torch.Generator().manual_seed(4))
    results = []
    for device, kernels in ((DEVICE, fused_cuda), (torch.device("cpu"), fused_cpu)):
        learned = weight.clone().to(device).requires_grad_()
        rate = firing_rate(kernels, learned, kernels.active_pixels(images.to(device)), index, 100, KEY, spec_of())
        rate.square().sum().backward()
        results.append((rate.detach().cpu(), learned.grad.cpu()))
    (rate, gradient), (cpu_rate, cpu_gradient) = results
    different = int((rate != cpu_rate).sum())
    error = float((gradient - cpu_gradient).norm() / cpu_gradient.norm())
    print(f"{different} of {rate.numel()} rates differ from the CPU's, gradient by {error:.1e}")
    assert different <= 5 and (rate - cpu_rate).abs().max() <= 0.011
    assert error < 1e-5 or different


def test_counts_at_readout_steps_and_input_spikes():
    images, index = digits_like(1000), torch.arange(1000).flip(0)
    weight = 0.05 * torch.randn(10, 784, generator=torch.Generator().manual_seed(1))
    readout_steps = [1, 10, 128, 140, 300]
    counts, inputs = fused_cuda.firing_counts(
        weight.to(DEVICE), on_device(images), index, readout_steps, KEY, spec_of()
    )
    expected = fused_cpu.firing_counts(weight, fused_cpu.active_pixels(images), index, readout_steps, KEY, spec_of())
    assert torch.equal(inputs.cpu(), expected[1])
    assert (counts.cpu() != expected[0]).sum() <= 20 and (counts.cpu() - expected[0]).abs().max() <= 1
    assert counts.sum() > 10_000


def test_bitwise_repeatable_on_any_stream():
    images, index = digits_like(200), torch.arange(200).to(DEVICE)
    active, start = on_device(images), 0.05 * torch.randn(10, 784)
    results = []
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            weight = start.clone().to(DEVICE).requires_grad_()
            rate = firing_rate(fused_cuda, weight, active, index, 100, KEY, spec_of())
            rate.square().sum().backward()
        stream.synchronize()
        results.append((rate.detach(), weight.grad))
    for rate, gradient in results[1:]:
        assert torch.equal(rate, results[0][0]) and torch.equal(gradient, results[0][1])


def test_a_step_never_waits_for_the_device():
    active, index = on_device(digits_like(64)), torch.arange(64).to(DEVICE)
    weight, upstream = torch.zeros(10, 784, device=DEVICE), torch.ones(64, 10, device=DEVICE)
    rate, gradient, table = upstream.clone(), weight.clone(), fused_cuda.new_eligibility(active, 64, weight.shape)
    for attempt in range(2):
        torch.cuda.set_sync_debug_mode("error" if attempt else "default")  # the first time it compiles
        try:
            fused_cuda.learn(weight, active, index, 100, KEY, spec_of(), FULL, rate, table)
            fused_cuda.weight_gradient(active, index, upstream, table, spec_of(), 100, gradient)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("amp", [False, True])
def test_engine_against_the_modules(amp):
    """The program's engine and the torch modules on the same device: the same spikes, rates but for ties."""
    torch.manual_seed(0)
    net = SNN(step_mode="m").to(DEVICE)
    with torch.no_grad():
        net.weight.mul_(4)
    images, index = digits_like(300).to(DEVICE), torch.arange(300)
    results = []
    for engine in (make_engine("cupy", net, images), TorchEngine(net, images)):
        net.zero_grad()
        with torch.autocast("cuda", enabled=amp):
            counts, inputs = engine.firing_counts(index, [20, 50], KEY)
            if isinstance(engine, TorchEngine):
                rate = engine.firing_rate(index, 50, KEY)
            else:
                precision = HALF if amp else FULL
                rate = firing_rate(fused_cuda, net.weight, engine.active, index, 50, KEY, engine.spec, precision)
        rate.square().sum().backward()
        results.append((rate.detach(), counts, inputs, net.weight.grad.clone()))
    (rate, counts, inputs, gradient), (rate_2, counts_2, inputs_2, gradient_2) = results
    assert torch.equal(inputs, inputs_2) and counts.sum() > 3000
    # autocast rounds the modules' sums to half precision, the kernel's not: then spikes near a threshold move
    assert (rate != rate_2).float().mean() < (0.2 if amp else 0.002)
    assert (counts - counts_2).abs().max() <= (5 if amp else 1)
    assert (gradient - gradient_2).norm() < (0.05 if amp else 1e-3) * gradient_2.norm()


# ---- the training step in a CUDA graph ----


@pytest.mark.parametrize(("optimizer", "scaled"), [("adam", False), ("adam", True), ("sgd", False), ("sgd", True)])
def test_graph_is_the_loop_bit_for_bit(optimizer, scaled):
    steps, batch = 11, 64
    images = digits_like(steps * batch + 5)
    active, labels = on_device(images), torch.eye(10)[torch.arange(len(images)) % 10].to(DEVICE)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    start = 0.05 * torch.randn(10, 784, generator=torch.Generator().manual_seed(1))
    results = []
    for capture in (False, True):
        weight = torch.nn.Parameter(start.to(DEVICE))
        if optimizer == "adam":
            made = torch.optim.Adam([weight], lr=0.01, fused=True, capturable=True)
        else:
            made = torch.optim.SGD([weight], lr=0.01, momentum=0.9, fused=True)
        average, scaler = start.to(DEVICE), torch.amp.GradScaler("cuda", enabled=scaled)
        training = training_of(weight, made, steps, batch, 100, scaler, average)
        precision = HALF if scaled else FULL
        run = FusedSteps(fused_cuda, weight, active, labels, spec_of(), precision, training, chunk=4, capture=capture)
        rates = []
        for epoch in range(3):
            table = [0.01 * (1 + epoch) / (1 + step) for step in range(steps)]
            run.begin(
                SpikeKey(1, 0, epoch), order.roll(epoch), table, [0.9 + 0.01 * step / steps for step in range(steps)]
            )
            run.run(0, 6)  # a chunk, and a part of the next
            run.run(6, steps)
            rates.append(training.rates.clone())
        state = [v for v in made.state[weight].values() if isinstance(v, torch.Tensor)]
        results.append([*rates, weight.detach(), average, *state])
        assert set(run.graphs) == ({4, 3} if capture else set()) and made.param_groups[0]["lr"] == table[-1]
    for plain, graphed in zip(*results, strict=True):
        assert torch.equal(plain, graphed)
    assert not torch.equal(results[0][0], results[0][1]) and results[0][3].isfinite().all()


def test_speed_of_a_training_step():
    """No claim but a figure: an epoch of MNIST's size, T = 100, batch 64, Adam, in graphs."""
    steps, batch = 937, 64
    images = digits_like(6000)[torch.arange(60_000) % 6000]
    active, labels = on_device(images), torch.eye(10)[torch.arange(60_000) % 10].to(DEVICE)
    weight = torch.nn.Parameter(0.03 * torch.randn(10, 784, device=DEVICE))
    optimizer = torch.optim.Adam([weight], lr=1e-3, fused=True, capturable=True)
    training = training_of(weight, optimizer, steps, batch, 100, torch.amp.GradScaler("cuda", enabled=False))
    run = FusedSteps(fused_cuda, weight, active, labels, spec_of(), FULL, training)
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
    print(f"training step in graphs: {statistics.median(steady):.1f} us, {min(steady):.1f} to "
                    f"{max(steady):.1f} in 5 epochs of {steps} steps")  # fmt: skip
    everything = torch.arange(10_000).to(DEVICE)
    for _ in range(2):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        fused_cuda.firing_counts(weight.detach(), active, everything, [100], SpikeKey(0, 1, 0), spec_of())
        ended.record()
        torch.cuda.synchronize()
    print(f"test of 10,000 images: {started.elapsed_time(ended):.2f} ms")
    assert weight.isfinite().all()


# ---- multi-step neurons ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_multi_step_neuron_against_the_equations(name, dtype):
    check_multi_step(neuron_cuda, name, dtype, DEVICE)


@pytest.mark.parametrize("size", [1, 127, 128, 129, 100_003])
def test_multi_step_module_beyond_a_block(size):
    torch.manual_seed(size)
    x = 3 * torch.rand(6, 2, size)
    results = []
    for backend, device in (("torch", "cpu"), ("cupy", DEVICE)):
        node = neuron.LIFNode(
            3.0, surrogate_function=surrogate.ATan(), step_mode="m", backend=backend, store_v_seq=True
        )
        inputs = x.clone().to(device).requires_grad_()
        first, second = node(inputs), node(inputs)  # the state is kept between calls
        (first.sum() + second.square().sum() + node.v_seq.sum()).backward()
        results.append([a.detach().cpu() for a in (first, second, node.v, node.v_seq, inputs.grad)])
        functional.reset_net(node)
    moved = 0
    for a, b in zip(*results, strict=True):
        moved += int((~torch.isclose(a, b, rtol=1e-4, atol=1e-5)).sum())
    assert moved <= size // 5000  # values after a spike that a tie at the threshold moved


def test_half_precision_is_read_and_written_but_not_computed_in():
    torch.manual_seed(0)
    spec, x = spec_of(tau=3.0), (2 * torch.randn(50, 64, 333)).half().to(DEVICE).requires_grad_()
    fired, v, _ = neuron_cuda.multi_step(x, 0.0, spec, False)
    (fired.float().sum() + v.square().mean()).backward()
    wide = x.detach().float().requires_grad_()
    exact, exact_v, exact_seq = neuron_cuda.multi_step(wide, 0.0, spec, True)
    (exact.sum() + exact_v.square().mean()).backward()
    assert fired.dtype == x.grad.dtype == torch.float16 and v.dtype == torch.float32
    assert torch.equal(fired.float(), exact) and torch.equal(v, exact_v)
    assert torch.equal(neuron_cuda.multi_step(x.detach(), 0.0, spec, True)[2], exact_seq)
    error = ((x.grad.float() - wide.grad).abs() / wide.grad.abs().clamp(min=1e-3)).max().item()
    print(f"float16 neurons: spikes and V as in float32, gradients within {error:.1e}")
    assert error < 2e-3


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
    plain = neuron_cuda.multi_step(current, 0.0, spec, False)[0]
    graph, start = torch.cuda.CUDAGraph(), torch.zeros(1000, device=DEVICE)
    with torch.no_grad(), torch.cuda.graph(graph):
        graphed = neuron_cuda.multi_step(current, start, spec, False)[0]
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
    command = [sys.executable, str(ROOT / "scripts" / "gpu_marks.py"), str(tmp_path)]
    command += ["-dataset", "digits", "-epochs", "2"]
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
    from snn_mnist.training.interruption import Interruption

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
