"""What a fused kernel must know of a neuron; the equations are in core/neuron.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NeuronSpec:
    """One IF or LIF neuron, hashable, so that compiled kernels can be kept by it."""

    tau: float | None  # membrane time constant in steps, > 1; None: IF, no leak
    decay_input: bool  # LIF only: X is divided by tau too
    v_threshold: float
    v_reset: float | None  # None: soft reset
    detach_reset: bool
    surrogate: str  # a key of formulas.FORMULAS
    parameters: tuple[tuple[str, float], ...]  # of the surrogate, e.g. (('alpha', 2.0),)
