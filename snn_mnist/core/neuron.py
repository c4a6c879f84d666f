"""Integrate-and-fire neurons: charge, fire, reset.

    charge  H[t] = f(V[t-1], X[t])                      membrane potential before the spike
    fire    S[t] = 1 if H[t] >= V_threshold else 0      its derivative is the surrogate's
    reset   V[t] = (1 - S[t]) H[t] + S[t] V_reset       hard reset
            V[t] = H[t] - S[t] V_threshold              soft reset (v_reset=None)

V starts at V_reset (0 for the soft reset). A step is [N, *], a sequence [T, N, *]. Each equation is one pure
function below; the modules keep `v` and call them. The fused kernels are tested against these.

V is kept in float32 at least (also under autocast, where spikes are float32 too) and within ±2^64, so that an
infinite input leaves a finite potential.
"""

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import hardtanh

from snn_mnist.core.base import MemoryModule, check_sequence, check_step_mode, floating, real_number, state_dtype
from snn_mnist.core.surrogate import SURROGATES, Sigmoid, checked_parameters
from snn_mnist.kernels.neuron import NeuronSpec

# backend -> the module with why_unavailable(device) and multi_step(x_seq, v, spec, store_v_seq)
FUSED_BACKENDS = {"numba": "snn_mnist.kernels.cpu.neuron", "cupy": "snn_mnist.kernels.cuda.fused"}

Number = float | Tensor  # a setting; a tensor where it is learned (an nn.Parameter), torch backend only


def if_charge(x: Tensor, v: Tensor) -> Tensor:
    """H = V + X"""
    return v + x


def lif_charge(x: Tensor, v: Tensor, tau: Number, decay_input: bool, v_reset: Number | None) -> Tensor:
    """H = V + (X - (V - V_reset)) / tau (decay_input), or V - (V - V_reset) / tau + X; V_reset None is 0"""
    leak = _above_reset(v, v_reset)
    return v + (x - leak) / tau if decay_input else v - leak / tau + x


def plif_charge(x: Tensor, v: Tensor, w: Tensor, decay_input: bool, v_reset: Number | None) -> Tensor:
    """H as for the LIF with 1/tau = sigmoid(w)"""
    leak = _above_reset(v, v_reset)
    return v + (x - leak) * w.sigmoid() if decay_input else v - leak * w.sigmoid() + x


def bounded(h: Tensor) -> Tensor:
    """H within ±2^64: an infinite H would make V NaN in the reset, 0 · inf."""
    return hardtanh(h, -(2.0**64), 2.0**64)  # a clamp with a faster backward pass


def fire(h: Tensor, v_threshold: Number, surrogate_function: Callable[[Tensor], Tensor]) -> Tensor:
    """S = Heaviside(H - V_threshold)"""
    return surrogate_function(h - v_threshold)


def hard_reset(h: Tensor, spike: Tensor, v_reset: Number) -> Tensor:
    """V = (1 - S) H + S V_reset"""
    v = (1.0 - spike) * h
    return v + spike * v_reset if isinstance(v_reset, Tensor) or v_reset else v


def soft_reset(h: Tensor, spike: Tensor, v_threshold: Number) -> Tensor:
    """V = H - S V_threshold"""
    return h - spike * v_threshold


def _above_reset(v: Tensor, v_reset: Number | None) -> Tensor:
    return v - v_reset if isinstance(v_reset, Tensor) or v_reset else v


class BaseNode(MemoryModule):
    """A spiking neuron; a subclass needs a constructor and `neuronal_charge(x)`, which sets `self.v` to H.

    `v_reset=None` is the soft reset. With `detach_reset` no gradient passes through S in the reset. `store_v_seq`
    keeps V[t] of every step in `v_seq`. `surrogate_function` is any callable with a gradient; default Sigmoid().
    `v_threshold`, `v_reset` and a LIF's `tau` may be nn.Parameters, of one value or one per neuron, which the torch
    backend learns. `set_reset_value('v', tensor)` of the features' shape starts each neuron at its own potential.
    """

    v: Any  # membrane potential: a number until the first step, then [N, *]
    v_parts: Any  # the parts [t, N, *] of v_seq in a list
    surrogate_function: Any

    def __init__(
        self,
        v_threshold: Number = 1.0,
        v_reset: Number | None = 0.0,
        surrogate_function: Callable[[Tensor], Tensor] | None = None,
        detach_reset: bool = False,
        step_mode: str = "s",
        backend: str = "torch",
        store_v_seq: bool = False,
    ):
        super().__init__()
        self.v_threshold = real_number("v_threshold", v_threshold, "the default is 1.0")
        self.v_reset = None if v_reset is None else real_number("v_reset", v_reset, "None means the soft reset")
        start = 0.0 if self.v_reset is None else self.v_reset
        if isinstance(start, Tensor):  # a learned v_reset is read at the first step, see _prepare
            start = start.item() if start.numel() == 1 else None
        self._v_at_rest = start
        self.register_memory("v", start)
        self.register_memory("v_parts", [])
        self.surrogate_function = Sigmoid() if surrogate_function is None else surrogate_function
        self.detach_reset = detach_reset
        self._backend = "torch"
        self._last_spike_node: Any = None  # autograd node of the last spike: shows whether v's graph is freed
        self.step_mode = step_mode
        self.backend = backend
        self.store_v_seq = store_v_seq

    # ---- the three equations, on self.v ----

    def neuronal_charge(self, x: Tensor) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define neuronal_charge(x), which sets self.v")

    def neuronal_fire(self) -> Tensor:
        return fire(self.v, self.v_threshold, self.surrogate_function)

    def neuronal_reset(self, spike: Tensor) -> None:
        s = spike.detach() if self.detach_reset else spike
        if self.v_reset is None:
            self.v = soft_reset(self.v, s, self.v_threshold)
        else:
            self.v = hard_reset(self.v, s, self.v_reset)

    # ---- steps ----

    def single_step_forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Return the spikes [N, *] of one step x [N, *]."""
        x = floating(x, type(self).__name__)
        dtype = x.dtype
        x = x.to(state_dtype(x))
        self._prepare(x)
        self.neuronal_charge(x)
        self.v = bounded(self.v)
        spike = self.neuronal_fire()
        self.neuronal_reset(spike)
        self._keep_node(spike)
        if self.store_v_seq:
            self.v_parts = [*self.v_parts, self.v.unsqueeze(0)]
        return spike if spike.dtype == dtype else spike.to(dtype)

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:  # type: ignore[override]
        """Return the spikes [T, N, *] of a sequence x_seq [T, N, *]."""
        check_sequence(x_seq)
        x_seq = floating(x_seq, type(self).__name__)
        if self.backend == "torch":
            self._memories["v_parts"] = []
            return torch.stack([self.single_step_forward(x) for x in x_seq])
        self._prepare(x_seq[0])
        kernel = _kernel(self.backend, x_seq.device)
        spike_seq, self.v, self.v_seq = kernel.multi_step(x_seq, self.v, self.spec(), self.store_v_seq)
        self._keep_node(spike_seq)
        return spike_seq

    def _prepare(self, x: Tensor) -> None:
        """Give v the shape of x at the first step; notice a forgotten reset."""
        v = self._memories["v"]
        if not isinstance(v, Tensor) and v == self._v_at_rest and isinstance(self.v_reset, Tensor):
            self.v = self.v_reset
        self._start_memory("v", x, state_dtype(x))
        if isinstance(v, Tensor) and v.requires_grad and torch.is_grad_enabled() and _is_freed(self._last_spike_node):
            v.register_hook(_forgotten_reset)  # no error yet: only a backward pass that reaches the old v is

    def _keep_node(self, spike: Tensor) -> None:
        if not torch.compiler.is_compiling():
            self.__dict__["_last_spike_node"] = spike.grad_fn

    # ---- settings ----

    @property
    def v_seq(self) -> Tensor | None:
        """V[t] [T, N, *]: 'm', of the last sequence; 's', of all steps since `reset()`; None where none was stored."""
        return torch.cat(self.v_parts) if self.v_parts else None

    @v_seq.setter
    def v_seq(self, value: Tensor | None) -> None:
        self.v_parts = [] if value is None else [value]

    @property
    def step_mode(self) -> str:
        return self._step_mode

    @step_mode.setter
    def step_mode(self, value: str) -> None:
        if value == "s" and self._backend != "torch":
            raise ValueError(f"backend {self._backend!r} has no step mode 's'; {_USE_TORCH} first")
        self._step_mode = check_step_mode(value, self.supported_step_mode(), type(self).__name__)

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """The backends of the current step mode."""
        return ("torch",) if self.step_mode == "s" or self.why_not_fused() else ("torch", *FUSED_BACKENDS)

    @property
    def backend(self) -> str:
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        if value not in self.supported_backends:
            if value not in FUSED_BACKENDS:
                why_not = f"there is no such backend; use one of {', '.join(map(repr, self.supported_backends))}"
            elif self.step_mode == "s":
                why_not = "step mode 's' has the torch backend only; set the step mode first: "
                why_not += "functional.set_step_mode(net, 'm')"
            else:
                why_not = f"{self.why_not_fused()}; {_USE_TORCH}"
            raise ValueError(f"{type(self).__name__} cannot use backend {value!r}: {why_not}")
        if value in FUSED_BACKENDS:
            _kernel(value)
        self._backend = value

    def why_not_fused(self) -> str | None:
        """Return why the fused kernels cannot compute this neuron; None: they can."""
        equations = next((cls for cls in (IFNode, LIFNode) if isinstance(self, cls)), None)
        if equations is None:
            return "the fused kernels know the equations of IFNode and LIFNode only"
        for name in ("neuronal_charge", "neuronal_fire", "neuronal_reset", "single_step_forward"):
            if getattr(type(self), name) is not getattr(equations, name) or name in self.__dict__:
                return f"{type(self).__name__} defines its own {name}, which the fused kernels do not support"
        surrogate = self.surrogate_function
        if type(surrogate) not in SURROGATES.values():
            return f"the fused kernels do not know the surrogate function {surrogate!r}"
        if not surrogate.spiking:
            return "the fused kernels fire spikes, and the surrogate function has spiking=False"
        numbers = {name: getattr(self, name, None) for name in ("tau", "v_threshold", "v_reset")}
        numbers |= {name: getattr(surrogate, name) for name in surrogate.formula.defaults}
        for name, value in numbers.items():
            if isinstance(value, Tensor) and (value.requires_grad or value.numel() != 1):
                return f"the fused kernels take {name} as one fixed number, and here it is learned or one per neuron"
        return None

    def spec(self) -> NeuronSpec:
        """Return this neuron as the fused kernels see it; ValueError where they cannot compute it."""
        if why_not := self.why_not_fused():
            raise ValueError(f"{type(self).__name__} has no kernel specification: {why_not}; {_USE_TORCH}")
        surrogate = self.surrogate_function
        tau = getattr(self, "tau", None)
        return NeuronSpec(
            tau=None if tau is None else float(tau),
            decay_input=getattr(self, "decay_input", False),
            v_threshold=float(self.v_threshold),
            v_reset=None if self.v_reset is None else float(self.v_reset),
            detach_reset=bool(self.detach_reset),
            surrogate=surrogate.formula.name,
            parameters=tuple(checked_parameters(surrogate.formula, surrogate.parameters_of_formula).items()),
        )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_last_spike_node": None}

    def extra_repr(self) -> str:
        return (
            f"v_threshold={self.v_threshold}, v_reset={self.v_reset}, detach_reset={self.detach_reset}, "
            f"step_mode={self.step_mode!r}, backend={self.backend!r}"
        )


class IFNode(BaseNode):
    """Integrate-and-fire: H = V + X."""

    def neuronal_charge(self, x: Tensor) -> None:
        self.v = if_charge(x, self.v)


class LIFNode(BaseNode):
    """Leaky integrate-and-fire: H = V + (X - (V - V_reset)) / tau, or with decay_input=False
    H = V - (V - V_reset) / tau + X. tau > 1 is in time steps.
    """

    def __init__(
        self,
        tau: Number = 2.0,
        decay_input: bool = True,
        v_threshold: Number = 1.0,
        v_reset: Number | None = 0.0,
        surrogate_function: Callable[[Tensor], Tensor] | None = None,
        detach_reset: bool = False,
        step_mode: str = "s",
        backend: str = "torch",
        store_v_seq: bool = False,
    ):
        super().__init__(v_threshold, v_reset, surrogate_function, detach_reset, step_mode, backend, store_v_seq)
        self.tau = real_number("tau", tau, "it is in time steps; use e.g. 2.0, or IFNode for no leak", above=1.0)
        self.decay_input = decay_input

    def neuronal_charge(self, x: Tensor) -> None:
        self.v = lif_charge(x, self.v, self.tau, self.decay_input, self.v_reset)

    def extra_repr(self) -> str:
        return f"tau={self.tau}, decay_input={self.decay_input}, {super().extra_repr()}"


class ParametricLIFNode(BaseNode):
    """LIF that learns its time constant: 1/tau = sigmoid(w) with the parameter w, which starts at init_tau > 1.

    `settings` are those of BaseNode, in its order. The torch backend only.
    Fang et al., "Incorporating Learnable Membrane Time Constant", ICCV 2021.
    """

    def __init__(self, init_tau: float = 2.0, decay_input: bool = True, *settings: Any, **named_settings: Any):
        super().__init__(*settings, **named_settings)
        init_tau = real_number("init_tau", init_tau, "it is in time steps; the default is 2.0", above=1.0)
        self.w = nn.Parameter(torch.tensor(-math.log(init_tau - 1.0)))
        self.decay_input = decay_input

    def neuronal_charge(self, x: Tensor) -> None:
        self.v = plif_charge(x, self.v, self.w, self.decay_input, self.v_reset)

    def extra_repr(self) -> str:
        tau = 1.0 / self.w.detach().sigmoid().item()
        return f"tau={tau:g}, decay_input={self.decay_input}, {super().extra_repr()}"


SimpleBaseNode = BaseNode  # SpikingJelly's name for the base class of a first neuron of one's own


_USE_TORCH = "use functional.set_backend(net, 'torch')"


def _kernel(backend: str, device: torch.device | None = None) -> ModuleType:
    """Return the kernel module of a fused backend; RuntimeError with the reason where it cannot run."""
    try:
        module = importlib.import_module(FUSED_BACKENDS[backend])
        why_not = module.why_unavailable(device)
    except ImportError as error:
        why_not = f"{type(error).__name__}: {error}"
    if why_not is not None:
        raise RuntimeError(f"backend {backend!r} cannot run here: {why_not}; {_USE_TORCH}")
    return module


def _is_freed(node: Any) -> bool:
    """Return whether a backward pass without retain_graph has run through this autograd node."""
    if torch.compiler.is_compiling():
        return False
    try:
        getattr(node, "_raw_saved_tensors", None)  # raises then; the raw ones, so that no unpack hook runs
    except RuntimeError:
        return True
    return False


def _forgotten_reset(grad: Tensor) -> None:
    raise RuntimeError(
        "backward reached the state that a neuron kept from an earlier forward pass, whose graph is already "
        "freed; call functional.reset_net(net) after each batch (or functional.detach_net(net) to carry the "
        "state over without its gradient)"
    )
