"""What fused kernels are compared with: neurons, images, and the equations in float64."""

from itertools import product

import numpy as np
import torch

from snn_mnist.core import surrogate
from snn_mnist.kernels.cpu import fused as fused_cpu
from snn_mnist.kernels.cpu import jit
from snn_mnist.kernels.cpu import neuron as neuron_cpu
from snn_mnist.kernels.cuda import fused as fused_cuda
from snn_mnist.kernels.formulas import FORMULAS
from snn_mnist.kernels.neuron import NeuronSpec
from snn_mnist.kernels.spikes import SpikeKey
from snn_mnist.network.compiled_steps import CompiledSteps, FusedSGD
from snn_mnist.network.training_steps import Training
from snn_mnist.storage.checkpoint import WEIGHT

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


def equations(x_seq, v, spec):
    """(spikes, V, |H - V_threshold|) of every step in float64 autograd, written out from the definitions."""
    fire, rest = surrogate.SURROGATES[spec.surrogate](**dict(spec.parameters)), spec.v_reset or 0.0
    fired, potentials, margins = [], [], []
    for x in x_seq:
        if spec.tau is None:
            h = v + x
        elif spec.decay_input:
            h = v + (x - (v - rest)) / spec.tau
        else:
            h = v - (v - rest) / spec.tau + x
        s = fire(h - spec.v_threshold)
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


def weight_of(scale=0.15, outputs=10, seed=0):
    return scale * torch.randn(outputs, 784, generator=torch.Generator().manual_seed(seed))


def training_of(weight, optimizer, steps, batch, T, scaler=None, average=None, amp=False, votes=1, **more):
    """What training steps are made of, on the weight's device."""
    rates = torch.zeros(steps * batch, len(weight) // votes, device=weight.device)
    skipped = torch.zeros((), dtype=torch.int64, device=weight.device)
    scaler = scaler or torch.amp.GradScaler(weight.device.type, enabled=False)
    average = None if average is None else {WEIGHT: average}
    return Training(steps, batch, T, optimizer, scaler, amp, average, rates, skipped, **more)


class _Rate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, rate, gradient):
        ctx.gradient = gradient
        return rate.clone()

    @staticmethod
    def backward(ctx, upstream):
        return ctx.gradient(upstream.float().contiguous()), None, None


def firing_rate(kernels, weight, active, index, steps, key, spec, precision=torch.float32):
    """Firing rates [N, C] of the images `index`, differentiable: a training step's two halves, or on the CPU one step.

    After a first step of SGD the momentum is the gradient; the targets are chosen to give the upstream gradient.
    """
    values = weight.detach()

    def one_step(targets):
        labels = torch.zeros(len(active.offsets) - 1, len(weight))
        labels[index] = targets
        learned = values.clone()
        sgd = FusedSGD(learned, momentum=0.9)
        training = training_of(learned, sgd, 1, len(index), steps, amp=precision != torch.float32)
        run = CompiledSteps(learned, active, labels, spec, training)
        run.begin(key, index, [0.0])
        run.run(0, 1)
        return training.rates, sgd.state[learned]["momentum_buffer"]

    if kernels is fused_cpu:
        rate, _ = one_step(torch.zeros(len(index), len(weight)))
        return _Rate.apply(weight, rate, lambda upstream: one_step(rate - upstream * rate.numel() / 2)[1])
    rate = torch.empty(len(index), len(weight), device=weight.device)
    eligibility = torch.empty(len(index), *weight.shape, device=weight.device)
    kernels.learn(values, active, index, steps, key, spec, precision, rate, eligibility)

    def gradient(upstream):
        out = torch.empty_like(values)
        kernels.weight_gradient(active, index, upstream, eligibility, spec, steps, out)
        return out

    return _Rate.apply(weight, rate, gradient)


class Target:
    """The kernels of one kind: those of 'numba', or those of CUDA on the 'host' or a 'gpu'."""

    def __init__(self, name, device, host):
        cpu = name == "numba"
        self.name, self.device, self.host = name, device, host
        self.fused, self.neuron = (fused_cpu, neuron_cpu) if cpu else (fused_cuda, fused_cuda)
        self.backend, self.half = ("numba", torch.bfloat16) if cpu else ("cupy", torch.float16)

    def active(self, images):
        return self.fused.active_pixels(images.to(self.device))

    def some(self, cases, name):
        """All cases, or on the host, where each is compiled, a third of them, in turn for the surrogates."""
        return list(cases)[list(FORMULAS).index(name) % 3 :: 3] if self.host else cases

    def again(self):
        """Circumstances that must not change a bit: numbers of threads, their order on the host, streams of a GPU."""
        if self.name == "numba":
            yield from thread_counts()
        elif self.name == "host":
            for self.host.backwards in (False, True):
                yield
        else:
            for stream in (torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()):
                torch.cuda.synchronize()
                with torch.cuda.stream(stream):
                    yield


def thread_counts(most=4):
    """Let kernels run on 1, 2, … threads in turn, more than this machine may have."""
    before = jit.get_threads()
    try:
        for jit._threads in range(1, most + 1):
            yield jit._threads
    finally:
        jit._threads = before
