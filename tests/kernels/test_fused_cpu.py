"""The fused CPU kernels against the equations in float64, and the multi-step neurons against the core."""

import numba
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from snn_mnist.core import functional, neuron, surrogate
from snn_mnist.kernels.cpu import fused as fused_cpu
from snn_mnist.kernels.cpu import neuron as neuron_cpu
from snn_mnist.kernels.cpu import spikes
from snn_mnist.kernels.cpu.training import round_to_bfloat16
from snn_mnist.kernels.formulas import FORMULAS
from tests.support.kernel_checks import (
    check_counts_in_sizes,
    check_fused,
    check_fused_at_the_threshold,
    check_multi_step,
    check_multi_step_at_the_threshold,
    check_surrogate,
    thread_counts,
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


@pytest.mark.parametrize("v_reset", [0.0, None, -0.5])
def test_potentials_exactly_at_the_threshold(v_reset):
    check_fused_at_the_threshold(fused_cpu, v_reset)
    check_multi_step_at_the_threshold(neuron_cpu, v_reset)


def test_counts_on_both_sides_of_every_word_and_span():
    check_counts_in_sizes(fused_cpu)


def test_readout_steps_and_input_spikes():
    """Each readout step alone gives the same counts, on any number of threads."""
    images, index = images_of(6, active=100), torch.arange(6)
    weight = 0.3 * torch.randn(10, 784, generator=torch.Generator().manual_seed(1))
    active = fused_cpu.active_pixels(images)
    counts, inputs = fused_cpu.firing_counts(weight, active, index, [1, 10, 128, 140], KEY, spec_of())
    for m, steps in enumerate([1, 10, 128, 140]):
        for _ in thread_counts():
            alone, _ = fused_cpu.firing_counts(weight, active, index, [steps], KEY, spec_of())
            assert torch.equal(alone[:, 0], counts[:, m])
    assert torch.equal(inputs, spikes.encode(images, index, 0, 140, KEY).sum((0, 2)).long())


def test_active_pixels_are_all_that_are_not_zero():
    images = images_of(37, active=100)
    images[[0, 5, 36]] = 0
    images[7] = 255
    for _ in thread_counts():
        active = fused_cpu.active_pixels(images)
        at = images.flatten().nonzero().flatten()
        assert torch.equal(torch.from_numpy(active.pixels.astype("int64")), at % 784)
        assert torch.equal(torch.from_numpy(active.values), images.flatten()[at])
        assert active.offsets.tolist() == [0, *images.count_nonzero(dim=1).cumsum(0).tolist()]


def test_too_many_neurons_is_an_error():
    with pytest.raises(ValueError, match="at most 16"):
        active = fused_cpu.active_pixels(images_of(1))
        fused_cpu.firing_counts(torch.zeros(17, 784), active, torch.arange(1), [1], KEY, spec_of())


# ---- the multi-step neurons ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_multi_step_neuron_against_the_equations(name, dtype):
    check_multi_step(neuron_cpu, name, dtype)


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 20_000])
def test_multi_step_module_beyond_a_block(size):
    """With the state kept between calls, in sizes for one thread and for several."""
    torch.manual_seed(size)
    x = 3 * torch.rand(6, 2, size)
    results = []
    for backend in ("torch", "numba"):
        node = neuron.LIFNode(
            3.0, surrogate_function=surrogate.ATan(), step_mode="m", backend=backend, store_v_seq=True
        )
        inputs = x.clone().requires_grad_()
        first, second = node(inputs), node(inputs)
        (first.sum() + second.square().sum() + node.v_seq.sum()).backward()
        results.append((first.detach(), second.detach(), node.v.detach(), node.v_seq.detach(), inputs.grad))
        functional.reset_net(node)
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_multi_step_takes_half_precision_and_any_strides():
    x = torch.rand(5, 3, 4, dtype=torch.bfloat16) * 2
    fired, v, _ = neuron_cpu.multi_step(x, 0.0, spec_of(), False)
    assert fired.dtype is torch.bfloat16 and v.dtype is torch.float32 and set(fired.unique().tolist()) <= {0.0, 1.0}
    view = (2 * torch.rand(4, 6, 10)).transpose(1, 2)
    a, b = (neuron_cpu.multi_step(x, 0.0, spec_of(), True) for x in (view, view.contiguous()))
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


class Encoded:
    """A data set that runs the kernel for each item."""

    def __init__(self):
        self.node = neuron.LIFNode(step_mode="m", backend="numba")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        functional.reset_net(self.node)
        return self.node(torch.full((3, 100_000), 2.0))


def test_kernels_on_several_threads_run_in_a_forked_process():
    data = Encoded()
    here = data[0]
    for batch in DataLoader(data, num_workers=1, multiprocessing_context="fork"):
        assert torch.equal(batch[0], here) and here.sum() > 0


def penalty_gradients(backend):
    """Of |dy/dx|² for a layer of neurons y, with respect to the layer's weight."""
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(6, 5).double(), torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True)
    node = neuron.LIFNode(2.0, surrogate_function=surrogate.ATan(), step_mode="m", backend=backend)
    (slope,) = torch.autograd.grad(node(layer(x)).sum(), x, create_graph=True)
    slope.square().sum().backward()
    return layer.weight.grad


def test_second_derivatives_are_refused_instead_of_wrong():
    """torch differentiates the gradient again, through the slope of the surrogate too; the kernels can't."""
    assert penalty_gradients("torch").abs().sum() > 0
    with pytest.raises(RuntimeError, match=r"second derivatives.*set_backend\(net, 'torch'\)"):
        penalty_gradients("numba")


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
