"""The CUDA kernels under the host compiler's sanitizers, see cuda_threads.py: no race, nothing read or written beyond
its memory, no undefined behaviour, and the same bits as thread after thread."""

import pytest
import torch

from snn_mnist.kernels.cuda import fused as fused_cuda
from snn_mnist.kernels.cuda import launch as cuda
from tests.support.cuda_host import HostKernels
from tests.support.cuda_threads import MEMORY, RACES, SanitizerError, ThreadedKernels, why_not
from tests.support.kernel_checks import KEY, firing_rate, images_of, spec_of

SHARED = 232_448


@pytest.fixture(params=[RACES, MEMORY])
def checked(request, compiled_here, monkeypatch):
    """both(f): f() with the kernels thread after thread, and on real threads under the sanitizer."""
    reason = why_not(request.param, compiled_here)
    if reason:
        pytest.skip(reason)
    threaded = ThreadedKernels(compiled_here, request.param)

    def both(work):
        results = []
        for kernels in (HostKernels(compiled_here), threaded):
            monkeypatch.setattr(cuda, "load", kernels.load)
            results.append(work())
        for plain, sanitized in zip(*results, strict=True):
            assert torch.equal(plain, sanitized)
        return results[0]

    monkeypatch.setattr(cuda, "shared_limit", lambda device: SHARED)
    both.kernels = threaded
    torch.use_deterministic_algorithms(True)  # fresh tensors are full of NaN
    yield both
    torch.use_deterministic_algorithms(False)


def pictures(n, active=150):
    images = images_of(n, active)
    images[1] = 0  # an image without active pixels
    return fused_cuda.active_pixels(images)


@pytest.mark.parametrize(
    ("checked", "limit"), [(RACES, SHARED), (MEMORY, SHARED), (MEMORY, 1000)], indirect=["checked"]
)
def test_training_pass(checked, monkeypatch, limit):
    """A sample of T = 100 per block, its working memory in shared memory and in global memory."""
    monkeypatch.setattr(cuda, "shared_limit", lambda device: limit)
    active, index = pictures(3), torch.tensor([2, 1, 0])
    start = 0.15 * torch.randn(10, 784, generator=torch.Generator().manual_seed(0))

    def work():
        weight = start.clone().requires_grad_()
        rate = firing_rate(fused_cuda, weight, active, index, 100, KEY, spec_of(), torch.float16)
        rate.square().sum().backward()
        return rate.detach(), weight.grad

    rate, gradient = checked(work)
    assert rate[0].sum() > 0 and gradient.abs().sum() > 0
    assert [name for name, *_ in checked.kernels.launches] == ["fused", "contract"]


def test_forward_pass(checked):
    """Three spans of steps, the last one shorter, with readout steps inside and at their ends; soft reset."""
    active, index = pictures(2), torch.arange(2)
    weight = 0.2 * torch.randn(10, 784, generator=torch.Generator().manual_seed(1))
    spec, readout_steps = spec_of(v_reset=None), [1, 128, 140, 300]
    counts, inputs = checked(lambda: fused_cuda.firing_counts(weight, active, index, readout_steps, KEY, spec))
    assert counts.sum() > 0 and inputs[0] > 0 and inputs[1] == 0


def test_encoder(checked):
    """So many grey pixels that more tie than are listed."""
    images = torch.randint(1, 255, (1, 2000), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    active = fused_cuda.active_pixels(images)
    (spikes,) = checked(lambda: [fused_cuda.encode(active, torch.arange(1), 0, 128, KEY)])
    assert 0.4 < spikes.mean() < 0.6


def test_multi_step_neurons(checked):
    """Two blocks and a part of a third; T is no multiple of the steps loaded at a time."""
    generator = torch.Generator().manual_seed(0)
    start = (2 * torch.randn(11, 3, 90, generator=generator)).half()

    def work():
        x = start.clone().requires_grad_()
        fired, v, v_seq = fused_cuda.multi_step(x, torch.zeros(3, 90), spec_of(), True)
        (fired.sum() + v.square().sum() + v_seq.sum()).backward()
        return fired.detach(), v.detach(), v_seq.detach(), x.grad

    assert checked(work)[0].sum() > 0


A_PHASE = "EACH_THREAD(THREADS) { encode(w, key, active, stride, start, count, thread); }"
A_LOOP = "for (int j = 0; j < active; ++j) {\n            const Four row"


@pytest.mark.parametrize(
    ("sanitizer", "whole", "damaged", "found"),
    [
        (RACES, A_PHASE, A_PHASE.replace("EACH_THREAD(THREADS) {", "{ const int thread = host_thread;"), "data race"),
        (MEMORY, A_LOOP, A_LOOP.replace("j < active", "j < 1 << 12"), "heap-buffer-overflow"),
    ],
    ids=["a barrier too few", "a loop too long"],
)
def test_a_damaged_kernel_is_noticed(compiled_here, monkeypatch, sanitizer, whole, damaged, found):
    if reason := why_not(sanitizer, compiled_here):
        pytest.skip(reason)
    kernels = ThreadedKernels(compiled_here, sanitizer)

    def load(text, name, device):
        assert text.count(whole) == 1
        return kernels.load(text.replace(whole, damaged), name, device)

    monkeypatch.setattr(cuda, "load", load)
    monkeypatch.setattr(cuda, "shared_limit", lambda device: SHARED)
    active, weight = pictures(2), torch.full((10, 784), 0.1)
    with pytest.raises(SanitizerError, match=found):
        fused_cuda.firing_counts(weight, active, torch.tensor([0]), [32], KEY, spec_of())
