"""The CUDA backend on a GPU: what the tests with the fixture `target` do not show. All of them:
`bash scripts/test_gpu.sh`, which ends with a table."""

from pathlib import Path

import pytest
import torch

from snn_mnist.core import functional, neuron
from snn_mnist.kernels.cuda import fused as fused_cuda
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.network import fused_steps
from tests.support.kernel_checks import KEY, images_of, spec_of

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda")


@pytest.fixture(autouse=True)
def skip_without_kernels():
    reason = cuda.why_unavailable(DEVICE)
    if reason:
        pytest.skip(reason)


def on_device(images):
    return fused_cuda.active_pixels(images.to(DEVICE))


def test_start_up_check():
    fused_steps.start_up_error.cache_clear()
    assert fused_steps.start_up_error(DEVICE) is None


def test_a_step_never_waits_for_the_device():
    active, index = on_device(images_of(64, active=150)), torch.arange(64).to(DEVICE)
    weight, upstream = torch.zeros(10, 784, device=DEVICE), torch.ones(64, 10, device=DEVICE)
    rate, gradient, table = upstream.clone(), weight.clone(), torch.empty(64, *weight.shape, device=DEVICE)
    for attempt in range(2):
        torch.cuda.set_sync_debug_mode("error" if attempt else "default")  # the first time it compiles
        try:
            fused_cuda.learn(weight, active, index, 100, KEY, spec_of(), torch.float32, rate, table)
            fused_cuda.weight_gradient(active, index, upstream, table, spec_of(), 100, gradient)
        finally:
            torch.cuda.set_sync_debug_mode("default")


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
    graph, start = torch.cuda.CUDAGraph(), torch.zeros(1000, device=DEVICE)
    plain = fused_cuda.multi_step(current, start, spec, False)[0]
    with torch.no_grad(), torch.cuda.graph(graph):
        graphed = fused_cuda.multi_step(current, start, spec, False)[0]
    graph.replay()
    assert torch.equal(plain, graphed)


# ---- the program ----


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
    "settings",
    [{}, {"amp": True}, {"opt": "sgd", "lr": 1.0, "amp": True}, {"ema": 0.9, "val": 200, "schedule": "cosine"}]
    + [{"backend": "torch", "amp": amp} for amp in (False, True)],
    ids=str,
)
def test_resumed_is_uninterrupted_and_learns(tmp_path, settings):
    weight, rows = run_on("cuda", tmp_path / "whole", 4, **settings)
    run_on("cuda", tmp_path / "cut", 2, **settings)
    (folder,) = (tmp_path / "cut").iterdir()
    backend = settings.get("backend", "cupy")
    resumed, resumed_rows = run_on("cuda", tmp_path / "cut", 4, resume=str(folder), backend=backend)
    if backend == "cupy":  # not torch, whose sums on a GPU have no fixed order
        assert torch.equal(weight, resumed) and rows == resumed_rows
    assert rows[-1]["test_acc"] > 0.85 and resumed_rows[-1]["test_acc"] > 0.85 and weight.isfinite().all()
