"""The check on the very device before the CUDA backend is taken: a tiny batch must give what the CPU gives."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from snn_mnist.kernels.cuda import fused as fused_cuda
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.kernels.neuron_spec import NeuronSpec
from snn_mnist.kernels.spikes import SpikeKey, encode_torch
from snn_mnist.model.fused_steps import FusedSteps

_LIF = NeuronSpec(2.0, True, 1.0, 0.0, False, "atan", (("alpha", 2.0),))


@functools.cache
@torch.enable_grad()
def self_check(device: torch.device) -> str | None:
    """None when a tiny batch gives on this device what the CPU gives, else what went wrong. A second or two.

    RuntimeError when the device can't be used at all, before or after: a kernel's fault takes all CUDA of a process
    with it.
    """
    try:
        torch.zeros(1, device=device)
    except RuntimeError as error:  # full, or another's alone
        raise RuntimeError(f"{device} can't be used: {cuda.one_line(error)}") from error
    try:
        return _differences(device) or _graphs_differ(device)
    except Exception as error:  # a kernel that can't be compiled or launched, or a fault of the device
        found = f"its start-up check failed: {cuda.one_line(error)}"
        try:
            if device.type == "cuda":
                torch.zeros(1, device=device).cpu()  # does torch still work there?
        except torch.OutOfMemoryError:
            pass
        except RuntimeError as dead:
            raise RuntimeError(
                f"the CUDA kernels have made {device} unusable for this process ({found}); "
                "use -backend torch, and report this"
            ) from dead
        return found


def _differences(device: torch.device) -> str | None:
    """Compares spikes bit by bit, and rates, counts and gradient with a plain loop in float64."""
    samples, pixels, outputs, steps = 5, 96, 10, 40
    n, c, p = torch.arange(samples)[:, None], torch.arange(outputs)[:, None], torch.arange(pixels)
    images = ((37 * p + 101 * n) % 256).byte()
    images[:, ::3], images[:, 1::16] = 0, 255
    weight = ((13 * c + 7 * p + 5 * c * p) % 17 - 7) * 0.03
    upstream = (n + 1) * torch.cos(2.0 * c.T + n)
    key, index = SpikeKey(1, 2, 3), torch.arange(samples).flip(0)
    active = fused_cuda.active_pixels(images.to(device))
    spikes = encode_torch(images[index], index, 0, steps, key)
    if not torch.equal(fused_cuda.encode(active, index, 0, steps, key).cpu(), spikes):
        return "its start-up check failed: the spikes differ from the CPU's"
    exact = weight.double().requires_grad_()
    fired, closest = _reference(spikes.double() @ exact.T)
    (fired.mean(0) * upstream).sum().backward()
    on_device = weight.to(device).requires_grad_()
    rate = fused_cuda.firing_rate(on_device, active, index, steps, key, _LIF)
    (rate * upstream.to(device)).sum().backward()
    counts, inputs = fused_cuda.firing_counts(on_device, active, index, [16, steps], key, _LIF)
    assert exact.grad is not None and on_device.grad is not None and closest > 1e-5  # no tie decides
    totals = torch.stack([fired[:16].sum(0), fired.sum(0)], 1)
    if not torch.equal(inputs.cpu(), spikes.sum((0, 2)).long()) or not torch.equal(counts.cpu().double(), totals):
        return "its start-up check failed: the spike counts differ from the CPU's"
    rates_agree = torch.allclose(rate.detach().cpu().double(), fired.mean(0), rtol=0, atol=1e-6)
    worst = (on_device.grad.cpu() - exact.grad).abs().max() / exact.grad.abs().max()
    if not rates_agree or not worst < 1e-5:
        return f"its start-up check failed: rates or gradients differ from the CPU's (gradient by {worst:.1e})"
    return None


def _graphs_differ(device: torch.device) -> str | None:
    """Compares two epochs of training steps replayed from CUDA graphs with the same steps launched one by one."""
    steps, batch, pixels = 6, 4, 96
    p, n, c = torch.arange(pixels), torch.arange(steps * batch)[:, None], torch.arange(10)[:, None]
    active = fused_cuda.active_pixels(((37 * p + 101 * n) % 256).byte().to(device))
    start, labels = (((13 * c + 7 * p + 5 * c * p) % 17 - 7) * 0.03).to(device), torch.eye(10, device=device)
    learned = []
    for capture in (False, device.type == "cuda"):
        weight = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.Adam([weight], fused=True, capturable=True)
        run = FusedSteps(
            fused_cuda, weight, active, labels[torch.arange(len(n), device=device) % 10], _LIF, steps=steps,
            batch=batch, T=40, optimizer=optimizer, scaler=torch.amp.GradScaler(device.type, enabled=False), chunk=2,
            capture=capture,
        )  # fmt: skip
        for epoch in range(2):  # the first chunk of the first epoch is never replayed
            run.begin(SpikeKey(1, 0, epoch), torch.arange(len(n)).roll(epoch), [0.01] * steps)
            run.run(0, steps)
        learned.append(weight.detach())
    if not torch.equal(*learned) or torch.equal(learned[0], start):
        return "its start-up check failed: training steps replayed from CUDA graphs differ from those launched singly"
    return None


def _reference(current: Tensor) -> tuple[Tensor, float]:
    """LIF (tau 2, ATan 2) over currents [T, N, C]; also how close a membrane came to its threshold."""
    v, fired, closest = torch.zeros_like(current[0]), [], float("inf")
    for x in current:
        over = v + (x - v) / 2 - 1
        closest = min(closest, over.detach().abs().min().item())
        soft = torch.atan(torch.pi * over) / torch.pi
        spike = (over >= 0).double() + (soft - soft.detach())
        fired.append(spike)
        v = (1 - spike) * (over + 1)
    return torch.stack(fired), closest
