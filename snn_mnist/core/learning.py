"""Spike-timing-dependent plasticity (STDP): a synapse learns from the order of its own spikes, without a loss.

Each neuron has a trace, which jumps by 1 at a spike and decays. A synapse from i to j is strengthened when j fires soon
after i, and weakened when i fires soon after j:

    tr_pre[t]  = tr_pre[t-1]  - tr_pre[t-1] / tau_pre   + s_pre[t]
    tr_post[t] = tr_post[t-1] - tr_post[t-1] / tau_post + s_post[t]
    dw[j, i]   = f_post(w) tr_pre[i] s_post[j] - f_pre(w) tr_post[j] s_pre[i]

summed over the batch, over the places of a convolution, and in step mode 'm' over T with the weights as they were
before. f_pre and f_post act element-wise. Morrison, Diesmann and Gerstner, "Phenomenological models of synaptic
plasticity based on spike timing", Biological Cybernetics 98 (2008).

    learner = STDPLearner("s", net[0], net[1], tau_pre=2.0, tau_post=2.0)
    for x in x_seq:
        net(x)
        learner.step(on_grad=True)      # net[0].weight.grad -= dw: any optimiser moves the weight along dw
        optimizer.step()
        optimizer.zero_grad()
    learner.reset()                     # together with functional.reset_net(net)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.grad import conv1d_weight, conv2d_weight

from snn_mnist.core import monitor
from snn_mnist.core.base import MemoryModule, check_sequence
from snn_mnist.core.numbers import finite

Trace = float | Tensor | None  # None and 0 before the first spike
Weighting = Callable[[Tensor], Tensor]
Change = tuple[Tensor, Tensor, Tensor]  # trace_pre, trace_post, delta_w


def _identity(w: Tensor) -> Tensor:
    return w


def trace_step(trace: Trace, spike: Tensor, tau: float) -> Tensor:
    """tr - tr / tau + s"""
    trace = 0.0 if trace is None else trace
    if isinstance(trace, Tensor) and trace.shape != spike.shape:
        raise RuntimeError(
            f"the spikes changed from shape {list(trace.shape)} to {list(spike.shape)} while their trace is kept; "
            "call the learner's reset() before a new batch"
        )
    return trace - trace / tau + spike


@torch.no_grad()
def stdp_linear_single_step(
    fc: nn.Linear, in_spike: Tensor, out_spike: Tensor, trace_pre: Trace, trace_post: Trace, tau_pre: float,
    tau_post: float, f_pre: Weighting = _identity, f_post: Weighting = _identity,
) -> Change:  # fmt: skip
    """in_spike  # [N, C_in], out_spike  # [N, C_out] -> traces of the same shapes, delta_w  # [C_out, C_in]"""
    in_spike, out_spike = in_spike.to(fc.weight), out_spike.to(fc.weight)
    trace_pre, trace_post = trace_step(trace_pre, in_spike, tau_pre), trace_step(trace_post, out_spike, tau_post)
    flat = [x.reshape(-1, x.shape[-1]) for x in (in_spike, out_spike, trace_pre, trace_post)]
    after, before = flat[1].T @ flat[2], flat[3].T @ flat[0]  # post fires after pre, post before pre
    return trace_pre, trace_post, f_post(fc.weight) * after - f_pre(fc.weight) * before


@torch.no_grad()
def stdp_conv1d_single_step(
    conv: nn.Conv1d | nn.Conv2d, in_spike: Tensor, out_spike: Tensor, trace_pre: Trace, trace_post: Trace,
    tau_pre: float, tau_post: float, f_pre: Weighting = _identity, f_post: Weighting = _identity,
) -> Change:  # fmt: skip
    """in_spike  # [N, C_in, *], out_spike  # [N, C_out, *]; trace_pre is as large as the padded input"""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    in_spike = pad(in_spike.to(conv.weight), conv._reversed_padding_repeated_twice, mode)
    out_spike = out_spike.to(conv.weight)
    trace_pre, trace_post = trace_step(trace_pre, in_spike, tau_pre), trace_step(trace_post, out_spike, tau_post)
    geometry: dict[str, Any] = {"stride": conv.stride, "dilation": conv.dilation, "groups": conv.groups}
    correlate: Any = conv1d_weight if conv.weight.dim() == 3 else conv2d_weight  # summed over the batch and all places
    after = correlate(trace_pre, conv.weight.shape, out_spike, **geometry)
    before = correlate(in_spike, conv.weight.shape, trace_post, **geometry)
    return trace_pre, trace_post, f_post(conv.weight) * after - f_pre(conv.weight) * before


stdp_conv2d_single_step = stdp_conv1d_single_step  # SpikingJelly has both names


SINGLE_STEPS: dict[type[nn.Module], Callable[..., Change]] = {
    nn.Linear: stdp_linear_single_step,
    nn.Conv1d: stdp_conv1d_single_step,
    nn.Conv2d: stdp_conv2d_single_step,
}


def _single_step_of(layer: nn.Module) -> Callable[..., Change]:
    for kind, rule in SINGLE_STEPS.items():
        if isinstance(layer, kind):
            return rule
    raise NotImplementedError(f"STDP of {type(layer).__name__} is not implemented; use Linear, Conv1d or Conv2d")


def stdp_multi_step(
    layer: nn.Module, in_spike: Tensor, out_spike: Tensor, trace_pre: Trace, trace_post: Trace, tau_pre: float,
    tau_post: float, f_pre: Weighting = _identity, f_post: Weighting = _identity,
) -> Change:  # fmt: skip
    """in_spike and out_spike  # [T, N, *]: the single step of the layer's kind, delta_w summed over T"""
    check_sequence(in_spike)
    rule, changes = _single_step_of(layer), []
    for pre, post in zip(in_spike, out_spike, strict=True):
        trace_pre, trace_post, change = rule(
            layer, pre, post, trace_pre, trace_post, tau_pre, tau_post, f_pre, f_post
        )  # fmt: skip
        changes.append(change)
    assert isinstance(trace_pre, Tensor) and isinstance(trace_post, Tensor)
    return trace_pre, trace_post, torch.stack(changes).sum(0)


class STDPLearner(MemoryModule):
    """Records the spikes into `synapse` and those of the neurons `sn` behind it, and turns them into weight changes.

    synapse: Linear, Conv1d or Conv2d; only its weight learns. sn: the module whose output is the postsynaptic spikes.
    tau_pre, tau_post >= 1, in time steps. step_mode must be that of the layers: in 's' a record is one step, in 'm' a
    sequence. `trace_pre` and `trace_post` are memories, None before the first `step`.
    """

    trace_pre: Any
    trace_post: Any

    def __init__(
        self, step_mode: str, synapse: nn.Conv1d | nn.Conv2d | nn.Linear, sn: nn.Module, tau_pre: float,
        tau_post: float, f_pre: Weighting = _identity, f_post: Weighting = _identity,
    ) -> None:  # fmt: skip
        super().__init__()
        _single_step_of(synapse)
        self.step_mode = step_mode
        self.synapse = synapse
        self.tau_pre, self.tau_post = _time_constant("tau_pre", tau_pre), _time_constant("tau_post", tau_post)
        self.f_pre, self.f_post = f_pre, f_post
        self.in_spike_monitor = monitor.InputMonitor(synapse, function_on_input=Tensor.detach)
        self.out_spike_monitor = monitor.OutputMonitor(sn, function_on_output=Tensor.detach)
        self.register_memory("trace_pre", None)
        self.register_memory("trace_post", None)

    def reset(self) -> None:
        """Forgets traces and records; weights and gradients stay."""
        super().reset()
        self._clear()

    def _clear(self) -> None:
        self.in_spike_monitor.clear_recorded_data()
        self.out_spike_monitor.clear_recorded_data()

    def disable(self) -> None:
        """Pauses recording, e.g. for a test; traces and records stay."""
        self.in_spike_monitor.disable()
        self.out_spike_monitor.disable()

    def enable(self) -> None:
        self.in_spike_monitor.enable()
        self.out_spike_monitor.enable()

    @torch.no_grad()
    def step(self, on_grad: bool = True, scale: float = 1.0) -> Tensor | None:
        """Uses up the records since the last call. With `on_grad` subtracts scale delta_w from the weight's gradient,
        else returns it, of the weight's shape; None where nothing was recorded. The weight itself does not change."""
        records = self.in_spike_monitor.records, self.out_spike_monitor.records
        if len(records[0]) != len(records[1]):
            raise RuntimeError(
                f"{len(records[0])} inputs of the synapse and {len(records[1])} outputs of the neurons were recorded; "
                "run both in each step, and call reset() after an error between them"
            )
        rule = _single_step_of(self.synapse) if self.step_mode == "s" else stdp_multi_step
        delta_w: Tensor | None = None
        for in_spike, out_spike in zip(*records, strict=True):
            self.trace_pre, self.trace_post, change = rule(
                self.synapse, in_spike, out_spike, self.trace_pre, self.trace_post, self.tau_pre, self.tau_post,
                self.f_pre, self.f_post,
            )  # fmt: skip
            delta_w = scale * change if delta_w is None else delta_w + scale * change
        self._clear()
        if not on_grad or delta_w is None:
            return delta_w
        weight = self.synapse.weight
        weight.grad = -delta_w if weight.grad is None else weight.grad - delta_w
        return None

    def extra_repr(self) -> str:
        return f"tau_pre={self.tau_pre}, tau_post={self.tau_post}, {super().extra_repr()}"


def _time_constant(name: str, value: float) -> float:
    """ValueError below 1: the trace would change its sign in every step."""
    if (tau := finite(name, value, "it is in time steps, e.g. 2.0")) < 1:
        raise ValueError(f"{name}={value!r} must be at least 1 (time steps); use e.g. 2.0")
    return tau


__all__ = [
    "STDPLearner",
    "stdp_conv1d_single_step",
    "stdp_conv2d_single_step",
    "stdp_linear_single_step",
    "stdp_multi_step",
]
