"""The CUDA kernels without a GPU: their own source, compiled by g++, against the CPU kernels and float64 equations.

What this cannot show: that a GPU runs them, and how fast. A phase that depends on the order of its threads shows here,
where they run upwards and downwards; a missing barrier in test_cuda_sanitized.py.
"""

import ctypes
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from snn_mnist.core import neuron, surrogate
from snn_mnist.kernels.cpu import fused as fused_cpu
from snn_mnist.kernels.cpu import neuron as neuron_cpu
from snn_mnist.kernels.cpu import spikes
from snn_mnist.kernels.cuda import fused as fused_cuda
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.kernels.cuda import neuron as neuron_cuda
from snn_mnist.kernels.formulas import FORMULAS
from snn_mnist.kernels.spikes import SpikeKey
from tests.support.cuda_host import build, compiler
from tests.support.kernel_checks import (
    check_counts_in_sizes,
    check_fused,
    check_fused_at_the_threshold,
    check_multi_step,
    check_multi_step_at_the_threshold,
    check_surrogate,
    firing_rate,
    fused_and_exact,
)
from tests.support.neurons import KEY, PHILOX_VECTORS, images_of, spec_of

pytestmark = pytest.mark.skipif(compiler() is None, reason="no g++ to compile the CUDA source for the host")

ARITHMETIC = """
#include "snn.cuh"
extern "C" void test_philox(const u32 *in, u32 *out) {
    const Words words = philox(in[0], in[1], in[2], in[3], in[4], in[5]);
    for (int w = 0; w < 4; ++w) out[w] = words.word[w];
}
extern "C" u32 test_below(u32 a, u32 b) { return gather_high(bytes_below(a, b)); }
extern "C" u32 test_equal(u32 a, u32 b) { return gather_high(bytes_equal(a, b)); }
extern "C" u32 test_half(float value) { return to_half(value); }
extern "C" float test_float(u32 half) { return from_half((u16)half); }
"""


@pytest.fixture(scope="session")
def arithmetic(compiled_here):
    header = Path(cuda.__file__).with_name("snn.cuh").read_text().replace("#pragma once", "")
    text = ARITHMETIC.replace('#include "snn.cuh"', header)
    library = build(text, compiled_here)
    library.test_float.restype = ctypes.c_float
    library.test_half.argtypes = [ctypes.c_float]
    return library


# ---- arithmetic ----


@pytest.mark.parametrize(("counter", "key", "words"), PHILOX_VECTORS)
def test_philox_known_answers(arithmetic, counter, key, words):
    out = (ctypes.c_uint32 * 4)()
    arithmetic.test_philox((ctypes.c_uint32 * 6)(*counter, *key), out)
    assert tuple(out) == words


def test_every_pair_of_bytes_is_compared_rightly(arithmetic):
    """All 65,536 pairs, four at a time, in every position."""
    generator = np.random.default_rng(0)
    pairs = generator.permutation(np.array(list(product(range(256), repeat=2))))
    for four in pairs.reshape(-1, 4, 2).tolist():
        a, b = (int.from_bytes(column, "little") for column in zip(*four, strict=True))
        assert arithmetic.test_below(a, b) == sum((x < y) << i for i, (x, y) in enumerate(four))
        assert arithmetic.test_equal(a, b) == sum((x == y) << i for i, (x, y) in enumerate(four))
        assert arithmetic.test_equal(a, a) == 15 and arithmetic.test_below(a, a) == 0


def test_half_precision_is_ieee(arithmetic):
    values = np.random.default_rng(0).standard_normal(2000) * 10.0 ** np.arange(-8, 2).repeat(200)
    for value in [*values.astype(np.float32).tolist(), 65504.0, 65520.0, 0.0, -0.0, 2.0**-24, 2.0**-26]:
        with np.errstate(over="ignore"):
            half = np.float32(value).astype(np.float16)
        assert arithmetic.test_half(value) == half.view(np.uint16)
        assert arithmetic.test_float(int(half.view(np.uint16))) == float(half)


# ---- spikes ----


@pytest.mark.parametrize(
    ("n", "pixels", "start", "steps"),
    [
        (3, 784, 0, 100),
        (2, 784, 16, 1),
        (5, 33, 112, 129),
        (1, 1, 0, 300),
        (2, 2000, 0, 128),
        (2, 2000, 128, 200),
        (4, 97, 2**31 - 64, 63),
    ],
)
def test_spikes_are_the_cpus_bit_for_bit(host, n, pixels, start, steps):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, pixels), dtype=torch.uint8, generator=generator)
    images[:, ::3], images[:, 1::7] = 0, 255
    if pixels == 2000:
        images.random_(1, 255, generator=generator)  # 1,000 ties an image: more than the kernel lists
    if n > 2:
        images[1] = 0
    index = torch.arange(n).flip(0)
    spike_key = SpikeKey(2**32 - 1, 5, 4_000_000_000)
    active = fused_cuda.active_pixels(images)
    expected = spikes.encode(images[index], index, start, start + steps, spike_key)
    assert torch.equal(fused_cuda.encode(active, index, start, start + steps, spike_key), expected)
    host.backwards = True
    assert torch.equal(fused_cuda.encode(active, index, start, start + steps, spike_key), expected)


# ---- the fused pass ----


@pytest.mark.parametrize("name", FORMULAS)
def test_fused_pass_against_the_equations(host, name):
    check_surrogate(fused_cuda, name)


@pytest.mark.parametrize(
    ("n", "steps", "active", "outputs", "rounded"),
    [
        (1, 1, 40, 10, False),
        (3, 129, 300, 10, True),
        (65, 16, 90, 1, False),
        (2, 300, 780, 17, False),
        (9, 32, 0, 4, True),
    ],
)
def test_fused_pass_in_many_sizes(host, n, steps, active, outputs, rounded):
    assert check_fused(fused_cuda, spec_of(), n, steps, active, outputs, seed=n, rounded=rounded) <= 2


def test_fused_pass_equals_the_cpu_kernel(host):
    """Tau 2, T = 100: rates bit for bit except at ties, gradients to rounding; the order of threads is no matter."""
    images, index = images_of(40, active=250), torch.arange(40)
    weight = 0.1 * torch.randn(10, 784, generator=torch.Generator().manual_seed(4))
    results = []
    for turn in range(3):
        host.backwards = turn == 1
        learned, kernels = weight.clone().requires_grad_(), fused_cuda if turn < 2 else fused_cpu
        rate = firing_rate(kernels, learned, kernels.active_pixels(images), index, 100, KEY, spec_of())
        rate.square().sum().backward()
        results.append((rate.detach(), learned.grad))
    (rate, gradient), (rate_2, gradient_2), (cpu_rate, cpu_gradient) = results
    assert torch.equal(rate, rate_2) and torch.equal(gradient, gradient_2)
    assert (rate != cpu_rate).sum() <= 1
    if torch.equal(rate, cpu_rate):
        assert (gradient - cpu_gradient).norm() < 1e-5 * cpu_gradient.norm()
    assert {name for name, *_ in host.launches} == {"fused", "contract"}


def test_counts_at_readout_steps_and_input_spikes(host):
    images, index = images_of(7, active=120), torch.arange(7).flip(0)
    active = fused_cuda.active_pixels(images)
    weight = 0.2 * torch.randn(10, 784, generator=torch.Generator().manual_seed(1))
    readout_steps = [1, 10, 128, 140, 256, 300]
    for spec in (spec_of(), spec_of(v_reset=None)):
        counts, inputs = fused_cuda.firing_counts(weight, active, index, readout_steps, KEY, spec)
        expected = fused_cpu.firing_counts(weight, fused_cpu.active_pixels(images), index, readout_steps, KEY, spec)
        assert torch.equal(inputs, expected[1]) and inputs.sum() > 1000
        assert torch.equal(counts, expected[0]) and counts.sum() > 100
        host.backwards = not host.backwards
    rate = firing_rate(fused_cuda, weight, active, index, 140, KEY, spec_of())
    counts, _ = fused_cuda.firing_counts(weight, active, index, [140], KEY, spec_of())
    assert torch.equal(rate, counts[:, 0] / 140)


@pytest.mark.parametrize("v_reset", [0.0, None, -0.5])
def test_potentials_exactly_at_the_threshold(host, v_reset):
    check_fused_at_the_threshold(fused_cuda, v_reset)
    check_multi_step_at_the_threshold(neuron_cuda, v_reset)


def test_counts_on_both_sides_of_every_word_and_span(host):
    check_counts_in_sizes(fused_cuda)


def test_working_memory_in_global_memory_gives_the_same(host, monkeypatch):
    """Where shared memory is too small for a long T, a block works in global memory instead."""
    spec, results = spec_of(), []
    for limit in (10**6, 1000):
        monkeypatch.setattr(cuda, "shared_limit", lambda device, limit=limit: limit)
        results.append(fused_and_exact(fused_cuda, spec, 4, 160)[:2])
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert [shared > 0 for name, _, _, shared in host.launches if name == "fused"] == [True, False]


def test_layout_in_python_and_in_the_source_agree(host, compiled_here):
    for outputs, stride, steps in product((1, 10, 17), (32, 352), (None, 100, 300)):
        plan = fused_cuda.plan_launch((outputs, 784), stride, spec_of(), steps, 10**7)
        assert build(plan.text, compiled_here).host_work_bytes(stride) == plan.shared_bytes
        if steps == 300:
            break  # one compilation is enough of the long ones


def test_epoch_in_device_memory(host):
    images, index = images_of(3), torch.arange(3)
    active, weight = fused_cuda.active_pixels(images), 0.3 * torch.randn(10, 784)
    given = firing_rate(fused_cuda, weight, active, index, 20, SpikeKey(1, 0, 2**32 - 7), spec_of())
    at = torch.tensor([-7], dtype=torch.int32)
    read = firing_rate(fused_cuda, weight, active, index, 20, SpikeKey(1, 0, at), spec_of())
    assert torch.equal(given, read) and given.sum() > 0


def test_what_does_not_fit_is_an_error(host):
    active = fused_cuda.active_pixels(images_of(2))
    with pytest.raises(ValueError, match="C at most 128"):
        firing_rate(fused_cuda, torch.zeros(129, 784), active, torch.arange(2), 10, KEY, spec_of())
    with pytest.raises(ValueError, match="784"):
        fused_cuda.firing_counts(torch.zeros(10, 100), active, torch.arange(2), [10], KEY, spec_of())
    with pytest.raises(ValueError, match="T=1048576 with 65504 active pixels is too much for the fused CUDA kernel"):
        fused_cuda.plan_launch((10, 65_535), 65_504, spec_of(), 1 << 20, 232_448)
    with pytest.raises(ValueError, match=r"v has shape \[3\], a step of x_seq \[2\]; give v that shape"):
        neuron_cuda.multi_step(torch.zeros(4, 2), torch.zeros(3), spec_of(), False)
    with pytest.raises(ValueError, match="T=0"):
        firing_rate(fused_cuda, torch.zeros(10, 784), active, torch.arange(2), 0, KEY, spec_of())
    counts, inputs = fused_cuda.firing_counts(torch.zeros(10, 784), active, torch.arange(0), [10], KEY, spec_of())
    assert counts.shape == (0, 1, 10) and inputs.shape == (0,)


def test_gradient_of_an_empty_batch_is_zero(host):
    active = fused_cuda.active_pixels(images_of(2))
    weight = torch.randn(10, 784, requires_grad=True)
    firing_rate(fused_cuda, weight, active, torch.arange(0), 10, KEY, spec_of()).sum().backward()
    assert torch.equal(weight.grad, torch.zeros(10, 784))


# ---- multi-step neurons ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_multi_step_neuron_against_the_equations(host, name, dtype):
    check_multi_step(neuron_cuda, name, dtype)


def test_multi_step_neuron_equals_the_cpu_kernel(host):
    """Tau 2: the same roundings, so the same bits, with and without v_seq, for a number and a tensor as v."""
    for v_reset, start in ((0.0, 0.0), (None, torch.randn(3, 70))):
        spec, x = spec_of(v_reset=v_reset), 2 * torch.randn(19, 3, 70)
        for store in (False, True):
            mine, theirs = (kernel.multi_step(x, start, spec, store) for kernel in (neuron_cuda, neuron_cpu))
            assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])
            assert (mine[2] is None and theirs[2] is None) if not store else torch.equal(mine[2], theirs[2])


def test_half_precision_is_read_and_written_but_not_computed_in(host):
    torch.manual_seed(0)
    spec = spec_of(tau=3.0)
    x = (2 * torch.randn(50, 4, 33)).half().requires_grad_()
    for store_v_seq in (False, True):
        x.grad = None
        spikes_, v, v_seq = neuron_cuda.multi_step(x, 0.0, spec, store_v_seq)
        (spikes_.float().sum() + (v_seq if store_v_seq else v).square().sum()).backward()
        wide = x.detach().float().requires_grad_()
        exact, exact_v, exact_seq = neuron_cuda.multi_step(wide, 0.0, spec, store_v_seq)
        (exact.sum() + (exact_seq if store_v_seq else exact_v).square().sum()).backward()
        assert spikes_.dtype == x.grad.dtype == torch.float16 and v.dtype == torch.float32
        assert torch.equal(spikes_.float(), exact) and torch.equal(v, exact_v)
        assert not store_v_seq or torch.equal(v_seq, exact_seq)
        assert torch.allclose(x.grad.float(), wide.grad, rtol=2e-3, atol=1e-4)


def test_bfloat16_goes_by_way_of_float32(host):
    x = (2 * torch.rand(5, 3, 4)).bfloat16().requires_grad_()
    out, v, v_seq = neuron_cuda.multi_step(x, 0.0, spec_of(), False)
    out.sum().backward()
    assert out.dtype == x.grad.dtype == torch.bfloat16 and v.dtype == torch.float32
    assert v_seq is None and out.sum() > 0


@pytest.mark.parametrize("v_reset", [0.0, None])
def test_an_infinite_input_leaves_a_finite_potential(host, v_reset):
    """As on the other backends, see tests/core/test_neuron.py."""
    x = torch.full((6, 2, 3), 0.7)
    x[1, 0, 0], x[3, 1, 2], x[2, 0, 1] = math.inf, -math.inf, math.nan
    node = neuron.LIFNode(v_reset=v_reset, step_mode="m", store_v_seq=True, surrogate_function=surrogate.ATan())
    expected = node(x)
    out, v, v_seq = neuron_cuda.multi_step(x, 0.0, node.spec(), True)
    assert torch.equal(out, expected)
    torch.testing.assert_close(v_seq, node.v_seq, equal_nan=True)
    assert v.isfinite().sum() == 5 and v.isnan()[0, 1]


def test_multi_step_neuron_of_no_size(host):
    for shape in ((4, 0, 3), (0, 2, 3)):
        out, v, _ = neuron_cuda.multi_step(torch.zeros(shape), 0.5, spec_of(), False)
        assert out.shape == shape and v.shape == shape[1:]
        assert v.numel() == 0 or torch.equal(v, torch.full(shape[1:], 0.5))
