"""Neurons, images and the equations in float64 that the kernels are compared with."""

from itertools import product

import numpy as np
import torch

from snn_mnist.kernels.formulas import FORMULAS, bind
from snn_mnist.kernels.neuron import NeuronSpec
from snn_mnist.kernels.spikes import SpikeKey

KEY = SpikeKey(1, 0, 2)
GRID = list(product((True, False), (0.0, None, -0.3), (False, True)))  # decay_input, v_reset, detach_reset
PHILOX_VECTORS = [  # Random123's known answers: counter, key, output
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def spec_of(surrogate_name="atan", tau=2.0, decay_input=True, v_threshold=1.0, v_reset=0.0, detach=False):
    parameters = tuple(FORMULAS[surrogate_name].parameters().items())
    return NeuronSpec(tau, decay_input, v_threshold, v_reset, detach, surrogate_name, parameters)


def double(value):
    return torch.as_tensor(value, dtype=torch.float64)


def equations(x_seq, v, spec):
    """(spikes, V, |H - V_threshold|) of every step in float64 autograd, written out from the definitions."""
    formula = FORMULAS[spec.surrogate]
    names = {n: getattr(torch, n) for n in ("exp", "log", "log1p", "sin", "cos", "atan", "erfc", "abs")}
    names |= {
        "pi": torch.pi, "sqrt": lambda a: a**0.5, "range": range, "int": int,
        "minimum": lambda a, b: torch.minimum(double(a), double(b)),
        "maximum": lambda a, b: torch.maximum(double(a), double(b)),
        "where": lambda c, a, b: torch.where(c, double(a), double(b)),
    }  # fmt: skip
    slope = bind(formula.gradient, names)

    class Fire(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x >= 0).double()

        @staticmethod
        def backward(ctx, upstream):
            (x,) = ctx.saved_tensors
            return upstream * slope(x, **dict(spec.parameters))

    rest = spec.v_reset or 0.0
    fired, potentials, margins = [], [], []
    for x in x_seq:
        if spec.tau is None:
            h = v + x
        elif spec.decay_input:
            h = v + (x - (v - rest)) / spec.tau
        else:
            h = v - (v - rest) / spec.tau + x
        s = Fire.apply(h - spec.v_threshold)
        margins.append((h - spec.v_threshold).detach().abs())
        r = s.detach() if spec.detach_reset else s
        v = h - r * spec.v_threshold if spec.v_reset is None else (1 - r) * h + r * spec.v_reset
        fired.append(s)
        potentials.append(v)
    return torch.stack(fired), torch.stack(potentials), torch.stack(margins)


def images_of(n, active=40, seed=0):
    """Images [n, 784] uint8 with at most this many active pixels, and three more that are 255."""
    rng = np.random.default_rng(seed)
    images = np.zeros((n, 784), np.uint8)
    for i in range(n):
        chosen = rng.choice(784, rng.integers(0, active + 1), replace=False)
        images[i, chosen] = rng.integers(1, 256, len(chosen))
        images[i, rng.choice(784, 3, replace=False)] = 255
    return torch.from_numpy(images)
