"""The compiled training steps against float64 autograd and torch.optim, and their bits against themselves."""

import hashlib
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss

from snn_mnist.kernels.cpu import spikes
from snn_mnist.network.compiled_steps import CompiledSteps, FusedAdam, FusedSGD
from snn_mnist.network.poisson import SpikeKey, poisson_encode
from snn_mnist.storage.checkpoint import WEIGHT
from tests.support.kernel_checks import equations, images_of, spec_of, thread_counts, training_of, weight_of

STEPS, BATCH, N = 7, 17, 280
IMAGES = images_of(N, active=100)
ORDERS = [torch.randperm(N, generator=torch.Generator().manual_seed(epoch)) for epoch in range(8)]
RATES = [0.01 / (1 + step) for step in range(STEPS)]
DECAYS = [min(0.99, (1 + step) / (10 + step)) for step in range(STEPS)]
OPTIMIZERS = {
    "adam": lambda weight: FusedAdam(weight, lr=0.01),
    "momentum": lambda weight: FusedSGD(weight, lr=3.0, momentum=0.9),
    "sgd": lambda weight: FusedSGD(weight, lr=3.0),
}
EXACT = {
    "adam": lambda weight: torch.optim.Adam([weight], lr=0.01, fused=True),
    "momentum": lambda weight: torch.optim.SGD([weight], lr=3.0, momentum=0.9, fused=True),
    "sgd": lambda weight: torch.optim.SGD([weight], lr=3.0, fused=True),
}


def made(optimizer="adam", average=False, amp=False, T=20, batch=BATCH, weight=None):
    weight = torch.nn.Parameter(weight_of() if weight is None else weight.clone())
    average = weight.detach().clone() if average else None
    training = training_of(weight, OPTIMIZERS[optimizer](weight), STEPS, batch, T, None, average, amp)
    labels = torch.eye(10)[torch.arange(N) % 10]
    return CompiledSteps(weight, spikes.active_pixels(IMAGES), labels, spec_of(), training)


def learning_rates(steps):
    return [rate * (300 if isinstance(steps.training.optimizer, FusedSGD) else 1) for rate in RATES]


def run(steps, epochs=(0, 1), cuts=()):
    """Rates of each epoch, weight, average and optimiser state after them."""
    seen, training = [], steps.training
    for epoch in epochs:
        decays = DECAYS if training.average is not None else None
        steps.begin(SpikeKey(1, 0, epoch), ORDERS[epoch], learning_rates(steps), decays)
        for first, last in zip((0, *cuts), (*cuts, STEPS), strict=True):
            steps.run(first, last)
        seen.append(training.rates.clone())
    state = [value for value in training.optimizer.state[steps.weight].values() if value is not None]
    tensors = [steps.weight, *state, *([] if training.average is None else [training.average[WEIGHT]])]
    return seen + [tensor.detach().clone() for tensor in tensors]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("settings", "epochs"), [({"average": True}, 7), ({"T": 150}, 1), ({"batch": 1}, 2)], ids=str)
def test_steps_in_float64(optimizer, settings, epochs):
    """Autograd through the equations and torch.optim, both in float64, from the same spikes."""
    steps = made(optimizer, **settings)
    T, batch = steps.training.T, steps.training.batch
    exact = steps.weight.detach().double().requires_grad_()
    reference, average = EXACT[optimizer](exact), exact.detach().clone()
    for epoch in range(epochs):
        (rates, *_), key = run(steps, [epoch]), SpikeKey(1, 0, epoch)
        for step in range(STEPS):
            index = ORDERS[epoch][step * batch : (step + 1) * batch]
            spiked = poisson_encode(IMAGES[index], index, 0, T, key).double()
            rate = equations(spiked @ exact.T, torch.zeros(batch, 10, dtype=torch.float64), spec_of())[0].mean(0)
            assert (rate - rates[step * batch : (step + 1) * batch]).abs().max() < 1e-6
            reference.param_groups[0]["lr"] = learning_rates(steps)[step]
            reference.zero_grad()
            mse_loss(rate, steps.labels[index].double()).backward()
            reference.step()
            average.lerp_(exact.detach(), 1 - DECAYS[step])
    assert (steps.weight - exact).norm() <= 1e-6 * exact.norm()
    if steps.training.average is not None:
        assert (steps.training.average[WEIGHT] - average).norm() <= 1e-6 * average.norm()


def test_half_precision_rounds_the_weights_of_a_step_as_torch_does():
    """The rates and gradients with rounded weights, taken from those that are not; ties go to even."""
    weight = weight_of()
    weight[:, ::2] = torch.randint(256, 512, (10, 392)) / 2048  # every second one lies between two bfloat16
    assert (weight.bfloat16() != weight).float().mean() > 0.6
    half, rounded = made("momentum", amp=True, weight=weight), made("momentum", weight=weight.bfloat16().float())
    for steps in (half, rounded):
        steps.begin(SpikeKey(1, 0, 0), ORDERS[0], RATES)
        steps.run(0, 1)
    assert torch.equal(half.training.rates, rounded.training.rates) and half.training.rates.any()
    momenta = [steps.training.optimizer.state[steps.weight]["momentum_buffer"] for steps in (half, rounded)]
    assert torch.equal(*momenta) and torch.equal(half.weight, weight - np.float32(RATES[0]) * momenta[0])


@pytest.mark.parametrize(
    "settings", [{}, {"optimizer": "momentum", "amp": True}, {"average": True, "batch": 21}, {"batch": 40}], ids=str
)
def test_bits_for_every_number_of_threads_and_every_cut(settings):
    whole = run(made(**settings), (0,))
    for _ in thread_counts():
        assert same(run(made(**settings), (0,), cuts=(1, 2, 5)), whole)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_has_the_same_bits(optimizer):
    whole = run(made(optimizer, average=True))
    before, after = made(optimizer, average=True), made(optimizer, average=True)
    run(before, (0,))
    after.training.optimizer.load_state_dict(before.training.optimizer.state_dict())
    with torch.no_grad():
        after.weight.copy_(before.weight)
        after.training.average[WEIGHT].copy_(before.training.average[WEIGHT])
    assert same(run(after, (1,)), whole[1:])


@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_state_dict_has_torch_s_form(name):
    """The same keys in the same order, types and shapes, and each loads the other's."""
    steps = made(name)
    other = EXACT[name](steps.weight)
    newer = {"decoupled_weight_decay"} - other.param_groups[0].keys()  # torch has it since 2.7

    def form(optimizer):
        state = optimizer.state_dict()
        (group,) = state["param_groups"]
        tensors = {key: {n: (t.dtype, t.shape) for n, t in value.items()} for key, value in state["state"].items()}
        return [(key, value) for key, value in group.items() if key not in newer], list(state["state"]), tensors

    ours = steps.training.optimizer
    assert form(ours) == form(other)
    run(steps, (0,))
    steps.weight.grad = torch.ones_like(steps.weight)
    other.step()
    other.param_groups[0]["lr"] = ours.param_groups[0]["lr"]
    assert form(ours) == form(other)
    for source, target in ((ours, EXACT[name](steps.weight)), (other, OPTIMIZERS[name](steps.weight))):
        target.load_state_dict(source.state_dict())
        assert form(target) == form(source)
        for key, value in source.state[steps.weight].items():
            assert torch.equal(target.state[steps.weight][key], value)


def test_settings_that_the_kernel_lacks_are_refused():
    saved = torch.optim.SGD([torch.zeros(10, 784)], lr=1.0, momentum=0.9, nesterov=True).state_dict()
    with pytest.raises(ValueError, match=r"nesterov.*-backend torch"):
        made("momentum").training.optimizer.load_state_dict(saved)


def test_torch_optim_is_not_imported():
    code = "import sys, snn_mnist.network.compiled_steps\nsys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def digest():
    """Hash of the weights' bits after training with each optimiser."""
    bits = hashlib.sha256()
    for settings in ({"average": True}, {"optimizer": "momentum", "amp": True}):
        for tensor in run(made(**settings)):
            bits.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return bits.hexdigest()


AVX2 = "haswell", "+avx2,+fma,+bmi,+bmi2,+lzcnt,+popcnt,-avx512f"


@pytest.mark.parametrize(("name", "features"), [("x86-64", ""), pytest.param(*AVX2, marks=pytest.mark.slow)])
def test_bits_for_every_width_of_vectors(name, features):
    """SSE2, which has no fused multiply-add either, and AVX2 on this processor."""
    if numba.core.codegen.ll.get_process_triple().split("-")[0] != "x86_64":
        pytest.skip("names of x86 processors")
    environment = os.environ | {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    code = "from tests.network.test_compiled_steps import digest; print(digest())"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == digest()
