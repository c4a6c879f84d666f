"""The compiled training steps against FusedSteps, float64 autograd and torch.optim."""

import hashlib
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss

from snn_mnist.kernels.cpu import fused as fused_cpu
from snn_mnist.kernels.cpu import spikes
from snn_mnist.kernels.formulas import FORMULAS
from snn_mnist.network.compiled_steps import CompiledSteps
from snn_mnist.network.fused_steps import FusedSteps
from snn_mnist.network.optimizer import FusedAdam, FusedSGD
from snn_mnist.network.poisson import SpikeKey, poisson_encode
from tests.support.neurons import equations, images_of, spec_of

STEPS, BATCH, N = 7, 17, 150
ORDERS = [torch.randperm(N, generator=torch.Generator().manual_seed(epoch)) for epoch in range(2)]
RATES = [0.01 / (1 + step) for step in range(STEPS)]
DECAYS = [min(0.99, (1 + step) / (10 + step)) for step in range(STEPS)]
OPTIMIZERS = {
    "adam": lambda weight: FusedAdam(weight, lr=0.01),
    "momentum": lambda weight: FusedSGD(weight, lr=3.0, momentum=0.9),
    "sgd": lambda weight: FusedSGD(weight, lr=3.0),
    "torch adam": lambda weight: torch.optim.Adam([weight], lr=0.01, fused=True),
    "torch momentum": lambda weight: torch.optim.SGD([weight], lr=3.0, momentum=0.9, fused=True),
}


def made(optimizer="adam", spec=None, average=False, amp=False, T=20, batch=BATCH, kind=CompiledSteps):
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(0.15 * torch.randn(10, 784, generator=generator))
    active = spikes.active_pixels(images_of(N, active=100))
    labels = torch.eye(10)[torch.arange(N) % 10]
    settings = {
        "steps": STEPS, "batch": batch, "T": T, "optimizer": OPTIMIZERS[optimizer](weight),
        "precision": torch.bfloat16 if amp else torch.float32, "average": weight.detach().clone() if average else None,
    }  # fmt: skip
    if kind is CompiledSteps:
        return CompiledSteps(active, weight, labels, spec or spec_of(), **settings)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return FusedSteps(fused_cpu, weight, active, labels, spec or spec_of(), scaler=scaler, **settings)


def run(steps, epochs=(0, 1), cuts=()):
    """Rates of each epoch, weight, average and optimiser state after them."""
    factor = 300 if "momentum" in steps.optimizer.param_groups[0] else 1
    seen = []
    for epoch in epochs:
        rates = [factor * rate for rate in RATES]
        steps.begin(SpikeKey(1, 0, epoch), ORDERS[epoch], rates, DECAYS if steps.average is not None else None)
        for first, last in zip((0, *cuts), (*cuts, STEPS), strict=True):
            steps.run(first, last)
        seen.append(steps.rates.clone())
    return seen + tensors(steps)


def tensors(steps):
    state = [value for value in steps.optimizer.state[steps.weight].values() if value is not None]
    return [t.detach().clone() for t in (steps.weight, *state, *([] if steps.average is None else [steps.average]))]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("optimizer", "torch_s"), [("adam", "torch adam"), ("momentum", "torch momentum")])
@pytest.mark.parametrize("settings", [{}, {"average": True}, {"amp": True}, {"T": 150}, {"batch": 1}], ids=str)
def test_close_to_the_steps_with_torch_s_optimizer(optimizer, torch_s, settings):
    """Two programs for the same float32 steps: they differ by rounding alone."""
    compiled, fused = run(made(optimizer, **settings)), run(made(torch_s, kind=FusedSteps, **settings))
    assert len(compiled) == len(fused)
    assert torch.equal(compiled[0], fused[0]) and compiled[0].sum() > 0
    for a, b in zip(compiled[1:], fused[1:], strict=True):
        assert (a - b).abs().max() <= 2e-6 * b.abs().max()
    assert not torch.equal(compiled[0], compiled[1])


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_every_surrogate_with_every_neuron(name):
    """After one step of SGD the momentum is the gradient."""
    for spec in (
        spec_of(name),
        spec_of(name, tau=None, v_reset=None),
        spec_of(name, v_reset=-0.1, decay_input=False),
        spec_of(name, detach=True),
    ):
        compiled, fused = made("momentum", spec), made("torch momentum", spec, kind=FusedSteps)
        for steps in (compiled, fused):
            steps.begin(SpikeKey(1, 0, 0), ORDERS[0], RATES)
            steps.run(0, 1)
        assert torch.equal(compiled.rates, fused.rates)
        a, b = (steps.optimizer.state[steps.weight]["momentum_buffer"] for steps in (compiled, fused))
        assert (a - b).abs().max() <= 1e-6 * b.abs().max() and b.abs().max() > 0


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_many_steps_in_float64(optimizer):
    """Autograd through the equations and torch.optim, both in float64, from the same spikes."""
    steps = made(optimizer)
    exact = steps.weight.detach().double().requires_grad_()
    group = steps.optimizer.param_groups[0]
    if optimizer == "adam":
        reference = torch.optim.Adam([exact], lr=group["lr"])
    else:
        reference = torch.optim.SGD([exact], lr=group["lr"], momentum=group["momentum"])
    images, done = images_of(N, active=100), 0
    while done < 50:
        key, order, rates = SpikeKey(1, 0, done // STEPS), ORDERS[0].roll(done), [group["lr"]] * STEPS
        steps.begin(key, order, rates)
        steps.run(0, STEPS)
        for step in range(STEPS):
            index = order[step * BATCH : (step + 1) * BATCH]
            spiked = poisson_encode(images[index], index, 0, 20, key).double()
            rate = equations(spiked @ exact.T, torch.zeros(BATCH, 10, dtype=torch.float64), spec_of())[0].mean(0)
            assert (rate - steps.rates[step * BATCH : (step + 1) * BATCH]).abs().max() < 1e-6
            reference.zero_grad()
            mse_loss(rate, steps.labels[index].double()).backward()
            reference.step()
        done += STEPS
    assert (steps.weight - exact).norm() <= 1e-6 * exact.norm()


@pytest.mark.parametrize(
    "settings", [{}, {"optimizer": "momentum", "amp": True}, {"average": True, "batch": 21}], ids=str
)
def test_bits_for_every_number_of_threads_and_every_cut(settings):
    most, whole = numba.get_num_threads(), run(made(**settings))
    try:
        for threads in range(1, min(4, numba.config.NUMBA_NUM_THREADS) + 1):
            numba.set_num_threads(threads)
            assert same(run(made(**settings), cuts=(1, 2, 5)), whole)
    finally:
        numba.set_num_threads(most)


@pytest.mark.parametrize("workers", [3, 5, 8, 11])
def test_bits_for_more_workers_than_cores(workers, monkeypatch):
    """Workers are parts of the work; they need not be threads of their own."""
    whole = run(made(batch=21, average=True))
    monkeypatch.setattr(numba, "get_num_threads", lambda: workers)
    assert same(run(made(batch=21, average=True)), whole)


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "sgd"])
def test_a_resumed_run_has_the_same_bits(optimizer):
    whole = run(made(optimizer, average=True))
    before, after = made(optimizer, average=True), made(optimizer, average=True)
    run(before, (0,))
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    with torch.no_grad():
        after.weight.copy_(before.weight)
        after.average.copy_(before.average)
    assert same(run(after, (1,)), whole[1:])


@pytest.mark.parametrize(("ours", "torch_s"), [("adam", "torch adam"), ("momentum", "torch momentum")])
def test_state_dict_has_torch_s_form(ours, torch_s):
    """The same keys in the same order and the same values, and each loads the other's."""
    one, other = made(ours), made(torch_s, kind=FusedSteps)
    newer = {"decoupled_weight_decay"} - other.optimizer.param_groups[0].keys()  # torch has it since 2.7

    def state_dict(optimizer):
        state = optimizer.state_dict()
        return state | {"param_groups": [{k: v for k, v in g.items() if k not in newer} for g in state["param_groups"]]}

    assert state_dict(one.optimizer) == state_dict(other.optimizer)
    run(one), run(other)
    a, b = state_dict(one.optimizer), state_dict(other.optimizer)
    assert a["param_groups"] == b["param_groups"] and list(a["param_groups"][0]) == list(b["param_groups"][0])
    assert list(a["state"]) == list(b["state"]) == [0] and list(a["state"][0]) == list(b["state"][0])
    for name, value in b["state"][0].items():
        assert a["state"][0][name].dtype == value.dtype and a["state"][0][name].shape == value.shape
        assert (a["state"][0][name] - value).abs().max() <= 2e-6 * value.abs().max()
    fresh_one, fresh_other = made(ours).optimizer, made(torch_s).optimizer
    fresh_one.load_state_dict(b)
    fresh_other.load_state_dict(a)
    for loaded, saved in ((fresh_other, a), (fresh_one, b)):
        assert state_dict(loaded)["param_groups"] == saved["param_groups"]
        for name, value in saved["state"][0].items():
            copy = loaded.state_dict()["state"][0][name]
            assert torch.equal(copy, value)
    assert fresh_one.state[fresh_one.weight][name].data_ptr() != value.data_ptr()


def test_settings_that_the_kernel_lacks_are_refused():
    steps = made("torch adam")
    steps.optimizer.param_groups[0]["weight_decay"] = 0.1
    steps.begin(SpikeKey(1, 0, 0), ORDERS[0], RATES)
    with pytest.raises(ValueError, match="weight_decay"):
        steps.run(0, 1)


def test_torch_optim_is_not_imported():
    code = (
        "import sys, snn_mnist.network.compiled_steps, snn_mnist.network.optimizer\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def digest():
    """Hash of the weights' bits after training with each optimiser."""
    bits = hashlib.sha256()
    for settings in ({"average": True}, {"optimizer": "momentum", "amp": True}):
        for tensor in run(made(**settings)):
            bits.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return bits.hexdigest()


PROCESSORS = {  # name, features of LLVM
    "SSE2": ("x86-64", ""),
    "AVX2": ("haswell", "+avx2,+fma,+bmi,+bmi2,+lzcnt,+popcnt,-avx512f"),
}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_bits_for_every_width_of_vectors(processor):
    """Those narrower than this processor's own, in which `digest` is computed here."""
    name, features = PROCESSORS[processor]
    if numba.core.codegen.ll.get_process_triple().split("-")[0] != "x86_64":
        pytest.skip("names of x86 processors")
    if processor == "AVX2" and "+avx512f," not in str(numba.core.codegen.ll.get_host_cpu_features().flatten()):
        pytest.skip("needs a processor with AVX-512")
    environment = os.environ | {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    code = "from tests.network.test_compiled_steps import digest; print(digest())"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == digest()
