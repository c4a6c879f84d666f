"""The kernels of every backend against one another and the equations in float64: numba's, and CUDA's on the host, where
g++ compiles their source, and on a GPU. Sizes go well beyond one block, and odd ones are among them.

What the host cannot show: that a GPU runs them, and how fast. A phase that depends on the order of its threads shows
here, where they run upwards and downwards; a missing barrier in test_cuda_sanitized.py.
"""

import math

import numba
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from snn_mnist.core import functional, neuron, surrogate
from snn_mnist.kernels import spikes
from snn_mnist.kernels.cpu import fused as fused_cpu
from snn_mnist.kernels.cpu import spikes as spikes_cpu
from snn_mnist.kernels.cpu.training import round_to_bfloat16
from snn_mnist.kernels.cuda import fused as fused_cuda
from snn_mnist.kernels.formulas import FORMULAS
from snn_mnist.kernels.spikes import SpikeKey
from tests.support.kernel_checks import GRID, KEY, equations, firing_rate, images_of, spec_of, weight_of

EXPLODED = 1e6  # a gradient of that size has grown through the resets, and the rounding errors of float32 with it
FULL = torch.float32


# ---- spikes ----


@pytest.mark.parametrize(
    ("n", "pixels", "start", "steps"),
    [
        (1, 1, 0, 300), (2, 2000, 0, 128), (2, 2000, 128, 200), (3, 784, 16, 1), (3, 784, 0, 100), (3, 784, 0, 15),
        (3, 784, 48, 65), (5, 33, 112, 129), (4, 97, 2**31 - 64, 63), (1, 20_000, 0, 144),
    ],
)  # fmt: skip
def test_spikes_are_the_references_bit_for_bit(target, n, pixels, start, steps):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, pixels), dtype=torch.uint8, generator=generator)
    images[:, ::3], images[:, 1::7] = 0, 255
    if pixels >= 2000:
        images.random_(1, 255, generator=generator)  # more ties in an image than are listed at a time
    elif n > 2:
        images[1] = 0
    index, key = torch.arange(n).flip(0), SpikeKey(2**32 - 1, 5, 4_000_000_000)
    expected = spikes.encode(images[index], index, start, start + steps, key)
    for _ in target.again():
        if target.name == "numba":
            got = spikes_cpu.encode(images[index], index, start, start + steps, key)
        else:
            got = fused_cuda.encode(target.active(images), index, start, start + steps, key)
        assert torch.equal(got.cpu(), expected)


# ---- the fused pass ----


def check_fused(target, spec, n, steps, active=40, outputs=10, seed=0, rounded=False, scale=0.15):
    """Rates and gradient against the equations, neurons that came near their threshold aside; the number of those."""
    images, index, precision = images_of(n, active, seed), torch.arange(n).flip(0), target.half if rounded else FULL
    weight, upstream = weight_of(scale, outputs, seed), torch.randn(n, outputs)
    learned = weight.to(target.device, copy=True).requires_grad_()
    rate = firing_rate(target.fused, learned, target.active(images), index, steps, KEY, spec, precision)
    (rate * upstream.to(target.device)).sum().backward()
    exact = weight.to(precision).double().requires_grad_()
    inputs = spikes_cpu.encode(images[index], index, 0, steps, KEY).double()
    start = torch.full((n, outputs), spec.v_reset or 0.0, dtype=torch.float64)
    fired, _, margins = equations(inputs @ exact.t(), start, spec)
    (fired.mean(0) * upstream).sum().backward()
    tied = (margins < 1e-5).any(0)  # a neuron that came this near to its threshold may differ from there on
    assert torch.allclose(rate.detach().cpu().double()[~tied], fired.mean(0)[~tied], atol=1e-6)
    if not tied.any():
        size = exact.grad.norm()
        error = (learned.grad.cpu() - exact.grad).norm() / size.clamp(min=1e-12)
        # float32 cosines of large arguments differ by processor: 1.27e-5 was seen on arm64
        bound = 2e-5 if spec.surrogate == "squarewave_fourier_series" else 1e-5
        assert error < (bound if size < EXPLODED else 1e-3), error
    return int(tied.sum())


@pytest.mark.parametrize("name", FORMULAS)
def test_every_surrogate_with_every_reset_and_leak(target, name):
    ties = 0
    for i, (decay_input, v_reset, detach) in target.some(enumerate(GRID), name):
        tau = (2.0, 1.1, None, 7.5)[i % 4]
        spec = spec_of(name, decay_input=decay_input, v_reset=v_reset, detach=detach, tau=tau)
        ties += check_fused(target, spec, 5, 37, seed=i)
    assert ties <= 4  # so the gradient was compared nearly every time


@pytest.mark.parametrize(
    ("n", "steps", "active", "outputs", "rounded"),
    [
        (1, 1, 40, 10, False), (3, 129, 300, 10, True), (130, 17, 250, 10, False), (65, 16, 90, 1, False),
        (2, 300, 780, 17, False), (1, 2000, 700, 10, False), (9, 32, 0, 4, True), (7, 64, 60, 128, False),
    ],
)  # fmt: skip
def test_fused_pass_in_many_sizes(target, n, steps, active, outputs, rounded):
    ties = check_fused(target, spec_of(), n, steps, active, outputs, seed=n, rounded=rounded, scale=0.1)
    assert ties <= max(4, n * outputs // 20)


@pytest.mark.parametrize("v_reset", [0.0, None, -0.5])
def test_potentials_exactly_at_the_threshold(target, v_reset):
    """All numbers are sums of powers of two."""
    generator, spec, device = torch.Generator().manual_seed(5), spec_of(v_reset=v_reset), target.device
    images, index = torch.zeros(6, 784, dtype=torch.uint8), torch.arange(6)
    images[:, 100:104], images[1:, 300:304] = 255, 128
    weight, upstream = torch.zeros(10, 784), torch.randn(6, 10, generator=generator)
    weight[:, 100] = 2.0  # alone it takes V from 0 to the threshold: H = V + (X - V) / 2
    weight[5:, 101] = torch.tensor([-1.0, -0.5, 0.5, 1.0, 2.0])
    weight[:, 300:304] = torch.randint(-2, 3, (10, 4), generator=generator) / 2
    learned, exact = weight.to(device, copy=True).requires_grad_(), weight.double().requires_grad_()
    rate = firing_rate(target.fused, learned, target.active(images), index, 10, KEY, spec)
    (rate * upstream.to(device)).sum().backward()
    current = spikes_cpu.encode(images, index, 0, 10, KEY).double() @ exact.t()
    fired, _, margins = equations(current, torch.full((6, 10), v_reset or 0.0, dtype=torch.float64), spec)
    (fired.mean(0) * upstream).sum().backward()
    assert (margins == 0).sum() > 50 and torch.equal(rate.detach().cpu(), fired.mean(0).detach().float())
    assert (learned.grad.cpu() - exact.grad).norm() < 1e-5 * exact.grad.norm()

    x64 = (torch.randint(-2, 7, (9, 3, 70), generator=generator) / 2).double()
    x64[:, 0] = 2.0
    x, v64 = x64.to(device, FULL).requires_grad_(), torch.full((3, 70), v_reset or 0.0, dtype=torch.float64)
    x64.requires_grad_()
    weights = torch.randn(9, 3, 70, dtype=torch.float64, generator=generator)
    fired, _, v_seq = target.neuron.multi_step(x, v64.to(device, FULL), spec, True)
    ((fired + v_seq).double() * weights.to(device)).sum().backward()
    expected, potentials, margins = equations(x64, v64, spec)
    ((expected + potentials) * weights).sum().backward()
    assert (margins == 0).sum() > 100
    assert torch.equal(fired.cpu().double(), expected) and torch.equal(v_seq.cpu().double(), potentials)
    assert (x.grad.cpu().double() - x64.grad).norm() < 2e-5 * x64.grad.norm()


@pytest.mark.parametrize("v_reset", [0.0, None])
def test_bits_in_all_circumstances_and_on_the_cpu(target, v_reset):
    """Rates, gradient and counts at readout steps; each readout step alone gives the same. Tau 2: the roundings of all
    kernels are the same, and on a GPU a few rates may differ by a tie at the threshold."""
    images, index, spec = images_of(40, active=250), torch.arange(40).flip(0), spec_of(v_reset=v_reset)
    weight, readout_steps = weight_of(0.1, seed=4), [1, 10, 100, 128, 140, 300]

    def results(kernels, device):
        active, learned = kernels.active_pixels(images.to(device)), weight.to(device, copy=True).requires_grad_()
        rate = firing_rate(kernels, learned, active, index, 100, KEY, spec)
        rate.square().sum().backward()
        counts, inputs = kernels.firing_counts(learned.detach(), active, index, readout_steps, KEY, spec)
        assert torch.equal(rate.detach(), counts[:, 2] / 100)
        alone, _ = kernels.firing_counts(learned.detach(), active, index, readout_steps[3:4], KEY, spec)
        assert torch.equal(alone[:, 0], counts[:, 3])
        return [tensor.detach().cpu() for tensor in (rate, counts, inputs, learned.grad)]

    first, *others = [results(target.fused, target.device) for _ in target.again()]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
    (_, counts, inputs, gradient), expected = first, results(fused_cpu, torch.device("cpu"))
    assert torch.equal(inputs, expected[2]) and inputs.sum() > 10_000 and counts.sum() > 100
    different = int((counts != expected[1]).sum())
    error = float((gradient - expected[3]).norm() / gradient.norm())
    print(f"{different} of {counts.numel()} counts differ from the CPU's, gradient by {error:.1e}")
    assert different <= 5 and (counts - expected[1]).abs().max() <= 1
    assert different or error < 1e-5


def test_what_does_not_fit_is_an_error(target):
    active, index, weight = target.active(images_of(2)), torch.arange(2), torch.zeros(129, 784, device=target.device)
    if target.name != "numba":
        with pytest.raises(ValueError, match=r"at most 128.*use -backend torch"):
            target.fused.firing_counts(weight, active, index, [1], KEY, spec_of())


def test_nothing_to_compute(target):
    for shape in ((4, 0, 3), (0, 2, 3)):
        start = torch.full(shape[1:], 0.5)
        out, v, _ = target.neuron.multi_step(torch.zeros(shape, device=target.device), start, spec_of(), False)
        assert out.shape == shape and v.shape == shape[1:] and (v == 0.5).all()


# ---- multi-step neurons ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_multi_step_neuron_against_the_equations(target, name, dtype):
    """Every kind of reset and leak, in sizes odd and beyond a block."""
    torch.manual_seed(0)
    tolerance = 2e-5 if dtype is FULL else 1e-11
    for i, (decay_input, v_reset, detach) in target.some(enumerate(GRID), name):
        tau = None if i % 4 == 3 else 1.7
        spec = spec_of(name, tau=tau, decay_input=decay_input, v_reset=v_reset, detach=detach)
        shape = [(11, 3, 5), (1, 1), (40, 7), (5, 2, 3, 40), (8, 129), (17, 1025)][i % 6]
        x64 = (2 * torch.randn(shape, dtype=torch.float64)).to(dtype).double().requires_grad_()
        v64 = (0.3 * torch.randn(shape[1:], dtype=torch.float64)).to(dtype).double().requires_grad_()
        weights = [torch.randn(s, dtype=torch.float64) for s in (shape, shape[1:], shape)]
        x, v = (a.detach().to(target.device, dtype).requires_grad_() for a in (x64, v64))
        out = target.neuron.multi_step(x, v, spec, True)
        sum((o.double() * w.to(target.device)).sum() for o, w in zip(out, weights, strict=True)).backward()
        fired, potentials, margins = equations(x64, v64, spec)
        loss = (fired * weights[0]).sum() + (potentials[-1] * weights[1]).sum() + (potentials * weights[2]).sum()
        loss.backward()
        if margins.min() < 1e-6:
            assert dtype is FULL  # a neuron at its threshold: float32 may decide otherwise
            continue
        assert torch.equal(out[0].cpu().double(), fired.detach())
        assert torch.allclose(out[2].cpu().double(), potentials.detach(), atol=tolerance)
        for got, expected in ((x.grad, x64.grad), (v.grad, v64.grad)):
            assert (got.cpu().double() - expected).norm() <= tolerance * expected.norm().clamp(min=1)


def test_half_precision_is_read_and_written_but_not_computed_in(target):
    torch.manual_seed(0)
    spec = spec_of(tau=3.0)
    for dtype in (torch.float16, torch.bfloat16):
        x = (2 * torch.randn(50, 4, 33)).to(dtype).to(target.device).requires_grad_()
        for store_v_seq in (False, True):
            x.grad = None
            fired, v, v_seq = target.neuron.multi_step(x, torch.zeros(4, 33), spec, store_v_seq)
            (fired.float().sum() + (v_seq if store_v_seq else v).square().sum()).backward()
            wide = x.detach().float().requires_grad_()
            exact, exact_v, exact_seq = target.neuron.multi_step(wide, torch.zeros(4, 33), spec, store_v_seq)
            (exact.sum() + (exact_seq if store_v_seq else exact_v).square().sum()).backward()
            assert fired.dtype == x.grad.dtype == dtype and v.dtype == FULL and fired.any()
            assert torch.equal(fired.float(), exact) and torch.equal(v, exact_v)
            assert torch.equal(v_seq, exact_seq) if store_v_seq else v_seq is None
            assert torch.allclose(x.grad.float(), wide.grad, rtol=2e-3 if dtype == torch.float16 else 1e-2, atol=1e-4)


@pytest.mark.parametrize("v_reset", [0.0, None])
def test_an_infinite_input_leaves_a_finite_potential(target, v_reset):
    """As in the modules of core, see tests/core/test_neuron.py."""
    x = torch.full((6, 2, 3), 0.7)
    x[1, 0, 0], x[3, 1, 2], x[2, 0, 1] = math.inf, -math.inf, math.nan
    node = neuron.LIFNode(v_reset=v_reset, step_mode="m", store_v_seq=True, surrogate_function=surrogate.ATan())
    expected = node(x)
    found = target.neuron.multi_step(x.to(target.device), torch.zeros(2, 3), node.spec(), True)
    out, v, v_seq = (a.cpu() for a in found)
    assert torch.equal(out, expected)
    torch.testing.assert_close(v_seq, node.v_seq, equal_nan=True)
    assert v.isfinite().sum() == 5 and v.isnan()[0, 1]


def test_second_derivatives_are_refused_instead_of_wrong(target):
    """torch differentiates the gradient again, through the slope of the surrogate too; the kernels can't."""
    x = torch.randn(4, 3, 5, device=target.device, requires_grad=True)
    fired, *_ = target.neuron.multi_step(x, torch.zeros(3, 5), spec_of(), False)
    with pytest.raises(RuntimeError, match=r"second derivatives.*set_backend\(net, 'torch'\)"):
        torch.autograd.grad(fired.sum(), x, create_graph=True)


# ---- what only the CPU's kernels have ----


def test_kernels_on_several_threads_run_in_a_forked_process():
    """Their input is not contiguous."""
    node, x = neuron.LIFNode(step_mode="m", backend="numba"), (3 * torch.rand(100_000, 3)).t()

    def fired(_):
        functional.reset_net(node)
        return node(x)

    here = fired(None)
    for there in DataLoader([0, 1], collate_fn=fired, num_workers=1, multiprocessing_context="fork"):
        assert torch.equal(there, here)
    assert (here != neuron.LIFNode(step_mode="m")(x)).sum() <= 10  # ties at the threshold


def test_bfloat16_rounding_is_torchs():
    """Each upper half of a float32 with lower halves at a tie and beside it: ties go to the even neighbour."""

    @numba.njit
    def rounded(weights, target):
        round_to_bfloat16(0, len(weights), weights, target)
        return target

    high = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        weights = (high | np.uint32(low)).view(np.float32)
        found, expected = rounded(weights, np.zeros_like(weights)), torch.from_numpy(weights).bfloat16().float()
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=0, equal_nan=True)
