"""The start-up check of a CUDA backend: a small batch must give on the device what it gives on the CPU."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from snn_mnist.core import neuron, surrogate
from snn_mnist.errors import SNNError
from snn_mnist.kernels import spikes
from snn_mnist.kernels.cuda import fused as kernels
from snn_mnist.kernels.cuda.available import one_line
from snn_mnist.kernels.spikes import SpikeKey
from snn_mnist.network.fused_steps import FusedSteps
from snn_mnist.network.training_steps import Training


@functools.cache
@torch.enable_grad()
def find_error(device: torch.device) -> str | None:
    """Return None if a small batch gives on this device what it gives on the CPU, else what is wrong. Takes a second or
    two.

    A SNNError if the device can't be used at all: before, or afterwards, since a faulting kernel invalidates the
    process's CUDA context.
    """
    try:
        torch.zeros(1, device=device)
    except RuntimeError as error:  # no memory left, or in exclusive use by another process
        raise SNNError(f"{device} can't be used: {one_line(error)}") from error
    try:
        found = _wrong_results(device) or _wrong_graphs(device)
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


def _images_and_weight(samples: int) -> tuple[Tensor, Tensor]:
    """Return images [N, 96] uint8 and a weight [10, 96] that leave each neuron 1e-5 or more from its threshold."""
    n, c, p = torch.arange(samples)[:, None], torch.arange(10)[:, None], torch.arange(96)
    images = ((37 * p + 101 * n) % 256).byte()
    images[:, ::3], images[:, 1::16] = 0, 255
    return images, ((13 * c + 7 * p + 5 * c * p) % 17 - 7) * 0.03


def _wrong_results(device: torch.device) -> str | None:
    """Compare spikes bit by bit, and rates, counts and gradient with the neurons of core in float64."""
    samples, steps, key = 5, 40, SpikeKey(1, 2, 3)
    (images, weight), index = _images_and_weight(samples), torch.arange(samples).flip(0)
    upstream = torch.arange(1, samples + 1)[:, None] * torch.cos(
        torch.arange(samples)[:, None] + 2.0 * torch.arange(10)
    )
    active = kernels.active_pixels(images.to(device))
    inputs = spikes.encode(images[index], index, 0, steps, key)
    if not torch.equal(kernels.encode(active, index, 0, steps, key).cpu(), inputs):
        return "the spikes differ from the CPU's"
    exact, lif = weight.double().requires_grad_(), neuron.LIFNode(surrogate_function=surrogate.ATan(), step_mode="m")
    fired = lif(inputs.double() @ exact.T)
    (expected,) = torch.autograd.grad((fired.mean(0) * upstream).sum(), exact)
    on_device, rate = weight.to(device), torch.empty(upstream.shape, device=device)
    eligibility, gradient = kernels.new_eligibility(active, samples, weight.shape), torch.empty_like(on_device)
    kernels.learn(on_device, active, index, steps, key, lif.spec(), torch.float32, rate, eligibility)
    kernels.weight_gradient(active, index, upstream.to(device), eligibility, lif.spec(), steps, gradient)
    counts, input_counts = kernels.firing_counts(on_device, active, index, [16, steps], key, lif.spec())
    totals = torch.stack([fired[:16].sum(0), fired.sum(0)], 1)
    if not torch.equal(input_counts.cpu(), inputs.sum((0, 2)).long()) or not torch.equal(counts.cpu().double(), totals):
        return "the spike counts differ from the CPU's"
    rates_agree = torch.allclose(rate.cpu().double(), fired.mean(0), rtol=0, atol=1e-6)
    worst = (gradient.cpu() - expected).abs().max() / expected.abs().max()
    if not rates_agree or not worst < 1e-5:
        return f"rates or gradients differ from the CPU's (gradient by {worst:.1e})"
    return None


def _wrong_graphs(device: torch.device) -> str | None:
    """Compare two epochs of training steps replayed from CUDA graphs with the same steps launched one by one."""
    steps, batch = 6, 4
    images, start = (tensor.to(device) for tensor in _images_and_weight(steps * batch))
    active, labels = kernels.active_pixels(images), torch.eye(10, device=device)[torch.arange(len(images)) % 10]
    spec, learned = neuron.LIFNode(surrogate_function=surrogate.ATan()).spec(), []
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
            rates=torch.zeros(len(images), 10, device=device),
            skipped=torch.zeros((), dtype=torch.int64, device=device),
        )
        run = FusedSteps(weight, active, labels, spec, training, chunk=2, capture=capture)
        for epoch in range(2):  # the first chunk of the first epoch is never replayed
            run.begin(SpikeKey(1, 0, epoch), torch.arange(len(images)).roll(epoch), [0.01] * steps)
            run.run(0, steps)
        learned.append(weight.detach())
    if not torch.equal(*learned) or torch.equal(learned[0], start):
        return "training steps replayed from CUDA graphs differ from those launched one by one"
    return None
