"""Spike-timing-dependent plasticity (STDP): a synapse learns from the order of its own spikes, without a loss.

Each neuron has a trace, which rises by 1 at a spike and then decays. A synapse from i to j is strengthened when j fires
soon after i, and weakened when i fires soon after j:

    tr_pre[t]  = tr_pre[t-1]  - tr_pre[t-1] / tau_pre   + s_pre[t]
    tr_post[t] = tr_post[t-1] - tr_post[t-1] / tau_post + s_post[t]
    dw[j, i]   = f_post(w) tr_pre[i] s_post[j] - f_pre(w) tr_post[j] s_pre[i]

summed over the batch, over the places of a convolution, and in step mode 'm' over T with the weights as they were
before. f_pre and f_post act element-wise. Morrison, Diesmann and Gerstner, "Phenomenological models of synaptic
plasticity based on spike timing", Biological Cybernetics 98 (2008).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.grad import conv1d_weight, conv2d_weight

from snn_mnist.core.base import MemoryModule, check_sequence, real_number, state_dtype
from snn_mnist.core.monitor import Hook, identity

Trace = float | Tensor | None  # None and 0 before the first spike
Weighting = Callable[[Tensor], Tensor]
Change = tuple[Tensor, Tensor, Tensor]  # trace_pre, trace_post, delta_w


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
    synapse: nn.Module,
    in_spike: Tensor,
    out_spike: Tensor,
    trace_pre: Trace,
    trace_post: Trace,
    tau_pre: float,
    tau_post: float,
    f_pre: Weighting = identity,
    f_post: Weighting = identity,
) -> Change:
    """Return the traces of one time step and delta_w, of the weight's shape, in float32 at least.

    in_spike  # [N, C_in] of nn.Linear or [N, C_in, *] of nn.Conv1d and nn.Conv2d, with N or without
    out_spike  # [N, C_out] or [N, C_out, *]; a convolution's trace_pre is as large as the padded input
    """
    layer: Any = synapse
    weight = layer.weight.to(state_dtype(layer.weight))
    in_spike, out_spike = in_spike.to(weight), out_spike.to(weight)
    if not isinstance(synapse, nn.Linear):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        in_spike = pad(in_spike, layer._reversed_padding_repeated_twice, mode)
    trace_pre, trace_post = trace_step(trace_pre, in_spike, tau_pre), trace_step(trace_post, out_spike, tau_post)
    after = _products(layer, trace_pre, out_spike)  # post fires after pre
    before = _products(layer, in_spike, trace_post)
    return trace_pre, trace_post, f_post(weight) * after - f_pre(weight) * before


def _products(synapse: Any, pre: Tensor, post: Tensor) -> Tensor:
    """Return the products of what lies before and behind each weight, summed over the batch and all places."""
    if isinstance(synapse, nn.Linear):
        return torch.einsum("...o,...i->oi", post, pre)
    weight = synapse.weight
    if pre.dim() < weight.dim():  # one image without N
        pre, post = pre[None], post[None]
    correlate: Any = conv1d_weight if weight.dim() == 3 else conv2d_weight
    return correlate(pre, weight.shape, post, stride=synapse.stride, dilation=synapse.dilation, groups=synapse.groups)


stdp_conv1d_single_step = stdp_conv2d_single_step = stdp_linear_single_step  # SpikingJelly has three names


def stdp_multi_step(
    layer: nn.Module,
    in_spike: Tensor,
    out_spike: Tensor,
    trace_pre: Trace,
    trace_post: Trace,
    *settings: Any,
    **named_settings: Any,
) -> Change:
    """Return the traces after a sequence and delta_w summed over T.

    in_spike, out_spike  # [T, N, *]; settings: tau_pre, tau_post, f_pre and f_post, as of a single step
    """
    check_sequence(in_spike)
    traces: Any = trace_pre, trace_post
    delta_w: Any = 0.0
    for pre, post in zip(in_spike, out_spike, strict=True):
        *traces, change = stdp_linear_single_step(layer, pre, post, *traces, *settings, **named_settings)
        delta_w = delta_w + change
    return *traces, delta_w


class STDPLearner(MemoryModule):
    """Records the spikes into `synapse` and those of the neurons `sn` behind it, and turns them into weight changes.

    synapse: Linear, Conv1d or Conv2d; only its weight learns. sn: the module whose output is the postsynaptic spikes.
    tau_pre, tau_post >= 1, in time steps. step_mode must be that of the layers: in 's' a record is one step, in 'm' a
    sequence. `trace_pre` and `trace_post` are memories, None before the first `step`. A copy of the learner watches
    the copies `synapse` and `sn`, those of the net where both are copied at once: copy.deepcopy((net, learner)).
    """

    trace_pre: Any
    trace_post: Any

    def __init__(
        self,
        step_mode: str,
        synapse: nn.Conv1d | nn.Conv2d | nn.Linear,
        sn: nn.Module,
        tau_pre: float,
        tau_post: float,
        f_pre: Weighting = identity,
        f_post: Weighting = identity,
    ) -> None:
        super().__init__()
        if not isinstance(synapse, nn.Linear | nn.Conv1d | nn.Conv2d):
            raise NotImplementedError(
                f"STDP of {type(synapse).__name__} is not implemented; use Linear, Conv1d or Conv2d"
            )
        self.step_mode = step_mode
        self.synapse = synapse
        self.__dict__["sn"] = sn  # no submodule: reset_net(learner) leaves it alone
        for name, tau in (("tau_pre", tau_pre), ("tau_post", tau_post)):
            setattr(self, name, real_number(name, tau, "it is in time steps, e.g. 2.0"))
            if tau < 1:
                raise ValueError(f"{name}={tau!r} must be at least 1 (time steps); use e.g. 2.0")
        self.f_pre, self.f_post = f_pre, f_post
        self.in_spikes: list[Tensor] = []
        self.out_spikes: list[Tensor] = []
        self._enabled = True
        self.register_memory("trace_pre", None)
        self.register_memory("trace_post", None)
        self._watch()

    def _watch(self) -> None:
        def record(spikes: list[Tensor], data: Tensor) -> None:
            if self._enabled:
                spikes.append(data.detach().clone())  # the next step may overwrite them in place

        self.synapse.register_forward_pre_hook(Hook(lambda m, x: record(self.in_spikes, x[0])))
        self.sn.register_forward_hook(Hook(lambda m, x, y: record(self.out_spikes, y)))

    def __setstate__(self, state: dict[str, Any]) -> None:  # of copy.deepcopy and pickle, which drop hooks
        super().__setstate__(state)
        self._watch()

    def reset(self) -> None:
        """Forget traces and records; weights and gradients stay."""
        super().reset()
        self._clear()

    def _clear(self) -> None:
        self.in_spikes.clear()
        self.out_spikes.clear()

    def disable(self) -> None:
        """Pause recording, e.g. for a test; traces and records stay."""
        self._enabled = False

    def enable(self) -> None:
        """Resume recording."""
        self._enabled = True

    @torch.no_grad()
    def step(self, on_grad: bool = True, scale: float = 1.0) -> Tensor | None:
        """Use up the records since the last call: with `on_grad` subtract scale delta_w from the weight's gradient, so
        that an optimiser moves the weight along it, else return it (None where nothing was recorded).
        """
        weight = self.synapse.weight
        if on_grad and not isinstance(weight, nn.Parameter):
            raise RuntimeError(
                "the synapse's weight is computed from other parameters, so its gradient would be lost; use "
                "step(on_grad=False) and apply the change yourself"
            )
        rule: Any = stdp_linear_single_step if self.step_mode == "s" else stdp_multi_step
        settings = self.tau_pre, self.tau_post, self.f_pre, self.f_post
        delta_w: Tensor | None = None
        for spikes in zip(self.in_spikes, self.out_spikes, strict=True):
            traces = self.trace_pre, self.trace_post
            self.trace_pre, self.trace_post, change = rule(self.synapse, *spikes, *traces, *settings)
            delta_w = scale * change if delta_w is None else delta_w + scale * change
        self._clear()
        if not on_grad or delta_w is None:
            return delta_w
        weight.grad = (-delta_w if weight.grad is None else weight.grad - delta_w).to(weight.dtype)
        return None
