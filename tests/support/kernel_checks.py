"""What fused kernels must give: those of the CPU, and those of CUDA on a GPU and on the host."""

import torch

from snn_mnist.kernels.autograd import firing_rate
from snn_mnist.kernels.cpu import spikes
from tests.support.neurons import GRID, KEY, equations, images_of, spec_of

HALF, FULL = torch.float16, torch.float32  # what the weights are rounded to
EXPLODED = 1e6  # a gradient of that size has grown through the resets, and the rounding errors of float32 with it


def fused_and_exact(kernels, spec, n, steps, active=40, outputs=10, seed=0, rounded=False, device="cpu", scale=0.15):
    """Rates and gradients of the kernel, and of the equations in float64; whether a neuron came near its threshold."""
    images, index = images_of(n, active, seed), torch.arange(n).flip(0)
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(outputs, 784, generator=generator)
    upstream = torch.randn(n, outputs, generator=generator)
    learned = weight.clone().to(device).requires_grad_()
    pixels = kernels.active_pixels(images.to(device))
    rate = firing_rate(kernels, learned, pixels, index, steps, KEY, spec, HALF if rounded else FULL)
    (rate * upstream.to(device)).sum().backward()
    exact = (weight.half() if rounded else weight).double().requires_grad_()
    inputs = spikes.encode(images[index], index, 0, steps, KEY).double()
    start = torch.full((n, outputs), spec.v_reset or 0.0, dtype=torch.float64)
    fired, _, margins = equations(inputs @ exact.t(), start, spec)
    (fired.mean(0) * upstream).sum().backward()
    tied = (margins < 1e-5).any(0)  # a neuron that came this near to its threshold may differ from there on
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


def check_surrogate(kernels, name, device="cpu"):
    """The fused pass with this surrogate and every kind of reset and leak."""
    ties = 0
    for i, (decay_input, v_reset, detach) in enumerate(GRID):
        tau = (2.0, 1.1, None, 7.5)[i % 4]
        spec = spec_of(name, decay_input=decay_input, v_reset=v_reset, detach=detach, tau=tau)
        ties += check_fused(kernels, spec, 5, 37, seed=i, device=device)
    assert ties <= 4  # so the gradient was compared nearly every time


def check_multi_step(kernels, name, dtype, device="cpu"):
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
        out = kernels.multi_step(x, v, spec, True)
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
