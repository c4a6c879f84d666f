"""The start-up check of a CUDA backend: a small batch must give on the device what it gives on the CPU."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from snn_mnist.errors import SNNError
from snn_mnist.kernels import spikes
from snn_mnist.kernels.cuda.available import one_line
from snn_mnist.kernels.neuron import NeuronSpec
from snn_mnist.kernels.spikes import SpikeKey
from snn_mnist.network.fused_steps import FusedSteps
from snn_mnist.network.training_steps import Training

_LIF = NeuronSpec(2.0, True, 1.0, 0.0, False, "atan", (("alpha", 2.0),))


@functools.cache
@torch.enable_grad()
def find_error(kernels: Any, device: torch.device) -> str | None:
    """None if a small batch gives on this device what it gives on the CPU, else what is wrong. Takes a second or two.

    kernels: the module of a fused pass. A SNNError if the device can't be used at all: before, or afterwards, since a
    faulting kernel invalidates the process's CUDA context.
    """
    try:
        torch.zeros(1, device=device)
    except RuntimeError as error:  # no memory left, or in exclusive use by another process
        raise SNNError(f"{device} can't be used: {one_line(error)}") from error
    try:
        found = _wrong_results(kernels, device) or _wrong_graphs(kernels, device)
    except Exception as error:  # a kernel that can't be compiled or launched, or an error of the device
        found = one_line(error)
        try:
            if device.type == "cuda":
                torch.zeros(1, device=device).cpu()  # does torch still work there?
        except torch.OutOfMemoryError:
            pass
        except RuntimeError as lost:
            raise SNNError(
                f"the CUDA kernels have made {device} unusable for this process ({found}); "
                "use -backend torch, and report this"
            ) from lost
    return f"its start-up check failed: {found}" if found else None


def _wrong_results(kernels: Any, device: torch.device) -> str | None:
    """Compares spikes bit by bit, and rates, counts and gradient with a plain loop in float64."""
    samples, pixels, outputs, steps = 5, 96, 10, 40
    n, c, p = torch.arange(samples)[:, None], torch.arange(outputs)[:, None], torch.arange(pixels)
    images = ((37 * p + 101 * n) % 256).byte()
    images[:, ::3], images[:, 1::16] = 0, 255
    weight = ((13 * c + 7 * p + 5 * c * p) % 17 - 7) * 0.03
    upstream = (n + 1) * torch.cos(2.0 * c.T + n)
    key, index = SpikeKey(1, 2, 3), torch.arange(samples).flip(0)
    active = kernels.active_pixels(images.to(device))
    inputs = spikes.encode(images[index], index, 0, steps, key)
    if not torch.equal(kernels.encode(active, index, 0, steps, key).cpu(), inputs):
        return "the spikes differ from the CPU's"
    exact = weight.double().requires_grad_()
    fired, closest = _reference(inputs.double() @ exact.T)
    (fired.mean(0) * upstream).sum().backward()
    on_device, rate = weight.to(device), torch.empty(samples, outputs, device=device)
    eligibility, gradient = kernels.new_eligibility(active, samples, weight.shape), torch.empty_like(on_device)
    kernels.learn(on_device, active, index, steps, key, _LIF, torch.float32, rate, eligibility)
    kernels.weight_gradient(active, index, upstream.to(device), eligibility, _LIF, steps, gradient)
    counts, input_counts = kernels.firing_counts(on_device, active, index, [16, steps], key, _LIF)
    assert exact.grad is not None and closest > 1e-5  # no neuron is at its threshold
    totals = torch.stack([fired[:16].sum(0), fired.sum(0)], 1)
    if not torch.equal(input_counts.cpu(), inputs.sum((0, 2)).long()) or not torch.equal(counts.cpu().double(), totals):
        return "the spike counts differ from the CPU's"
    rates_agree = torch.allclose(rate.cpu().double(), fired.mean(0), rtol=0, atol=1e-6)
    worst = (gradient.cpu() - exact.grad).abs().max() / exact.grad.abs().max()
    if not rates_agree or not worst < 1e-5:
        return f"rates or gradients differ from the CPU's (gradient by {worst:.1e})"
    return None


def _wrong_graphs(kernels: Any, device: torch.device) -> str | None:
    """Compares two epochs of training steps replayed from CUDA graphs with the same steps launched one by one."""
    steps, batch, pixels = 6, 4, 96
    p, n, c = torch.arange(pixels), torch.arange(steps * batch)[:, None], torch.arange(10)[:, None]
    active = kernels.active_pixels(((37 * p + 101 * n) % 256).byte().to(device))
    start, labels = (((13 * c + 7 * p + 5 * c * p) % 17 - 7) * 0.03).to(device), torch.eye(10, device=device)
    learned = []
    for capture in (False, device.type == "cuda"):
        weight = torch.nn.Parameter(start.clone())
        training = Training(
            steps=steps,
            batch=batch,
            T=40,
            optimizer=torch.optim.Adam([weight], fused=True, capturable=True),
            scaler=torch.amp.GradScaler(device.type, enabled=False),
            amp=False,
            average=None,
            rates=torch.zeros(len(n), 10, device=device),
            skipped=torch.zeros((), dtype=torch.int64, device=device),
        )
        targets = labels[torch.arange(len(n), device=device) % 10]
        run = FusedSteps(kernels, weight, active, targets, _LIF, torch.float32, training, chunk=2, capture=capture)
        for epoch in range(2):  # the first chunk of the first epoch is never replayed
            run.begin(SpikeKey(1, 0, epoch), torch.arange(len(n)).roll(epoch), [0.01] * steps)
            run.run(0, steps)
        learned.append(weight.detach())
    if not torch.equal(*learned) or torch.equal(learned[0], start):
        return "training steps replayed from CUDA graphs differ from those launched one by one"
    return None


def _reference(current: Tensor) -> tuple[Tensor, float]:
    """LIF (tau 2, ATan 2) over currents [T, N, C], and the smallest distance of a membrane to its threshold."""
    v, fired, closest = torch.zeros_like(current[0]), [], float("inf")
    for x in current:
        over = v + (x - v) / 2 - 1
        closest = min(closest, over.detach().abs().min().item())
        soft = torch.atan(torch.pi * over) / torch.pi
        spike = (over >= 0).double() + (soft - soft.detach())
        fired.append(spike)
        v = (1 - spike) * (over + 1)
    return torch.stack(fired), closest
