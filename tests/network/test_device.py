"""Which device and backend a run gets, and the start-up check of the CUDA backend."""

import pytest
import torch

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.kernels.cpu import jit
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.network import fused_steps
from snn_mnist.network.engine import choose_backend, choose_runtime
from snn_mnist.settings.config import Config
from snn_mnist.storage import environment
from tests.support.cuda_machine import cupy_with, pretend_machine, raising

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_choices_on_each_device(monkeypatch):
    """`auto` takes the fused backend, or torch where that can't be used; an explicit choice is refused instead."""
    assert choose_backend("auto", CPU, Config()) == ("numba", "the fused CPU backend")
    assert choose_backend("torch", CPU, Config()) == ("torch", "as requested")
    assert choose_runtime("cpu", "auto", 1, Config(step_mode="s")).backend == "torch"
    pretend_machine(monkeypatch, cupy_with())
    for name, device, kernels in (("cupy", CPU, "a CUDA device, not on cpu"), ("numba", GPU, "the CPU, not on cuda")):
        with pytest.raises(UsageError, match=rf"'{name}' can't be used: {name}'s kernels run on {kernels}; use .*auto"):
            choose_backend(name, device, Config())
    for found, chosen in ((None, "cupy"), ("the spikes differ", "torch")):
        monkeypatch.setattr(fused_steps, "start_up_error", lambda device, found=found: found)
        reason = f"cupy can't be used: {found}" if found else "the fused CUDA backend"
        assert choose_backend("auto", GPU, Config()) == (chosen, reason)
    with pytest.raises(UsageError, match="the spikes differ"):
        choose_backend("cupy", GPU, Config())
    assert choose_backend("torch", GPU, Config()) == ("torch", "as requested")
    monkeypatch.setattr(jit.numba.config, "DISABLE_JIT", 1)
    with pytest.raises(UsageError, match=r"backend 'numba' can't be used: .*NUMBA_DISABLE_JIT is set; unset it"):
        choose_backend("numba", CPU, Config())


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU here")
def test_auto_says_why_a_gpu_is_left_unused(monkeypatch):
    """There is a driver, and torch can't use it: torch's own reason is shown, unless the CPU was requested."""
    monkeypatch.setattr(cuda, "device_error", lambda: "torch can't use a CUDA device: the driver is too old")
    monkeypatch.setattr(environment, "has_nvidia_driver", lambda: True)
    assert choose_runtime("auto", "auto", 1).reason == (
        "the fused CPU backend; no GPU is used: torch can't use a CUDA device: the driver is too old"
    )
    assert choose_runtime("cpu", "auto", 1).reason == "the fused CPU backend"
    with pytest.raises(UsageError, match=r"-device cuda: .*the driver is too old; use -device cpu"):
        choose_runtime("cuda", "auto", 1)
    monkeypatch.setattr(environment, "has_nvidia_driver", lambda: False)
    assert choose_runtime("auto", "auto", 1).reason == "the fused CPU backend"


# ---- the start-up check ----


def test_start_up_check_passes_and_notices(host, monkeypatch):
    fused_steps.start_up_error.cache_clear()
    assert fused_steps.start_up_error(CPU) is None

    def damaged(target, replacement):
        def load(text, name, device):
            assert text.count(target) >= 1
            return host.load(text.replace(target, replacement), name, device)

        fused_steps.start_up_error.cache_clear()
        monkeypatch.setattr(cuda, "load", load)
        return fused_steps.start_up_error(CPU)

    assert "spikes differ" in damaged("0xCD9E8D57u", "0xCD9E8D59u")
    assert "counts differ" in damaged("h >= n.threshold", "h > n.threshold + (real)0.01")
    assert "gradient by" in damaged("scale = neuron.gain /", "scale = 1.001f * neuron.gain /")
    assert "failed: fused takes" in damaged("KERNEL(THREADS) fused(", "KERNEL(THREADS) fused(float one_more, ")
    fused_steps.start_up_error.cache_clear()


def test_a_faulting_kernel_ends_the_run(monkeypatch):
    """It invalidates the process's CUDA context: `auto` must not go on with torch on that device."""

    monkeypatch.setattr(fused_steps, "_wrong_results", raising(RuntimeError("an illegal memory access")))
    fused_steps.start_up_error.cache_clear()
    assert fused_steps.start_up_error(CPU) == "its start-up check failed: an illegal memory access"
    fused_steps.start_up_error.cache_clear()
    monkeypatch.setattr(torch, "zeros", raising(RuntimeError("CUDA error")))  # no longer works after the kernels
    with pytest.raises(SNNError, match=r"cuda can't be used \(an illegal memory access\).*use -backend torch"):
        fused_steps.start_up_error(GPU)
