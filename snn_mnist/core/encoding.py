"""Encoders: numbers in [0, 1] to spikes.

A stateless encoder maps numbers to spikes of the same shape, a new draw at each call. A stateful one encodes its
first input into a code of T steps, and each step returns the next step of the code, starting again after the last:
[N, *] to [N, *] in step mode 's', [T, N, *] to [T, N, *] in 'm'; `functional.reset_net` before the next input.
Everything is computed in float32 at least, whatever the input's type.
"""

import math
import operator
from typing import Any

import torch
from torch import Tensor, nn

from snn_mnist.core.base import MemoryModule, StepModule, floating, state_dtype


def _check_range(x: Tensor, high: float = 1.0) -> Tensor:
    """Return x in float32 at least; ValueError naming a value outside [0, high]."""
    x = floating(x, "an encoder")
    x = x.to(state_dtype(x))
    outside = x[~((x >= 0) & (x <= high))]
    if outside.numel():
        raise ValueError(f"an encoder takes values in [0, {high:g}], but got {outside[0].item():g}; scale the input")
    return x


class PoissonEncoder(StepModule, nn.Module):
    """Fires with probability x, independently at each call and element; 0 never, 1 always.

    Draws from torch's global generator. The training program's encoder, whose spikes depend on named
    coordinates only, is another: see network/poisson.py.
    """

    def __init__(self, step_mode: str = "s"):
        super().__init__()
        self.step_mode = step_mode

    def forward(self, x: Tensor) -> Tensor:
        """Return spikes of the shape of x [N, *] or [T, N, *], which lies in [0, 1]."""
        x = floating(x, "PoissonEncoder")
        draws = torch.rand(x.shape, dtype=torch.float32, device=x.device)  # half precision would be far too coarse
        return (draws < _check_range(x)).to(x)


class StatefulEncoder(MemoryModule):
    """Plays the code `spike` [T, N, *], which a subclass computes in `single_step_encode(x)`."""

    spike: Any
    t: int

    def __init__(self, T: int, step_mode: str = "s"):
        super().__init__()
        self.T = operator.index(T)
        if self.T < 1:
            raise ValueError(f"an encoder takes at least 1 time step, not {T!r}")
        self.step_mode = step_mode
        self.register_memory("spike", None)  # [T, N, *]
        self.register_memory("t", 0)

    def single_step_encode(self, x: Tensor) -> Tensor | None:
        """Return the code [T, N, *] of x [N, *], or set it as `self.spike`."""
        raise NotImplementedError(f"{type(self).__name__} must define single_step_encode(x)")

    def _encode(self, x: Any) -> None:
        """Set `spike` at the first step."""
        if self.spike is None:
            code = self.single_step_encode(x)
            if code is not None:
                self.spike = code.to(floating(x, type(self).__name__).dtype)
        elif x is not None:
            self._refuse_shape("its code", self.spike.shape[1:], x.shape)

    def single_step_forward(self, x: Tensor | None = None) -> Tensor:  # type: ignore[override]
        self._encode(x)
        spike = self.spike[self.t]
        self.t = (self.t + 1) % self.T
        return spike


class PeriodicEncoder(StatefulEncoder):
    """Plays a given sequence `spike` [T, *] again and again; its input is ignored, and optional in step mode 's'."""

    def __init__(self, spike: Tensor, step_mode: str = "s"):
        super().__init__(spike.shape[0], step_mode)
        self.spike = spike
        self.set_reset_value("spike", spike)

    def _encode(self, x: Tensor | None) -> None:
        pass


class LatencyEncoder(StatefulEncoder):
    """One spike each within T steps, the stronger the earlier; x in [0, 1].

    linear  t_f = (T - 1) (1 - x)
    log     t_f = (T - 1) - ln(alpha x + 1),  alpha = e^(T-1) - 1       both rounded to whole steps
    """

    def __init__(self, T: int, enc_function: str = "linear", step_mode: str = "s"):
        super().__init__(T, step_mode)
        if enc_function not in ("linear", "log"):
            raise ValueError(f"enc_function {enc_function!r} is unknown; use 'linear' or 'log'")
        self.enc_function = enc_function

    def single_step_encode(self, x: Tensor) -> Tensor:
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
        super().__init__(K, step_mode)

    def single_step_encode(self, x: Tensor) -> Tensor:
        rest, spikes = _check_range(x, 1.0 - 2.0**-self.T), []
        for k in range(1, self.T + 1):
            spike = (rest >= 2.0**-k).to(rest)
            rest = rest - 2.0**-k * spike
            spikes.append(spike)
        return torch.stack(spikes)
