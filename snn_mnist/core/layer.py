"""PyTorch's layers with a step mode, layers with memories, and containers that give modules a step mode.

A stateless layer takes torch's arguments in torch's order, then `step_mode`; `device` and `dtype` go by keyword.
In step mode 'm' it takes [T, N, *] and folds T into the batch (so batch normalisation's statistics are over T too);
where all steps are the same memory, as in `image.expand(T, -1, -1)`, it computes one. Its `state_dict` is torch's.
"""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, dropout2d

from snn_mnist.core.base import MemoryModule, StepModule, check_sequence, floating, real_number, state_dtype
from snn_mnist.core.functional import multi_step_forward, seq_to_ann_forward

# ---- stateless layers --------------------------------------------------------------------------------------


def is_constant(x: Tensor) -> bool:
    """Return whether every step of a sequence [T, N, *] is the same memory, as in `image.expand(T, -1, -1)`."""
    return x.stride(0) == 0 and len(x) > 1


class _StepLayer(StepModule):
    """Mixed in before a stateless torch layer."""

    sequence_dims: tuple[int, ...] = ()  # the allowed numbers of dimensions of [T, N, *]; empty: any

    def forward(self, *inputs: Any) -> Any:
        single_step = super().forward  # type: ignore[misc]
        if self.step_mode == "s":
            return single_step(*inputs)
        shape = check_sequence(inputs).shape
        if self.sequence_dims and len(shape) not in self.sequence_dims:
            dimensions = " or ".join(map(str, self.sequence_dims))
            raise ValueError(
                f"{type(self).__name__} in step mode 'm' takes [T, N, *] of {dimensions} dimensions, but got shape "
                f"{list(shape)}; add the time dimension, or set_step_mode(net, 's')"
            )
        x, *more = inputs
        if not more and is_constant(x) and not isinstance(self, nn.modules.batchnorm._BatchNorm):  # which counts steps
            y = seq_to_ann_forward((x[:1],), single_step)
            if isinstance(y, Tensor):
                return y.expand(len(x), *y.shape[1:])
        return seq_to_ann_forward(inputs, single_step)

    def extra_repr(self) -> str:
        inner = super(StepModule, self).extra_repr()  # type: ignore[misc]
        return f"{inner}, step_mode={self.step_mode!r}" if inner else f"step_mode={self.step_mode!r}"


class _StepLinear(_StepLayer):
    """'s' and 'm' alike take [*, in_features], e.g. [T, N, C] or [T, C]."""

    def forward(self, x: Tensor) -> Tensor:
        if self.step_mode == "m":
            check_sequence(x)
            if is_constant(x):
                return nn.Linear.forward(self, x[:1]).expand(len(x), *x.shape[1:-1], -1)  # type: ignore[arg-type]
        return nn.Linear.forward(self, x)  # type: ignore[arg-type]


class _StepConvTranspose(_StepLayer):
    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        return super().forward(x, self._spatial(output_size))

    def _spatial(self, output_size: Any) -> Any:
        """Return the spatial part of an output's shape, which may be given with T, N and C."""
        return None if output_size is None else list(output_size)[3 - self.sequence_dims[0] :]


class _StepMaxUnpool(_StepConvTranspose):
    def forward(self, x: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:  # type: ignore[override]
        return _StepLayer.forward(self, x, indices, self._spatial(output_size))


def _stepped(torch_layer: type[nn.Module], *sequence_dims: int, mixin: type = _StepLayer) -> Any:
    """Return torch's layer, of the same name, with a step mode as its constructor's last positional argument."""
    name, init = torch_layer.__name__, torch_layer.__init__  # type: ignore[misc]
    parameters = list(signature(init).parameters.values())
    end = next((i for i, p in enumerate(parameters) if p.name == "device"), len(parameters))
    step_mode = Parameter("step_mode", Parameter.POSITIONAL_OR_KEYWORD, default="s")
    by_keyword = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in parameters[end:]]
    ours = Signature([*parameters[:end], step_mode, *by_keyword])

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **keywords: Any) -> None:
        given = ours.bind(self, *args, **keywords).arguments
        mode = given.pop("step_mode", "s")
        init(**given)
        self.step_mode = mode

    __init__.__signature__ = ours  # type: ignore[attr-defined]
    shape = f" of {' or '.join(map(str, sequence_dims))} dimensions" if sequence_dims else ""
    doc = f"nn.{name} with a step mode; 's': [N, *], 'm': [T, N, *]{shape}."
    attributes = {"__doc__": doc, "__module__": __name__, "__init__": __init__, "sequence_dims": sequence_dims}
    return type(name, (mixin, torch_layer), attributes)


Linear = _stepped(nn.Linear, mixin=_StepLinear)
Flatten = _stepped(nn.Flatten)  # dimensions count as in one step, so start_dim=1 keeps T and N
GroupNorm = _stepped(nn.GroupNorm)
BatchNorm1d = _stepped(nn.BatchNorm1d, 3, 4)
BatchNorm2d = _stepped(nn.BatchNorm2d, 5)
BatchNorm3d = _stepped(nn.BatchNorm3d, 6)
Conv1d = _stepped(nn.Conv1d, 4)
Conv2d = _stepped(nn.Conv2d, 5)
Conv3d = _stepped(nn.Conv3d, 6)
ConvTranspose1d = _stepped(nn.ConvTranspose1d, 4, mixin=_StepConvTranspose)
ConvTranspose2d = _stepped(nn.ConvTranspose2d, 5, mixin=_StepConvTranspose)
ConvTranspose3d = _stepped(nn.ConvTranspose3d, 6, mixin=_StepConvTranspose)
MaxPool1d = _stepped(nn.MaxPool1d, 4)
MaxPool2d = _stepped(nn.MaxPool2d, 5)
MaxPool3d = _stepped(nn.MaxPool3d, 6)
MaxUnpool1d = _stepped(nn.MaxUnpool1d, 4, mixin=_StepMaxUnpool)
MaxUnpool2d = _stepped(nn.MaxUnpool2d, 5, mixin=_StepMaxUnpool)
MaxUnpool3d = _stepped(nn.MaxUnpool3d, 6, mixin=_StepMaxUnpool)
AvgPool1d = _stepped(nn.AvgPool1d, 4)
AvgPool2d = _stepped(nn.AvgPool2d, 5)
AvgPool3d = _stepped(nn.AvgPool3d, 6)
AdaptiveAvgPool1d = _stepped(nn.AdaptiveAvgPool1d, 4)
AdaptiveAvgPool2d = _stepped(nn.AdaptiveAvgPool2d, 5)
AdaptiveAvgPool3d = _stepped(nn.AdaptiveAvgPool3d, 6)


class VotingLayer(StepModule, nn.Module):
    """Mean of each `voting_size` neighbours in the last dimension: [*, C voting_size] to [*, C], in both step modes."""

    def __init__(self, voting_size: int = 10, step_mode: str = "s"):
        super().__init__()
        self.voting_size = voting_size
        self.step_mode = step_mode

    def forward(self, x: Tensor) -> Tensor:
        return floating(x, "VotingLayer").unflatten(-1, (-1, self.voting_size)).mean(-1)


# ---- layers with memories ----------------------------------------------------------------------------------


class Dropout(MemoryModule):
    """Sets elements to 0 with probability p in training, the same ones in every step until `reset()`.

    A new mask in each step would average out over T. The others are scaled by 1 / (1 - p).
    """

    forward_changes_memories = False
    mask: Any  # None until the first step, then [N, *]

    def __init__(self, p: float = 0.5, step_mode: str = "s"):
        super().__init__()
        self.p = float(p)
        self.step_mode = step_mode
        self.register_memory("mask", None)

    def create_mask(self, x: Tensor) -> Tensor:
        """Return 0 or 1 / (1 - p) for each element of x [N, *]."""
        return dropout(torch.ones_like(x), self.p)

    def _masked(self, x: Tensor, step: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.mask is None:
            self.mask = self.create_mask(step.detach())
        self._refuse_shape("its mask", self.mask.shape, step.shape)
        return x * self.mask

    def single_step_forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = floating(x, type(self).__name__)
        return self._masked(x, x)

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:  # type: ignore[override]
        check_sequence(x_seq)
        x_seq = floating(x_seq, type(self).__name__)
        return self._masked(x_seq, x_seq[0])

    def extra_repr(self) -> str:
        return f"p={self.p}, {super().extra_repr()}"


class Dropout2d(Dropout):
    """Dropout of whole channels of [N, C, H, W]."""

    def __init__(self, p: float = 0.2, step_mode: str = "s"):
        super().__init__(p, step_mode)

    def create_mask(self, x: Tensor) -> Tensor:
        return dropout2d(torch.ones_like(x), self.p)


class SynapseFilter(MemoryModule):
    """A synapse whose current rises with each spike and decays between them, the same in both step modes:

        I[t] = I[t-1] - (1 - S[t]) I[t-1] / tau + S[t],   I[-1] = 0

    tau > 1 is in time steps. With `learnable` it is the start of a parameter w, 1/tau = sigmoid(w).
    Diehl and Cook, "Unsupervised learning of digit recognition using STDP" (2015).
    """

    out_i: Any  # the current: a number until the first step, then [N, *]

    def __init__(self, tau: float = 100.0, learnable: bool = False, step_mode: str = "s"):
        super().__init__()
        self.learnable = learnable
        tau = real_number("tau", tau, "it is in time steps; the default is 100.0", above=1.0)
        if learnable:
            self.w = nn.Parameter(torch.tensor(-math.log(tau - 1.0)))
        else:
            self.tau = tau
        self.step_mode = step_mode
        self.register_memory("out_i", 0.0)

    def single_step_forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = floating(x, "SynapseFilter")
        self._start_memory("out_i", x, state_dtype(x))
        decay = self.w.sigmoid() if self.learnable else 1.0 / self.tau
        self.out_i = self.out_i - (1.0 - x) * self.out_i * decay + x
        return self.out_i.to(x.dtype)


# ---- containers --------------------------------------------------------------------------------------------


def _check_contents(container: nn.Module, name: str, module: Any, stateful: bool = True) -> None:
    """ValueError unless all of a container's new module is in step mode 's', and without state if not `stateful`."""
    for inner_name, inner in module.named_modules(prefix=name) if isinstance(module, nn.Module) else ():
        if getattr(inner, "step_mode", "s") != "s":
            raise ValueError(
                f"module {inner_name!r} inside {type(container).__name__} is in step mode 'm'; the container "
                "does the steps, so set its contents to step mode 's'"
            )
        if not stateful and isinstance(inner, MemoryModule):
            raise ValueError(
                f"module {inner_name!r} ({type(inner).__name__}) has a state, which folding T into the batch "
                "would lose; use MultiStepContainer or StepModeContainer(True, …)"
            )


class _Container(nn.Sequential, StepModule):
    """A Sequential whose single-step contents keep their own step mode.

    What comes in later is checked as in the constructor; append and extend call add_module.
    """

    keeps_step_mode_inside = True
    stateful = True

    def add_module(self, name: str, module: nn.Module | None) -> None:
        _check_contents(self, name, module, self.stateful)
        super().add_module(name, module)

    def insert(self, index: int, module: nn.Module) -> Any:
        _check_contents(self, str(index), module, self.stateful)
        return super().insert(index, module)

    def __setitem__(self, idx: int, module: nn.Module) -> None:
        _check_contents(self, str(idx), module, self.stateful)
        super().__setitem__(idx, module)

    def forward(self, x: Any) -> Any:
        if self.step_mode == "s":
            return super().forward(x)
        return (multi_step_forward if self.stateful else seq_to_ann_forward)(x, list(self))

    __add__ = __mul__ = __rmul__ = None  # type: ignore[assignment] # torch's would give a plain Sequential


class _MultiStepOnly(_Container):
    _step_mode = "m"

    def supported_step_mode(self) -> tuple[str, ...]:
        return ("m",)


class MultiStepContainer(_MultiStepOnly):
    """Single-step modules over a sequence [T, N, *], one step at a time."""


class SeqToANNContainer(_MultiStepOnly):
    """Stateless modules over a sequence [T, N, *] at once, as a batch [T N, *]."""

    stateful = False


class StepModeContainer(_Container):
    """Single-step modules in either step mode; in 'm' T is looped over if `stateful`, else folded."""

    def __init__(self, stateful: bool, *args: Any, step_mode: str = "s"):
        if not isinstance(stateful, bool):
            raise TypeError(f"StepModeContainer(stateful, *modules) needs True or False, not {stateful!r}")
        self.__dict__["stateful"] = stateful  # nn.Module's own constructor, which comes next, checks the contents
        super().__init__(*args)
        self.step_mode = step_mode

    def __getitem__(self, idx: Any) -> Any:
        if isinstance(idx, slice):
            contents = OrderedDict(list(self._modules.items())[idx])
            return type(self)(self.stateful, contents, step_mode=self.step_mode)
        return super().__getitem__(idx)


class _Recurrent(MemoryModule):
    """Feeds the output y[t-1] of a single-step module back into its input; y[-1] = 0."""

    keeps_step_mode_inside = True
    y: Any  # None until the first step, then the last output

    def __init__(self, sub_module: nn.Module, step_mode: str):
        super().__init__()
        _check_contents(self, "sub_module", sub_module)
        self.sub_module = sub_module
        self.step_mode = step_mode
        self.register_memory("y", None)


class ElementWiseRecurrentContainer(_Recurrent):
    """y[t] = sub_module(f(y[t-1], x[t])) with an element-wise function f; input and output have the same shape."""

    def __init__(
        self, sub_module: nn.Module, element_wise_function: Callable[[Tensor, Tensor], Tensor], step_mode: str = "s"
    ):
        super().__init__(sub_module, step_mode)
        self.element_wise_function = element_wise_function

    def single_step_forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = floating(x, "ElementWiseRecurrentContainer")
        self._start_memory("y", x, x.dtype)
        self.y = self.sub_module(self.element_wise_function(self.y, x))
        return self.y


class LinearRecurrentContainer(_Recurrent):
    """y[t] = sub_module(rc([x[t], y[t-1]])), rc = nn.Linear(in_features + out_features, in_features).

    x  # [N, *, in_features], y  # [N, *, out_features]
    """

    def __init__(
        self, sub_module: nn.Module, in_features: int, out_features: int, bias: bool = True, step_mode: str = "s"
    ):
        super().__init__(sub_module, step_mode)
        self.sub_module_out_features = out_features
        self.rc = nn.Linear(in_features + out_features, in_features, bias)

    def single_step_forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = floating(x, "LinearRecurrentContainer")
        self._start_memory("y", x.new_empty(*x.shape[:-1], self.sub_module_out_features), x.dtype)
        self.y = self.sub_module(self.rc(torch.cat((x, self.y.to(x.dtype)), dim=-1)))
        return self.y
