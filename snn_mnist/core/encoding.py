"""Encoders: numbers in [0, 1] to spikes.

A stateless encoder maps [N, *] to spikes of the same shape, a new draw at each call. A stateful one encodes
its input once into T steps: in step mode 's' each call returns the next step [N, *] and starts again after
the last, in 'm' one call returns all of [T, N, *]; `functional.reset_net` before the next input.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from snn_mnist.core.base import MemoryModule, StepModule


def _check_range(x: Tensor, high: float = 1.0) -> Tensor:
    """x as floating point; ValueError naming a value outside [0, high]."""
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    outside = x[~((x >= 0) & (x <= high))]
    if outside.numel():
        raise ValueError(f"an encoder takes values in [0, {high:g}], but got {outside[0].item():g}; scale the input")
    return x


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1 time step")
    return value


class PoissonEncoder(nn.Module, StepModule):
    """Fires with probability x, independently at each call and element; 0 never, 1 always.

    Draws from torch's global generator. The training program's encoder, whose spikes depend on named
    coordinates only, is another: see core/poisson.py.
    """

    def __init__(self, step_mode: str = "s"):
        super().__init__()
        self.step_mode = step_mode

    def forward(self, x: Tensor) -> Tensor:
        """x  # [N, *] or [T, N, *] in [0, 1] -> spikes of the same shape"""
        x = _check_range(x)
        return (torch.rand_like(x) < x).to(x)

    def extra_repr(self) -> str:
        return f"step_mode={self.step_mode!r}"


class StatefulEncoder(MemoryModule):
    """Plays `spike` [T, N, *], which a subclass computes from x in `encode(x)`."""

    spike: Any
    t: int

    def __init__(self, T: int, step_mode: str = "s"):
        super().__init__()
        self.T = _whole("T", T)
        self.step_mode = step_mode
        self.register_memory("spike", None)  # [T, N, *]
        self.register_memory("t", 0)

    def encode(self, x: Tensor) -> Tensor:
        """x  # [N, *] -> spikes  # [T, N, *]"""
        raise NotImplementedError(f"{type(self).__name__} must define encode(x)")

    def _ready(self, x: Tensor | None) -> Tensor:
        if self.spike is None:
            if x is None:
                raise ValueError(f"{type(self).__name__} has nothing encoded yet; give it the input x")
            self.spike = self.encode(x)
        elif x is not None and x.shape != self.spike.shape[1:]:
            raise RuntimeError(
                f"the input of {type(self).__name__} changed from shape {list(self.spike.shape[1:])} to "
                f"{list(x.shape)} while its code is kept; call functional.reset_net(net) before a new input"
            )
        return self.spike

    def single_step_forward(self, x: Tensor | None = None) -> Tensor:  # type: ignore[override]
        spike = self._ready(x)[self.t]
        self.t = (self.t + 1) % self.T
        return spike

    def multi_step_forward(self, x: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """x  # [N, *] -> spikes  # [T, N, *]"""
        return self._ready(x)

    def extra_repr(self) -> str:
        return f"T={self.T}, step_mode={self.step_mode!r}"


class PeriodicEncoder(StatefulEncoder):
    """Plays a given sequence `spike` [T, *] again and again; its input is ignored and may be left out."""

    def __init__(self, spike: Tensor, step_mode: str = "s"):
        super().__init__(spike.shape[0], step_mode)
        self.spike = spike
        self.set_reset_value("spike", spike)

    def _ready(self, x: Tensor | None) -> Tensor:
        return self.spike


class LatencyEncoder(StatefulEncoder):
    """One spike each within T steps, the stronger the earlier; x in [0, 1].

    linear  t_f = (T - 1) (1 - x)
    log     t_f = (T - 1) - ln(a x + 1),  a = e^(T-1) - 1       both rounded to whole steps
    """

    def __init__(self, T: int, enc_function: str = "linear", step_mode: str = "s"):
        super().__init__(T, step_mode)
        if enc_function not in ("linear", "log"):
            raise ValueError(f"enc_function {enc_function!r} is unknown; use 'linear' or 'log'")
        self.enc_function = enc_function

    def encode(self, x: Tensor) -> Tensor:
        x = _check_range(x)
        if self.enc_function == "linear":
            t_f = (self.T - 1.0) * (1.0 - x)
        else:  # ln(a x + 1) = T - 1 + ln(x + (1 - x) e^(1-T)), which does not overflow for a long T
            t_f = -torch.log(x + (1.0 - x) * math.exp(1.0 - self.T)).clamp(min=1.0 - self.T)
        steps = torch.arange(self.T, device=x.device).view(-1, *[1] * x.dim())
        return (t_f.round() == steps).to(x)  # [T, N, *]


class WeightedPhaseEncoder(StatefulEncoder):
    """The K binary digits of x in [0, 1 - 2^-K], the most significant first: phase k weighs 2^-k, k = 1 … K.

    Kim et al., "Deep neural networks with weighted spikes", Neurocomputing 311 (2018).
    """

    def __init__(self, K: int, step_mode: str = "s"):
        super().__init__(_whole("K", K), step_mode)

    def encode(self, x: Tensor) -> Tensor:
        rest, spikes = _check_range(x, 1.0 - 2.0**-self.T), []
        for k in range(1, self.T + 1):
            spike = (rest >= 2.0**-k).to(rest)
            rest = rest - 2.0**-k * spike
            spikes.append(spike)
        return torch.stack(spikes)

    def extra_repr(self) -> str:
        return f"K={self.T}, step_mode={self.step_mode!r}"


__all__ = [
    "LatencyEncoder",
    "PeriodicEncoder",
    "PoissonEncoder",
    "StatefulEncoder",
    "WeightedPhaseEncoder",
]
