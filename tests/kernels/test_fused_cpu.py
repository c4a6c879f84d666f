"""The fused CPU kernels against the equations in float64, and the multi-step neurons against the core."""

import numba
import numpy as np
import pytest
import torch

from snn_mnist.core import functional, neuron, surrogate
from snn_mnist.kernels.autograd import firing_rate
from snn_mnist.kernels.cpu import fused as fused_cpu
from snn_mnist.kernels.cpu import jit, spikes
from snn_mnist.kernels.cpu import neuron as neuron_cpu
from snn_mnist.kernels.cpu.optimizer import round_to_bfloat16
from snn_mnist.kernels.formulas import FORMULAS
from tests.support.kernel_checks import (
    check_counts_in_sizes,
    check_fused,
    check_fused_at_the_threshold,
    check_multi_step,
    check_multi_step_at_the_threshold,
    check_surrogate,
)
from tests.support.neurons import KEY, images_of, spec_of


@pytest.mark.parametrize("name", FORMULAS)
def test_every_surrogate_with_every_reset(name):
    check_surrogate(fused_cpu, name)


@pytest.mark.parametrize(("n", "steps"), [(1, 1), (1, 300), (3, 129), (33, 64), (65, 16), (130, 17), (7, 1000)])
def test_sizes_beyond_any_block(n, steps):
    assert check_fused(fused_cpu, spec_of(), n, steps, seed=n) == 0


@pytest.mark.parametrize("steps", [100, 160])
def test_images_as_full_as_mnist(steps):
    """Several hundred active pixels of all values: many groups of four, both words, several spans."""
    assert check_fused(fused_cpu, spec_of(), 12, steps, seed=3, active=400, scale=0.05) <= 1


def test_bitwise_the_same_for_every_thread_count():
    images, index = images_of(50, active=200), torch.arange(50)
    active, results, before = fused_cpu.active_pixels(images), [], numba.get_num_threads()
    try:
        for threads in range(1, before + 1):
            jit.set_threads(threads)
            torch.manual_seed(0)
            weight = (0.2 * torch.randn(10, 784)).requires_grad_()
            rate = firing_rate(fused_cpu, weight, active, index, 100, KEY, spec_of())
            rate.square().sum().backward()
            results.append((rate.detach(), weight.grad))
    finally:
        jit.set_threads(before)
    assert len(results) > 1 or before == 1
    for rate, gradient in results[1:]:
        assert torch.equal(rate, results[0][0]) and torch.equal(gradient, results[0][1])


def test_readout_steps_and_input_spikes():
    images, index = images_of(6, active=100), torch.arange(6)
    weight = 0.3 * torch.randn(10, 784, generator=torch.Generator().manual_seed(1))
    active = fused_cpu.active_pixels(images)
    counts, inputs = fused_cpu.firing_counts(weight, active, index, [1, 10, 128, 140], KEY, spec_of())
    for m, steps in enumerate([1, 10, 128, 140]):
        alone, _ = fused_cpu.firing_counts(weight, active, index, [steps], KEY, spec_of())
        assert torch.equal(alone[:, 0], counts[:, m])
    assert torch.equal(inputs, spikes.encode(images, index, 0, 140, KEY).sum((0, 2)).long())


@pytest.mark.parametrize("v_reset", [0.0, None, -0.5])
def test_potentials_exactly_at_the_threshold(v_reset):
    check_fused_at_the_threshold(fused_cpu, v_reset)
    check_multi_step_at_the_threshold(neuron_cpu, v_reset)


def test_counts_on_both_sides_of_every_word_and_span():
    check_counts_in_sizes(fused_cpu)


def test_second_backward_is_an_error():
    weight = torch.randn(10, 784, requires_grad=True)
    active = fused_cpu.active_pixels(images_of(2))
    rate = firing_rate(fused_cpu, weight, active, torch.arange(2), 10, KEY, spec_of())
    rate.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="forward pass again"):
        rate.sum().backward()


def test_too_many_neurons_is_an_error():
    with pytest.raises(ValueError, match="at most 16"):
        active = fused_cpu.active_pixels(images_of(1))
        fused_cpu.firing_counts(torch.zeros(17, 784), active, torch.arange(1), [1], KEY, spec_of())


# ---- the multi-step neurons ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_multi_step_neuron_against_the_equations(name, dtype):
    check_multi_step(neuron_cpu, name, dtype)


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


def test_multi_step_keeps_spikes_in_half_precision_and_v_in_float32():
    x = torch.rand(5, 3, 4, dtype=torch.bfloat16) * 2
    fired, v, _ = neuron_cpu.multi_step(x, 0.0, spec_of(), False)
    assert fired.dtype is torch.bfloat16 and v.dtype is torch.float32 and set(fired.unique().tolist()) <= {0.0, 1.0}


def test_multi_step_accepts_views_and_strides():
    base = 2 * torch.rand(4, 6, 10)
    a = neuron_cpu.multi_step(base.transpose(1, 2), 0.0, spec_of(), True)
    b = neuron_cpu.multi_step(base.transpose(1, 2).contiguous(), 0.0, spec_of(), True)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_bfloat16_rounding_is_torchs():
    """Each upper half of a float32 with lower halves at a tie and beside it: ties go to the even neighbour."""
    high = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        weights, bits = (high | np.uint32(low)).view(np.float32), np.zeros_like(high)
        round_to_bfloat16(0, len(high), weights, bits)
        expected = torch.from_numpy(weights).bfloat16().float()
        torch.testing.assert_close(torch.from_numpy(bits.view(np.float32)), expected, rtol=0, atol=0, equal_nan=True)
