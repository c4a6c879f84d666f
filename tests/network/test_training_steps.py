"""The fused training steps against those of autograd: the same bits, however an epoch is cut."""

import pytest
import torch

from snn_mnist.network.autograd_steps import AutogradSteps
from snn_mnist.network.engine import make_engine
from snn_mnist.network.fused_steps import FusedSteps
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import SpikeKey
from tests.support.neurons import images_of

STEPS, BATCH, T, N = 7, 4, 20, 30


def trained(kind, optimizer, amp=False, init_scale=None, average=False, cuts=(STEPS,)):
    """Weight, average, rates, number of skipped steps and the optimiser's state after two epochs."""
    torch.manual_seed(0)
    net = SNN(step_mode="m")
    with torch.no_grad():
        net.weight.mul_(4)
    engine = make_engine("numba", net, images_of(N, active=100))
    if optimizer == "adam":
        made = torch.optim.Adam([net.weight], lr=9.0, fused=True)
    else:
        made = torch.optim.SGD([net.weight], lr=9.0, momentum=0.9, fused=True)
        made.state[net.weight]["momentum_buffer"] = torch.zeros_like(net.weight)
    averaged = net.weight.detach().clone() if average else None
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale or 1.0, enabled=init_scale is not None)
    rates, skipped = torch.zeros(STEPS * BATCH, 10), torch.zeros((), dtype=torch.int64)
    settings = {
        "steps": STEPS, "batch": BATCH, "T": T, "optimizer": made, "scaler": scaler, "amp": amp, "average": averaged,
        "rates": rates, "skipped": skipped,
    }  # fmt: skip
    labels = 300 * torch.eye(10)[torch.arange(N) % 10]
    if kind == "autograd":
        steps = AutogradSteps(engine, labels, **settings)
    else:
        del settings["amp"]
        precision = torch.bfloat16 if amp else torch.float32
        steps = FusedSteps(
            engine.kernels, net.weight, engine.active, labels, engine.spec, precision=precision, **settings
        )
    seen = []
    for epoch in (3, 4):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(epoch))
        decays = [min(0.99, (1 + step) / (10 + step)) for step in range(STEPS)] if average else None
        steps.begin(SpikeKey(1, 0, epoch), order, [0.01 / (1 + step) for step in range(STEPS)], decays)
        for first, last in zip((0, *cuts), (*cuts, STEPS), strict=True):
            steps.run(first, last)
        seen.append(rates.clone())
    state = [value for value in made.state[net.weight].values() if isinstance(value, torch.Tensor)]
    tensors = [net.weight.detach(), *seen, *state] + ([averaged] if average else [])
    return tensors, int(skipped), scaler.state_dict(), made.param_groups[0]["lr"]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("settings", [{}, {"average": True}, {"amp": True}, {"init_scale": 2.0**127}], ids=str)
def test_fused_steps_are_those_of_autograd(optimizer, settings):
    plain, *numbers = trained("autograd", optimizer, **settings)
    fused, *fused_numbers = trained("fused", optimizer, **settings, cuts=(2, 5))
    assert numbers == fused_numbers and numbers[-1] == 0.01 / STEPS
    assert (numbers[0] > 0) == ("init_scale" in settings) and numbers[0] < STEPS
    for a, b in zip(plain, fused, strict=True):
        assert torch.equal(a, b)
    assert plain[1].sum() > 0 and not torch.equal(plain[1], plain[2])


def test_half_precision_moves_the_rates():
    plain, half = trained("fused", "adam")[0], trained("fused", "adam", amp=True)[0]
    assert not torch.equal(plain[0], half[0]) and (plain[1] - half[1]).abs().mean() < 0.05


def test_an_optimiser_that_can_not_be_captured():
    from snn_mnist.kernels.cpu import fused as fused_cpu

    weight = torch.nn.Parameter(torch.zeros(10, 784))
    adam, scaler = torch.optim.Adam([weight], fused=True), torch.amp.GradScaler("cpu", enabled=False)
    active, spec = fused_cpu.active_pixels(images_of(2)), SNN().spiking.spec()
    with pytest.raises(ValueError, match="capturable"):
        FusedSteps(
            fused_cpu, weight, active, torch.eye(10)[:2], spec, steps=1, batch=2, T=4, optimizer=adam, scaler=scaler,
            capture=True,
        )  # fmt: skip
