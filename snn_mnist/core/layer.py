"""PyTorch's layers with a step mode and layers with memories; the containers of core/containers.py are here too.

A stateless layer takes torch's arguments in torch's order, then `step_mode`; `device` and `dtype` go by keyword.
In step mode 'm' it takes [T, N, *] and folds T into the batch; its `state_dict` is torch's.
"""

import functools
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, dropout2d

from snn_mnist.core.base import MemoryModule, StepModule, check_sequence, first_tensor, floating, state_dtype
from snn_mnist.core.containers import (  # noqa: F401 where users of SpikingJelly find them
    ElementWiseRecurrentContainer,
    LinearRecurrentContainer,
    MultiStepContainer,
    SeqToANNContainer,
    StepModeContainer,
)
from snn_mnist.core.functional import seq_to_ann_forward
from snn_mnist.core.numbers import above_one, finite

# ---- stateless layers --------------------------------------------------------------------------------------


def _with_step_mode(init: Callable[..., None]) -> Callable[..., None]:
    """Return torch's constructor with `step_mode='s'` as its last positional argument."""
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
    return __init__


class _StepLayer(StepModule):
    """Mixed in before a stateless torch layer, whose constructor then takes a `step_mode` too.

    sequence_dims: the allowed numbers of dimensions of [T, N, *]; empty: any.
    """

    sequence_dims: tuple[int, ...] = ()

    def __init_subclass__(cls, sequence_dims: tuple[int, ...] = (), **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if sequence_dims:
            cls.sequence_dims = sequence_dims
        mixin, torch_layer = cls.__bases__[0], cls.__bases__[-1]
        if issubclass(torch_layer, nn.Module) and not issubclass(mixin, nn.Module):
            cls.__init__ = _with_step_mode(torch_layer.__init__)  # type: ignore[method-assign]

    def __init__(self, *args: Any, **keywords: Any) -> None:
        raise TypeError(f"{type(self).__name__} is no layer: mix it in before one of torch")

    def forward(self, *inputs: Any) -> Any:
        single_step = super().forward  # type: ignore[misc]
        if self.step_mode == "s":
            return single_step(*inputs)
        self._check_dimensions(first_tensor(inputs))
        return seq_to_ann_forward(inputs, single_step)

    def _check_dimensions(self, x_seq: Tensor) -> None:
        if self.sequence_dims and x_seq.dim() not in self.sequence_dims:
            expected = " or ".join(map(str, self.sequence_dims))
            raise ValueError(
                f"{type(self).__name__} in step mode 'm' takes [T, N, *] of {expected} dimensions, "
                f"but got shape {list(x_seq.shape)}; add the time dimension, or set_step_mode(net, 's')"
            )

    def _spatial(self, output_size: Any) -> Any:
        """Return the spatial part of an output's shape, which may be given with T, N and C."""
        return None if output_size is None else list(output_size)[3 - self.sequence_dims[0] :]

    def extra_repr(self) -> str:
        inner = super().extra_repr()  # type: ignore[misc]
        return f"{inner}, step_mode={self.step_mode!r}" if inner else f"step_mode={self.step_mode!r}"


class Linear(_StepLayer, nn.Linear):
    """nn.Linear with a step mode; 's' and 'm' alike take [*, in_features], e.g. [T, N, C] or [T, C]."""

    def forward(self, x: Tensor) -> Tensor:
        if self.step_mode == "m":
            check_sequence(x)
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"Linear takes {self.in_features} features in the last dimension, but got shape {list(x.shape)}"
            )
        return nn.Linear.forward(self, x)


class Flatten(_StepLayer, nn.Flatten):
    """nn.Flatten with a step mode; dimensions count as in one step, so start_dim=1 keeps T and N."""


class Conv1d(_StepLayer, nn.Conv1d, sequence_dims=(4,)):
    """nn.Conv1d with a step mode; 'm': [T, N, C, L]."""


class Conv2d(_StepLayer, nn.Conv2d, sequence_dims=(5,)):
    """nn.Conv2d with a step mode; 'm': [T, N, C, H, W]."""


class Conv3d(_StepLayer, nn.Conv3d, sequence_dims=(6,)):
    """nn.Conv3d with a step mode; 'm': [T, N, C, D, H, W]."""


class _ConvTranspose(_StepLayer):
    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        return super().forward(x, self._spatial(output_size))


class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d, sequence_dims=(4,)):
    """nn.ConvTranspose1d with a step mode; 'm': [T, N, C, L]."""


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d, sequence_dims=(5,)):
    """nn.ConvTranspose2d with a step mode; 'm': [T, N, C, H, W]."""


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d, sequence_dims=(6,)):
    """nn.ConvTranspose3d with a step mode; 'm': [T, N, C, D, H, W]."""


class BatchNorm1d(_StepLayer, nn.BatchNorm1d, sequence_dims=(3, 4)):
    """nn.BatchNorm1d with a step mode; 'm': [T, N, C] or [T, N, C, L], statistics over T and N."""


class BatchNorm2d(_StepLayer, nn.BatchNorm2d, sequence_dims=(5,)):
    """nn.BatchNorm2d with a step mode; 'm': [T, N, C, H, W], statistics over T, N, H and W."""


class BatchNorm3d(_StepLayer, nn.BatchNorm3d, sequence_dims=(6,)):
    """nn.BatchNorm3d with a step mode; 'm': [T, N, C, D, H, W], statistics over T, N, D, H and W."""


class GroupNorm(_StepLayer, nn.GroupNorm):
    """nn.GroupNorm with a step mode; 'm': [T, N, C, *], statistics of each step and sample."""

    def forward(self, x: Tensor) -> Tensor:
        channels = 1 if self.step_mode == "s" else 2
        if x.dim() <= channels or x.shape[channels] != self.num_channels:
            raise ValueError(
                f"GroupNorm in step mode {self.step_mode!r} takes {'[N, C, *]' if channels == 1 else '[T, N, C, *]'} "
                f"with C = {self.num_channels}, but got shape {list(x.shape)}"
            )
        return super().forward(x)


class MaxPool1d(_StepLayer, nn.MaxPool1d, sequence_dims=(4,)):
    """nn.MaxPool1d with a step mode; 'm': [T, N, C, L]."""


class MaxPool2d(_StepLayer, nn.MaxPool2d, sequence_dims=(5,)):
    """nn.MaxPool2d with a step mode; 'm': [T, N, C, H, W]."""


class MaxPool3d(_StepLayer, nn.MaxPool3d, sequence_dims=(6,)):
    """nn.MaxPool3d with a step mode; 'm': [T, N, C, D, H, W]."""


class _MaxUnpool(_StepLayer):
    def forward(self, x: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        return super().forward(x, indices, self._spatial(output_size))


class MaxUnpool1d(_MaxUnpool, nn.MaxUnpool1d, sequence_dims=(4,)):
    """nn.MaxUnpool1d with a step mode; 'm': values and indices [T, N, C, L]."""


class MaxUnpool2d(_MaxUnpool, nn.MaxUnpool2d, sequence_dims=(5,)):
    """nn.MaxUnpool2d with a step mode; 'm': values and indices [T, N, C, H, W]."""


class MaxUnpool3d(_MaxUnpool, nn.MaxUnpool3d, sequence_dims=(6,)):
    """nn.MaxUnpool3d with a step mode; 'm': values and indices [T, N, C, D, H, W]."""


class AvgPool1d(_StepLayer, nn.AvgPool1d, sequence_dims=(4,)):
    """nn.AvgPool1d with a step mode; 'm': [T, N, C, L]."""


class AvgPool2d(_StepLayer, nn.AvgPool2d, sequence_dims=(5,)):
    """nn.AvgPool2d with a step mode; 'm': [T, N, C, H, W]."""


class AvgPool3d(_StepLayer, nn.AvgPool3d, sequence_dims=(6,)):
    """nn.AvgPool3d with a step mode; 'm': [T, N, C, D, H, W]."""


class AdaptiveAvgPool1d(_StepLayer, nn.AdaptiveAvgPool1d, sequence_dims=(4,)):
    """nn.AdaptiveAvgPool1d with a step mode; 'm': [T, N, C, L]."""


class AdaptiveAvgPool2d(_StepLayer, nn.AdaptiveAvgPool2d, sequence_dims=(5,)):
    """nn.AdaptiveAvgPool2d with a step mode; 'm': [T, N, C, H, W]."""


class AdaptiveAvgPool3d(_StepLayer, nn.AdaptiveAvgPool3d, sequence_dims=(6,)):
    """nn.AdaptiveAvgPool3d with a step mode; 'm': [T, N, C, D, H, W]."""


class VotingLayer(nn.Module, StepModule):
    """Mean of each `voting_size` neighbours in the last dimension: [*, C voting_size] to [*, C], in both step modes."""

    def __init__(self, voting_size: int = 10, step_mode: str = "s"):
        super().__init__()
        self.voting_size = voting_size
        self.step_mode = step_mode

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 0 or x.shape[-1] % self.voting_size:
            raise ValueError(
                f"VotingLayer needs a multiple of voting_size={self.voting_size} in the last dimension, "
                f"but got shape {list(x.shape)}"
            )
        return floating(x, "VotingLayer").unflatten(-1, (-1, self.voting_size)).mean(-1)

    def extra_repr(self) -> str:
        return f"voting_size={self.voting_size}, step_mode={self.step_mode!r}"


# ---- layers with memories ----------------------------------------------------------------------------------


class Dropout(MemoryModule):
    """Sets elements to 0 with probability p in training, the same ones in every step until `reset()`.

    A new mask in each step would average out over T. The others are scaled by 1 / (1 - p).
    """

    forward_changes_memories = False
    mask: Any  # None until the first step, then [N, *]

    def __init__(self, p: float = 0.5, step_mode: str = "s"):
        super().__init__()
        self.p = finite("p", p, "the default is 0.5")
        if not 0.0 <= self.p <= 1.0:
            raise ValueError(f"p={p!r} must be a probability in [0, 1]; the default is 0.5")
        self.step_mode = step_mode
        self.register_memory("mask", None)

    def create_mask(self, x: Tensor) -> Tensor:
        """x  # [N, *] -> 0 or 1 / (1 - p), of the same shape"""
        return dropout(torch.ones_like(x), self.p)

    def _masked(self, x: Tensor, step: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.mask is None:
            self.mask = self.create_mask(step.detach())
        elif self.mask.shape != step.shape:
            raise RuntimeError(
                f"the input of {type(self).__name__} changed from shape {list(self.mask.shape)} to "
                f"{list(step.shape)} while its mask is kept; call functional.reset_net(net) before a new batch"
            )
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
        tau = above_one("tau", tau, "the default is 100.0")
        if learnable:
            self.w = nn.Parameter(-(torch.as_tensor(tau) - 1.0).log())
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

    def extra_repr(self) -> str:
        tau = 1.0 / self.w.detach().sigmoid().item() if self.learnable else self.tau
        return f"tau={tau}, learnable={self.learnable}, {super().extra_repr()}"
