"""From a network and images to firing counts and training steps, on each backend."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from snn_mnist.core import functional
from snn_mnist.network.network import CLASSES, PIXELS, SNN, vote
from snn_mnist.network.own import OwnNetwork
from snn_mnist.network.poisson import SpikeKey, dropout_mask, encode
from snn_mnist.network.training_steps import AutogradSteps, Training, TrainingSteps, seed_torch

CHUNK_BYTES = 64 << 20  # of spikes as floats that the torch engine holds at a time when nothing is differentiated


class TorchEngine:
    """The reference: the modules of `core`, on any device, in either step mode."""

    def __init__(self, net: Any, images: Tensor) -> None:
        """net: SNN or OwnNetwork; images [N, 784] uint8, on its device"""
        self.net, self.images = net, images
        self.whole = isinstance(net, OwnNetwork)  # it may do with T what it wants, so it gets all T at once

    def _spans(self, index: Tensor, steps: int, key: SpikeKey, span: int, dropout: float = 0.0):  # type: ignore[no-untyped-def]
        """Yield (first step, input, output spikes [T', N, 10 votes]) for T' = span steps at a time.

        The neurons keep v in between. Input [T', N, 784], or [1, N, 784] if it is the same at each step.
        """
        index = index.to(self.images.device)
        images = self.images[index]
        mask = dropout_mask(images, index, key, dropout) if dropout else None
        for start in range(0, steps, steps if self.whole else span):
            stop = min(start + (steps if self.whole else span), steps)
            inputs = encode(self.net.encoding, images, index, start, stop, steps, key)
            inputs = inputs if mask is None else inputs.mul_(mask)
            yield start, inputs, self.net.respond(inputs, stop - start)

    def firing_rate(self, index: Tensor, steps: int, key: SpikeKey, dropout: float = 0.0) -> Tensor:
        """Return the scores [N, 10] of the images `index` [N] int64, differentiable: spikes per step and neuron."""
        self.net.train()
        span = steps if self.whole or self.net.spiking.step_mode == "m" else 16
        total = sum(fired.sum(0) for _, _, fired in self._spans(index, steps, key, span, dropout))
        functional.reset_net(self.net)
        return vote(total / steps)

    @torch.no_grad()
    def firing_counts(self, index: Tensor, readout_steps: list[int], key: SpikeKey) -> tuple[Tensor, Tensor]:
        """Return the output spikes in the first readout_steps[m] steps [N, M, 10 votes] (readout_steps ascend, the last
        one is T) and the number of input spikes in T steps [N], of a constant current that of the active pixels."""
        self.net.eval()
        seed_torch(key, 0)
        span = max(16, CHUNK_BYTES // (4 * PIXELS * len(index)) // 16 * 16)  # memory is independent of T
        counts = torch.zeros(len(index), len(readout_steps), CLASSES * self.net.votes, device=self.images.device)
        inputs = torch.zeros(len(index), dtype=torch.int64, device=self.images.device)
        for start, given, fired in self._spans(index, readout_steps[-1], key, span):
            constant = self.net.encoding == "constant"
            inputs = given.count_nonzero((0, 2)) if constant else inputs + given.sum((0, 2)).long()
            for m, stop in enumerate(readout_steps):
                if stop > start:
                    counts[:, m] += fired[: stop - start].sum(0)
        functional.reset_net(self.net)
        return counts, inputs

    def training_steps(self, labels: Tensor, training: Training) -> TrainingSteps:
        """Return the training steps of an epoch, with one-hot labels [N, 10] float32."""
        return AutogradSteps(self, labels, training)


class FusedEngine:
    """Fused kernels: one pass from pixels to rates and the weight gradient."""

    def __init__(self, backend: str, net: SNN, images: Tensor) -> None:
        """images [N, 784] uint8, on the network's device"""
        if len(net.layer) != (3 if net.votes == 1 else 4):
            raise ValueError(
                f"a fused backend computes Flatten, Linear and the neurons, not {len(net.layer)} modules; use torch"
            )
        if backend == "cupy" and (net.votes > 1 or net.encoding != "poisson"):
            raise ValueError("the fused CUDA backend computes one neuron per class with Poisson spikes; use torch")
        self.backend, self.kernels = backend, fused_pass(backend)
        self.weight, self.spec = net.weight, net.spiking.spec()
        self.encoding = {"encoding": net.encoding} if backend == "numba" else {}  # a parameter of these kernels only
        self.active = self.kernels.active_pixels(images)

    @torch.no_grad()
    def firing_counts(self, index: Tensor, readout_steps: list[int], key: SpikeKey) -> tuple[Tensor, Tensor]:
        """Return what TorchEngine's does. Autocast rounds the weights, as it does in a linear layer."""
        device = self.weight.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        given = self.weight, self.active, index, readout_steps, key, self.spec, precision
        return self.kernels.firing_counts(*given, **self.encoding)

    def training_steps(self, labels: Tensor, training: Training) -> TrainingSteps:
        """Return the training steps of an epoch, with one-hot labels [N, 10] float32."""
        if self.backend == "numba":  # each imports its kernels
            from snn_mnist.network.compiled_steps import CompiledSteps

            return CompiledSteps(self.weight, self.active, labels, self.spec, training, **self.encoding)
        from snn_mnist.network.fused_steps import FusedSteps

        return FusedSteps(self.weight, self.active, labels, self.spec, training)


def fused_pass(backend: str) -> Any:
    """Return the module with the fused pass of a backend: cpu/fused.py or cuda/fused.py of kernels."""
    return importlib.import_module(f"snn_mnist.kernels.{'cpu' if backend == 'numba' else 'cuda'}.fused")


Engine = TorchEngine | FusedEngine


def make_engine(backend: str, net: Any, images: Tensor) -> Engine:
    """Return an engine of this backend for a network and the images [N, 784] uint8 of a split, on its device."""
    return TorchEngine(net, images) if backend == "torch" else FusedEngine(backend, net, images)
