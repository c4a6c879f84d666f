"""What fused kernels must give: those of the CPU, and those of CUDA on a GPU and on the host."""

import torch

from snn_mnist.kernels import spikes as torch_spikes
from snn_mnist.kernels.cpu import fused as fused_cpu
from snn_mnist.kernels.cpu import jit, spikes
from snn_mnist.network.compiled_steps import CompiledSteps, FusedSGD
from snn_mnist.network.training_steps import Training
from tests.support.neurons import GRID, KEY, equations, images_of, spec_of

HALF, FULL = torch.float16, torch.float32  # what the weights are rounded to
EXPLODED = 1e6  # a gradient of that size has grown through the resets, and the rounding errors of float32 with it


def training_of(weight, optimizer, steps, batch, T, scaler, average=None):
    """What training steps are made of, on the weight's device."""
    rates = torch.zeros(steps * batch, len(weight), device=weight.device)
    skipped = torch.zeros((), dtype=torch.int64, device=weight.device)
    return Training(steps, batch, T, optimizer, scaler, False, average, rates, skipped)


class _Rate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, rate, gradient):
        ctx.gradient = gradient
        return rate.clone()

    @staticmethod
    def backward(ctx, upstream):
        return ctx.gradient(upstream.float().contiguous()), None, None


def firing_rate(kernels, weight, active, index, steps, key, spec, precision=FULL):
    """Firing rates [N, C] of the images `index`, differentiable: a training step's two halves, or on the CPU one step.

    After a first step of SGD the momentum is the gradient; the targets are chosen to give the upstream gradient.
    """
    values = weight.detach()

    def one_step(targets):
        labels = torch.zeros(len(active.offsets) - 1, len(weight))
        labels[index] = targets
        learned, rates = values.clone(), torch.zeros(len(index), len(weight))
        sgd = FusedSGD(learned, momentum=0.9)
        training = Training(1, len(index), steps, sgd, None, False, None, rates, torch.zeros(()))
        run = CompiledSteps(learned, active, labels, spec, precision, training)
        run.begin(key, index, [0.0])
        run.run(0, 1)
        return rates, sgd.state[learned]["momentum_buffer"]

    if kernels is fused_cpu:
        rate, _ = one_step(torch.zeros(len(index), len(weight)))
        return _Rate.apply(weight, rate, lambda upstream: one_step(rate - upstream * rate.numel() / 2)[1])
    rate = torch.empty(len(index), len(weight), device=weight.device)
    eligibility = kernels.new_eligibility(active, len(index), weight.shape)
    kernels.learn(values, active, index, steps, key, spec, precision, rate, eligibility)

    def gradient(upstream):
        out = torch.empty_like(values)
        kernels.weight_gradient(active, index, upstream, eligibility, spec, steps, out)
        return out

    return _Rate.apply(weight, rate, gradient)


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


def check_fused(kernels, spec, *args, **kwargs):
    """Against the equations in float64, neurons that came near their threshold aside; the number of those."""
    rate, gradient, exact_rate, exact_gradient, tied = fused_and_exact(kernels, spec, *args, **kwargs)
    assert torch.allclose(rate.double()[~tied], exact_rate[~tied], atol=1e-6)
    if not tied.any():
        size = exact_gradient.norm()
        error = (gradient - exact_gradient).norm() / size.clamp(min=1e-12)
        # float32 cosines of large arguments differ by processor: 1.27e-5 was seen on arm64
        bound = 2e-5 if spec.surrogate == "squarewave_fourier_series" else 1e-5
        assert error < (bound if size < EXPLODED else 1e-3), error
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


def check_fused_at_the_threshold(kernels, v_reset, device="cpu"):
    """Rates and gradients where potentials lie exactly at the threshold; all numbers are sums of powers of two."""
    generator = torch.Generator().manual_seed(5)
    images = torch.zeros(6, 784, dtype=torch.uint8)
    images[:, 100:104], images[1:, 300:304] = 255, 128
    weight = torch.zeros(10, 784)
    weight[:, 100] = 2.0  # alone it takes V from 0 to the threshold: H = V + (X - V) / 2
    weight[5:, 101] = torch.tensor([-1.0, -0.5, 0.5, 1.0, 2.0])
    weight[:, 300:304] = torch.randint(-2, 3, (10, 4), generator=generator) / 2
    index, upstream = torch.arange(6), torch.randn(6, 10, generator=generator)
    spec, steps = spec_of(v_reset=v_reset), 10
    learned = weight.clone().to(device).requires_grad_()
    rate = firing_rate(kernels, learned, kernels.active_pixels(images.to(device)), index, steps, KEY, spec)
    (rate * upstream.to(device)).sum().backward()
    exact = weight.double().requires_grad_()
    inputs = spikes.encode(images, index, 0, steps, KEY).double()
    start = torch.full((6, 10), v_reset or 0.0, dtype=torch.float64)
    fired, _, margins = equations(inputs @ exact.t(), start, spec)
    (fired.mean(0) * upstream).sum().backward()
    assert (margins == 0).sum() > 50
    assert torch.equal(rate.detach().cpu(), fired.mean(0).detach().float())
    assert (learned.grad.cpu() - exact.grad).norm() < 1e-5 * exact.grad.norm()


def check_multi_step_at_the_threshold(kernels, v_reset, device="cpu"):
    """Spikes, potentials and gradients of multi-step neurons whose H lies exactly at the threshold."""
    generator = torch.Generator().manual_seed(6)
    x64 = (torch.randint(-2, 7, (9, 3, 70), generator=generator) / 2).double()
    x64[:, 0] = 2.0
    x64.requires_grad_()
    v64 = torch.full((3, 70), v_reset or 0.0, dtype=torch.float64)
    spec, weights = spec_of(v_reset=v_reset), torch.randn(9, 3, 70, dtype=torch.float64, generator=generator)
    x = x64.detach().to(device, torch.float32).requires_grad_()
    fired, _, v_seq = kernels.multi_step(x, v64.to(device, torch.float32), spec, True)
    ((fired + v_seq).double() * weights.to(device)).sum().backward()
    exact, potentials, margins = equations(x64, v64, spec)
    ((exact + potentials) * weights).sum().backward()
    assert (margins == 0).sum() > 100
    assert torch.equal(fired.cpu().double(), exact) and torch.equal(v_seq.cpu().double(), potentials)
    assert (x.grad.cpu().double() - x64.grad).norm() < 2e-5 * x64.grad.norm()


def check_counts_in_sizes(kernels, host_device="cpu", sizes=(1, 15, 16, 17, 63, 64, 65, 100, 127, 128, 129, 200, 257)):
    """Input and output spikes for T on both sides of every block (16), word (32, 64) and span (128); ties frequent."""
    images = torch.full((3, 784), 100, dtype=torch.uint8)
    images[1, ::2], images[2, ::3], images[2, 1::3] = 255, 0, 1
    index, spec = torch.tensor([2, 0, 1]), spec_of()
    weight = 0.1 * torch.randn(10, 784, generator=torch.Generator().manual_seed(7))
    active = kernels.active_pixels(images.to(host_device))
    for steps in sizes:
        counts, inputs = kernels.firing_counts(weight.to(host_device), active, index, [steps], KEY, spec)
        spiking = torch_spikes.encode(images[index], index, 0, steps, KEY)
        assert torch.equal(inputs.cpu(), spiking.sum((0, 2)).long()), steps
        start = torch.zeros(3, 10, dtype=torch.float64)
        fired, _, margins = equations(spiking.double() @ weight.double().t(), start, spec)
        clear = ~(margins < 1e-5).any(0)
        assert clear.sum() >= 27 and torch.equal(counts[:, 0].cpu().double()[clear], fired.sum(0)[clear]), steps
        assert fired.mean() > 0.05 or steps < 63, "so many spikes that a lost one of the input shows"


def thread_counts(most=4):
    """Let kernels run on 1, 2, … threads in turn, more than this machine may have."""
    before = jit.get_threads()
    try:
        for jit._threads in range(1, most + 1):
            yield jit._threads
    finally:
        jit._threads = before
