"""The network, and how each backend takes it from images to firing rates.

    image k/255 → Poisson spikes S_in[t] → X[t] = W S_in[t] → LIF → S[t] → rate = mean over t of S[t]

`SNN` is the network as the tutorial writes it. An engine holds a network and the images of one split on one backend
and has two methods: `firing_rate`, differentiable, for training; `firing_counts`, forward only, for tests.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from snn_mnist.config import Config
from snn_mnist.core import functional, layer, neuron, surrogate
from snn_mnist.core.poisson import Draw, poisson_encode

PIXELS, CLASSES = 784, 10
CHUNK_BYTES = 64 << 20  # of spikes as floats that the torch engine makes at a time when nothing is differentiated


class SNN(nn.Module):
    """Flatten → Linear(784, 10, bias=False) → LIF (or IF), [N, 784] or [T, N, 784] spikes to spikes [.., N, 10]."""

    def __init__(
        self,
        tau: float = 2.0,
        *,
        neuron_type: str = "lif",
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate_name: str = "atan",
        alpha: float | None = None,
        step_mode: str = "s",
    ) -> None:
        super().__init__()
        gradient = surrogate.SURROGATES[surrogate_name](**({} if alpha is None else {"alpha": alpha}))
        if neuron_type == "if":
            spiking: neuron.BaseNode = neuron.IFNode(v_threshold, v_reset, gradient)
        else:
            spiking = neuron.LIFNode(tau, True, v_threshold, v_reset, gradient)
        self.layer = nn.Sequential(layer.Flatten(), layer.Linear(PIXELS, CLASSES, bias=False), spiking)
        functional.set_step_mode(self, step_mode)

    @classmethod
    def from_config(cls, config: Config) -> SNN:
        """The network that these settings describe, with torch's initial weights."""
        return cls(
            config.tau,
            neuron_type=config.neuron,
            v_threshold=config.v_threshold,
            v_reset=config.v_reset,
            surrogate_name=config.surrogate,
            alpha=config.alpha,
            step_mode=config.step_mode,
        )

    @property
    def weight(self) -> Tensor:
        """[10, 784]"""
        return cast(Tensor, self.layer[1].weight)

    @property
    def spiking(self) -> neuron.BaseNode:
        """The ten output neurons."""
        return cast(neuron.BaseNode, self.layer[2])

    def forward(self, spikes: Tensor) -> Tensor:
        current = self.layer[:2](spikes)
        return self.spiking(current.to(self.weight.dtype))  # under autocast too: half precision is too coarse for v


class Engine(Protocol):
    """A network and the images of one split on one backend."""

    def firing_rate(self, index: Tensor, steps: int, draw: Draw) -> Tensor:
        """Mean number of spikes a step [N, 10] of the images `index` [N] int64 over T = steps, with its gradient."""

    def firing_counts(self, index: Tensor, marks: list[int], draw: Draw) -> tuple[Tensor, Tensor]:
        """Output spikes in the first marks[m] steps [N, M, 10] (marks ascending, the last one is T), and the number
        of input spikes in T steps [N]."""


class TorchEngine:
    """The reference: the modules of `core`, on any device, in either step mode."""

    def __init__(self, net: SNN, images: Tensor) -> None:
        """images [N, 784] uint8, on the network's device"""
        self.net, self.images = net, images

    def _spans(self, index: Tensor, steps: int, draw: Draw, span: int):  # type: ignore[no-untyped-def]
        """(first step, spikes [T', N, 784]) for T' = span steps at a time."""
        index = index.to(self.images.device)
        images = self.images[index]
        for start in range(0, steps, span):
            yield start, poisson_encode(images, index, start, min(start + span, steps), draw)

    def _output(self, spikes: Tensor) -> Tensor:
        """Output spikes [T', N, 10] of the next T' steps; the neurons keep v in between."""
        if self.net.spiking.step_mode == "m":
            return self.net(spikes)
        return torch.stack([self.net(step) for step in spikes])

    def firing_rate(self, index: Tensor, steps: int, draw: Draw) -> Tensor:
        span = steps if self.net.spiking.step_mode == "m" else 16
        total = sum(self._output(spikes).sum(0) for _, spikes in self._spans(index, steps, draw, span))
        functional.reset_net(self.net)
        assert isinstance(total, Tensor)
        return total / steps

    @torch.no_grad()
    def firing_counts(self, index: Tensor, marks: list[int], draw: Draw) -> tuple[Tensor, Tensor]:
        span = max(16, CHUNK_BYTES // (4 * PIXELS * len(index)) // 16 * 16)  # memory is independent of T
        counts = torch.zeros(len(index), len(marks), CLASSES, device=self.images.device)
        inputs = torch.zeros(len(index), dtype=torch.int64, device=self.images.device)
        for start, spikes in self._spans(index, marks[-1], draw, span):
            fired = self._output(spikes)
            inputs += spikes.sum((0, 2)).long()
            for m, mark in enumerate(marks):
                if mark > start:
                    counts[:, m] += fired[: mark - start].sum(0)
        functional.reset_net(self.net)
        return counts, inputs


class NumbaEngine:
    """The fused CPU kernels: one pass from pixels to rates and the weight gradient."""

    def __init__(self, net: SNN, images: Tensor) -> None:
        from snn_mnist.kernels import fused_cpu, spikes

        self.kernels, self.net, self.live = fused_cpu, net, spikes.live_pixels(images.numpy())
        self.spec = net.spiking.spec()

    def _weight(self) -> Tensor:
        """Under autocast rounded to its type, as a linear layer's would be; sums and v stay in float32."""
        if torch.is_autocast_enabled("cpu"):
            return self.net.weight.to(torch.get_autocast_dtype("cpu")).float()
        return self.net.weight

    def firing_rate(self, index: Tensor, steps: int, draw: Draw) -> Tensor:
        return self.kernels.firing_rate(self._weight(), self.live, index, steps, draw, self.spec)

    @torch.no_grad()
    def firing_counts(self, index: Tensor, marks: list[int], draw: Draw) -> tuple[Tensor, Tensor]:
        return self.kernels.firing_counts(self._weight(), self.live, index, marks, draw, self.spec)


class CupyEngine:
    """The fused CUDA kernels: the numba engine's pass on a GPU, in torch's memory and on torch's stream."""

    def __init__(self, net: SNN, images: Tensor) -> None:
        """images [N, 784] uint8, on the network's device"""
        from snn_mnist.kernels import fused_cuda

        self.kernels, self.net, self.live = fused_cuda, net, fused_cuda.live_pixels(images)
        self.spec = net.spiking.spec()

    def _weight(self) -> tuple[Tensor, bool]:
        """The weight, and whether the kernel rounds it to float16: autocast's other type is rounded here."""
        weight = self.net.weight
        if not torch.is_autocast_enabled("cuda"):
            return weight, False
        dtype = torch.get_autocast_dtype("cuda")
        return (weight, True) if dtype == torch.float16 else (weight.to(dtype).float(), False)

    def firing_rate(self, index: Tensor, steps: int, draw: Draw) -> Tensor:
        weight, rounded = self._weight()
        return self.kernels.firing_rate(weight, self.live, index, steps, draw, self.spec, rounded)

    @torch.no_grad()
    def firing_counts(self, index: Tensor, marks: list[int], draw: Draw) -> tuple[Tensor, Tensor]:
        weight, rounded = self._weight()
        return self.kernels.firing_counts(weight, self.live, index, marks, draw, self.spec, rounded)


ENGINES: dict[str, type[TorchEngine] | type[NumbaEngine] | type[CupyEngine]] = {
    "torch": TorchEngine,
    "numba": NumbaEngine,
    "cupy": CupyEngine,
}
