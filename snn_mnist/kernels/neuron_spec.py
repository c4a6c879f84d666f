"""The parameters of a neuron for fused kernels; the equations are in core/neuron.py."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True)
class NeuronSpec:
    """One IF or LIF neuron; hashable, so it can be the key of a cache."""

    tau: float | None  # membrane time constant in steps, > 1; None: IF, no leak
    decay_input: bool  # LIF only: X is divided by tau too
    v_threshold: float
    v_reset: float | None  # None: soft reset
    detach_reset: bool
    surrogate: str  # a key of formulas.FORMULAS
    parameters: tuple[tuple[str, float], ...]  # of the surrogate, e.g. (('alpha', 2.0),)


class Coefficients(NamedTuple):
    """The numbers in H[t] = decay V[t-1] + gain X[t] + offset, fire and reset, rounded to a kernel's type."""

    decay: Any
    gain: Any
    offset: Any
    threshold: Any
    reset: Any  # 0 for soft reset
    hard_reset: Any  # 1 for hard reset
    grad_through_reset: Any  # 1 where the gradient passes through the reset


@functools.cache
def coefficients(spec: NeuronSpec, dtype: str = "float32") -> Coefficients:
    """The same numbers for every backend, each of this type."""
    real = np.dtype(dtype).type
    decay = real(1.0 if spec.tau is None else 1.0 - 1.0 / spec.tau)
    gain = real(1.0 / spec.tau if spec.tau is not None and spec.decay_input else 1.0)
    reset = real(spec.v_reset or 0.0)
    offset = reset * (real(1) - decay)
    hard_reset, grad_through_reset = real(spec.v_reset is not None), real(not spec.detach_reset)
    return Coefficients(decay, gain, offset, real(spec.v_threshold), reset, hard_reset, grad_through_reset)
