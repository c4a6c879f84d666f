"""The fused CPU kernels against the equations in float64, and against the modules of the core."""

from itertools import product

import numpy as np
import pytest
import torch

from snn_mnist.core import functional, neuron, surrogate
from snn_mnist.kernels import spikes
from snn_mnist.kernels.cpu import fused as fused_cpu
from snn_mnist.kernels.cpu import jit
from snn_mnist.kernels.cpu.neuron import multi_step
from snn_mnist.kernels.formulas import FORMULAS, bind
from snn_mnist.kernels.neuron_spec import NeuronSpec
from snn_mnist.model.poisson import SpikeKey

DRAW = SpikeKey(1, 0, 2)


def spec_of(surrogate_name="atan", tau=2.0, decay_input=True, v_threshold=1.0, v_reset=0.0, detach=False):
    parameters = tuple(FORMULAS[surrogate_name].parameters().items())
    return NeuronSpec(tau, decay_input, v_threshold, v_reset, detach, surrogate_name, parameters)


def double(value):
    return torch.as_tensor(value, dtype=torch.float64)


def equations(x_seq, v, spec):
    """Spikes and V of every step in float64 autograd, written out from the definitions; V also at H before reset."""
    formula = FORMULAS[spec.surrogate]
    names = {n: getattr(torch, n) for n in ("exp", "log", "log1p", "sin", "cos", "atan", "erfc", "abs")}
    names |= {
        "pi": torch.pi, "sqrt": lambda a: a**0.5, "range": range, "int": int,
        "minimum": lambda a, b: torch.minimum(double(a), double(b)),
        "maximum": lambda a, b: torch.maximum(double(a), double(b)),
        "where": lambda c, a, b: torch.where(c, double(a), double(b)),
    }  # fmt: skip
    slope = bind(formula.gradient, names)

    class Fire(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x >= 0).double()

        @staticmethod
        def backward(ctx, upstream):
            (x,) = ctx.saved_tensors
            return upstream * slope(x, **dict(spec.parameters))

    rest = spec.v_reset or 0.0
    fired, potentials, margins = [], [], []
    for x in x_seq:
        if spec.tau is None:
            h = v + x
        elif spec.decay_input:
            h = v + (x - (v - rest)) / spec.tau
        else:
            h = v - (v - rest) / spec.tau + x
        s = Fire.apply(h - spec.v_threshold)
        margins.append((h - spec.v_threshold).detach().abs())
        r = s.detach() if spec.detach_reset else s
        v = h - r * spec.v_threshold if spec.v_reset is None else (1 - r) * h + r * spec.v_reset
        fired.append(s)
        potentials.append(v)
    return torch.stack(fired), torch.stack(potentials), torch.stack(margins)


def images_of(n, active=40, seed=0):
    rng = np.random.default_rng(seed)
    images = np.zeros((n, 784), np.uint8)
    for i in range(n):
        chosen = rng.choice(784, rng.integers(0, active + 1), replace=False)
        images[i, chosen] = rng.integers(1, 256, len(chosen))
        images[i, rng.choice(784, 3, replace=False)] = 255
    return images


def compare(spec, n, steps, seed=0, active=40, scale=0.15):
    images = images_of(n, active, seed)
    index = torch.arange(n)
    torch.manual_seed(seed)
    weight = (scale * torch.randn(10, 784)).requires_grad_()
    upstream = torch.randn(n, 10)
    rate = fused_cpu.firing_rate(weight, spikes.active_pixels(images), index, steps, DRAW, spec)
    (rate * upstream).sum().backward()
    exact = weight.detach().double().requires_grad_()
    inputs = torch.from_numpy(spikes.encode(images, index.numpy(), 0, steps, DRAW)).double()
    current = inputs @ exact.t()
    fired, _, margins = equations(current, torch.full((n, 10), spec.v_reset or 0.0, dtype=torch.float64), spec)
    (fired.mean(0) * upstream).sum().backward()
    tied = (margins < 1e-5).any(0)  # a neuron that came this near to its threshold may differ from there on
    assert torch.allclose(rate.double()[~tied], fired.mean(0)[~tied], atol=1e-6)
    if not tied.any():
        error = (weight.grad - exact.grad).norm() / exact.grad.norm().clamp(min=1e-12)
        assert error < 1e-5, error
    return int(tied.sum())


GRID = list(product((True, False), (0.0, None, -0.3), (False, True)))


@pytest.mark.parametrize("name", FORMULAS)
def test_every_surrogate_with_every_reset(name):
    ties = 0
    for i, (decay_input, v_reset, detach) in enumerate(GRID):
        spec = spec_of(name, decay_input=decay_input, v_reset=v_reset, detach=detach, tau=(2.0, 1.1, 7.5)[i % 3])
        ties += compare(spec, 5, 37, seed=i)
    ties += compare(spec_of(name, tau=None, v_threshold=1.7), 4, 20)
    assert ties <= 3  # so the gradient was compared nearly every time


@pytest.mark.parametrize(("n", "steps"), [(1, 1), (1, 300), (3, 129), (33, 64), (65, 16), (130, 17), (7, 1000)])
def test_sizes_beyond_any_block(n, steps):
    assert compare(spec_of(), n, steps, seed=n) == 0


@pytest.mark.parametrize("steps", [100, 160])
def test_images_as_full_as_mnist(steps):
    """Several hundred live pixels of all values: many groups of four, both words, several spans."""
    assert compare(spec_of(), 12, steps, seed=3, active=400, scale=0.05) <= 1


def test_whole_test_set_equals_the_modules(mnist_dir):
    """On the same weights and spikes: counts of 2,000 test images, only ties at the threshold may differ, counted."""
    from snn_mnist.data.datasets import load_dataset
    from snn_mnist.model.engine import TorchEngine, numba_engine
    from snn_mnist.model.network import SNN

    images = load_dataset("mnist", mnist_dir).test.images
    torch.manual_seed(0)
    net = SNN(step_mode="m")
    with torch.no_grad():
        net.weight.mul_(4)
        index = torch.arange(2000)
        fused, inputs = numba_engine(net, images).firing_counts(index, [20, 50], DRAW)
        reference, reference_inputs = TorchEngine(net, images).firing_counts(index, [20, 50], DRAW)
    assert torch.equal(inputs, reference_inputs)
    different = (fused != reference).sum().item()
    print(f"{different} of {fused.numel()} counts differ by a tie")
    assert different <= 4 and (fused - reference).abs().max() <= 1
    assert fused[:, 1].sum() > 10_000


def test_step_modes_agree():
    from snn_mnist.model.engine import TorchEngine
    from snn_mnist.model.network import SNN

    images, index = torch.from_numpy(images_of(9)), torch.arange(9)
    results = []
    for mode in ("s", "m"):
        torch.manual_seed(3)
        net = SNN(step_mode=mode)
        with torch.no_grad():
            net.weight.mul_(5)
        engine = TorchEngine(net, images)
        rate = engine.firing_rate(index, 50, DRAW)
        rate.square().sum().backward()
        counts, _ = engine.firing_counts(index, [7, 50], DRAW)
        assert torch.allclose(counts[:, -1] / 50, rate)
        results.append((rate.detach(), net.weight.grad, counts))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


def test_bitwise_the_same_for_every_thread_count():
    images, index = images_of(50, active=200), torch.arange(50)
    active, results, before = spikes.active_pixels(images), [], jit.numba.get_num_threads()
    try:
        for threads in range(1, before + 1):
            jit.set_threads(threads)
            torch.manual_seed(0)
            weight = (0.2 * torch.randn(10, 784)).requires_grad_()
            rate = fused_cpu.firing_rate(weight, active, index, 100, DRAW, spec_of())
            rate.square().sum().backward()
            results.append((rate.detach(), weight.grad))
    finally:
        jit.set_threads(before)
    assert len(results) > 1 or before == 1
    for rate, gradient in results[1:]:
        assert torch.equal(rate, results[0][0]) and torch.equal(gradient, results[0][1])


def test_marks_and_input_spikes():
    images, index = images_of(6, active=100), torch.arange(6)
    weight = 0.3 * torch.randn(10, 784, generator=torch.Generator().manual_seed(1))
    active = spikes.active_pixels(images)
    counts, inputs = fused_cpu.firing_counts(weight, active, index, [1, 10, 128, 140], DRAW, spec_of())
    for m, steps in enumerate([1, 10, 128, 140]):
        alone, _ = fused_cpu.firing_counts(weight, active, index, [steps], DRAW, spec_of())
        assert torch.equal(alone[:, 0], counts[:, m])
    assert torch.equal(inputs, torch.from_numpy(spikes.encode(images, index.numpy(), 0, 140, DRAW).sum((0, 2))).long())


def test_second_backward_is_an_error():
    weight = torch.randn(10, 784, requires_grad=True)
    active = spikes.active_pixels(images_of(2))
    rate = fused_cpu.firing_rate(weight, active, torch.arange(2), 10, DRAW, spec_of())
    rate.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="forward pass again"):
        rate.sum().backward()


def test_too_many_neurons_is_an_error():
    with pytest.raises(ValueError, match="at most 16"):
        active = spikes.active_pixels(images_of(1))
        fused_cpu.firing_counts(torch.zeros(17, 784), active, torch.arange(1), [1], DRAW, spec_of())


# ---- the multi-step neurons ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_multi_step_neuron_against_the_equations(name, dtype):
    torch.manual_seed(0)
    tolerance = 2e-5 if dtype is torch.float32 else 1e-11
    for i, (decay_input, v_reset, detach) in enumerate(GRID):
        spec = spec_of(name, tau=(None if i % 4 == 3 else 1.7), decay_input=decay_input, v_reset=v_reset, detach=detach)
        shape = [(11, 3, 5), (1, 1), (40, 7), (5, 2, 3, 4)][i % 4]
        x = (2 * torch.randn(shape, dtype=torch.float64)).to(dtype).requires_grad_()
        v = (0.3 * torch.randn(shape[1:], dtype=torch.float64)).to(dtype).requires_grad_()
        weights = [torch.randn(s, dtype=torch.float64) for s in (shape, shape[1:], shape)]
        out = multi_step(x, v, spec, True)
        sum((o.double() * w).sum() for o, w in zip(out, weights, strict=True)).backward()
        x64, v64 = (a.detach().double().requires_grad_() for a in (x, v))
        fired, potentials, margins = equations(x64, v64, spec)
        ((fired * weights[0]).sum() + (potentials[-1] * weights[1]).sum() + (potentials * weights[2]).sum()).backward()
        assert margins.min() > 1e-6
        assert torch.equal(out[0].double(), fired.detach())
        assert torch.allclose(out[2].double(), potentials.detach(), atol=tolerance)
        for got, expected in ((x.grad, x64.grad), (v.grad, v64.grad)):
            assert (got.double() - expected).norm() <= tolerance * expected.norm().clamp(min=1)


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 5000])
def test_multi_step_module_beyond_a_block(size):
    torch.manual_seed(size)
    x = 3 * torch.rand(6, 2, size)
    results = []
    for backend in ("torch", "numba"):
        node = neuron.LIFNode(
            3.0, surrogate_function=surrogate.ATan(), step_mode="m", backend=backend, store_v_seq=True
        )
        inputs = x.clone().requires_grad_()
        first, second = node(inputs), node(inputs)  # the state is kept between calls
        (first.sum() + second.square().sum() + node.v_seq.sum()).backward()
        results.append((first.detach(), second.detach(), node.v.detach(), node.v_seq.detach(), inputs.grad))
        functional.reset_net(node)
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_multi_step_keeps_half_precision_types():
    x = torch.rand(5, 3, 4, dtype=torch.bfloat16) * 2
    fired, v, _ = multi_step(x, 0.0, spec_of(), False)
    assert fired.dtype is torch.bfloat16 and v.dtype is torch.bfloat16 and set(fired.unique().tolist()) <= {0.0, 1.0}


def test_multi_step_accepts_views_and_strides():
    base = 2 * torch.rand(4, 6, 10)
    a = multi_step(base.transpose(1, 2), 0.0, spec_of(), True)
    b = multi_step(base.transpose(1, 2).contiguous(), 0.0, spec_of(), True)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
