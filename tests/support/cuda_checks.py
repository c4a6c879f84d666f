"""What the CUDA kernels must give on a GPU (test_cuda_gpu.py) and on the host (test_cuda_host.py)."""

import torch

from snn_mnist.kernels import spikes
from snn_mnist.kernels.cuda import fused as fused_cuda
from snn_mnist.kernels.cuda import neuron as neuron_cuda
from tests.kernels.test_fused_cpu import DRAW, GRID, equations, images_of, spec_of

HALF, FULL = torch.float16, torch.float32  # what the weights are rounded to
EXPLODED = 1e6  # a gradient of that size has grown through the resets, and with it the rounding of any float32


def fused_and_exact(spec, n, steps, active=40, outputs=10, seed=0, rounded=False, device="cpu"):
    """Rates and gradients of the kernel, and of the equations in float64; whether a neuron came near its threshold."""
    images, index = images_of(n, active, seed), torch.arange(n).flip(0)
    generator = torch.Generator().manual_seed(seed)
    weight = 0.15 * torch.randn(outputs, 784, generator=generator)
    upstream = torch.randn(n, outputs, generator=generator)
    learned = weight.clone().to(device).requires_grad_()
    pixels = fused_cuda.active_pixels(torch.from_numpy(images).to(device))
    rate = fused_cuda.firing_rate(learned, pixels, index, steps, DRAW, spec, HALF if rounded else FULL)
    (rate * upstream.to(device)).sum().backward()
    exact = (weight.half() if rounded else weight).double().requires_grad_()
    inputs = torch.from_numpy(spikes.encode(images[index.numpy()], index.numpy(), 0, steps, DRAW)).double()
    start = torch.full((n, outputs), spec.v_reset or 0.0, dtype=torch.float64)
    fired, _, margins = equations(inputs @ exact.t(), start, spec)
    (fired.mean(0) * upstream).sum().backward()
    tied = (margins < 1e-5).any(0)
    return rate.detach().cpu(), learned.grad.cpu(), fired.mean(0).detach(), exact.grad, tied


def check_fused(*args, **kwargs):
    """Against the equations in float64, neurons that came near their threshold aside; the number of those."""
    rate, gradient, exact_rate, exact_gradient, tied = fused_and_exact(*args, **kwargs)
    assert torch.allclose(rate.double()[~tied], exact_rate[~tied], atol=1e-6)
    if not tied.any():
        size = exact_gradient.norm()
        error = (gradient - exact_gradient).norm() / size.clamp(min=1e-12)
        assert error < (1e-5 if size < EXPLODED else 1e-3), error
    return int(tied.sum())


def check_surrogate(name, device="cpu"):
    """The fused pass with this surrogate and every kind of reset and leak."""
    ties = 0
    for i, (decay_input, v_reset, detach) in enumerate(GRID):
        tau = (2.0, 1.1, None, 7.5)[i % 4]
        spec = spec_of(name, decay_input=decay_input, v_reset=v_reset, detach=detach, tau=tau)
        ties += check_fused(spec, 5, 37, seed=i, device=device)
    assert ties <= 4


def check_multi_step(name, dtype, device="cpu"):
    """The multi-step neuron with this surrogate and every kind of reset and leak, in sizes odd and beyond a block."""
    torch.manual_seed(0)
    tolerance = 2e-5 if dtype is torch.float32 else 1e-11
    for i, (decay_input, v_reset, detach) in enumerate(GRID):
        tau = None if i % 4 == 3 else 1.7
        spec = spec_of(name, tau=tau, decay_input=decay_input, v_reset=v_reset, detach=detach)
        shape = [(11, 3, 5), (1, 1), (40, 7), (5, 2, 3, 40), (8, 129), (17, 1025)][i % 6]
        x64 = (2 * torch.randn(shape, dtype=torch.float64)).to(dtype).double().requires_grad_()
        v64 = (0.3 * torch.randn(shape[1:], dtype=torch.float64)).to(dtype).double().requires_grad_()
        weights = [torch.randn(s, dtype=torch.float64) for s in (shape, shape[1:], shape)]
        x, v = (a.detach().to(device, dtype).requires_grad_() for a in (x64, v64))
        out = neuron_cuda.multi_step(x, v, spec, True)
        sum((o.double() * w.to(device)).sum() for o, w in zip(out, weights, strict=True)).backward()
        fired, potentials, margins = equations(x64, v64, spec)
        loss = (fired * weights[0]).sum() + (potentials[-1] * weights[1]).sum() + (potentials * weights[2]).sum()
        loss.backward()
        if margins.min() < 1e-6:
            assert dtype is torch.float32  # a neuron at its threshold: float32 may decide otherwise
            continue
        assert torch.equal(out[0].cpu().double(), fired.detach())
        assert torch.allclose(out[2].cpu().double(), potentials.detach(), atol=tolerance)
        for got, expected in ((x.grad, x64.grad), (v.grad, v64.grad)):
            assert (got.cpu().double() - expected).norm() <= tolerance * expected.norm().clamp(min=1)
