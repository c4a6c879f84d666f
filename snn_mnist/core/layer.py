"""PyTorch's layers with a step mode and layers with memories; the containers of core/containers.py are here too.

A stateless layer takes torch's arguments in torch's order, then `step_mode`; `device` and `dtype` go by keyword.
In step mode 'm' it takes [T, N, *] and folds T into the batch; its `state_dict` is torch's.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, dropout2d

from snn_mnist.core.base import (
    MemoryModule,
    StepModule,
    check_sequence,
    first_tensor,
    floating,
    state_dtype,
)
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


class _StepLayer(StepModule):
    """Mixed in before a stateless torch layer."""

    sequence_dims: tuple[int, ...] = ()  # allowed numbers of dimensions of [T, N, *]; empty: any

    def forward(self, x: Any, *args: Any) -> Any:
        single_step = super().forward  # type: ignore[misc]
        if self.step_mode == "s":
            return single_step(x, *args)
        self._check_dimensions(first_tensor(x))
        return seq_to_ann_forward(x, lambda folded: single_step(folded, *args))

    def _check_dimensions(self, x_seq: Tensor) -> None:
        if self.sequence_dims and x_seq.dim() not in self.sequence_dims:
            expected = " or ".join(map(str, self.sequence_dims))
            raise ValueError(
                f"{type(self).__name__} in step mode 'm' takes [T, N, *] of {expected} dimensions, "
                f"but got shape {list(x_seq.shape)}; add the time dimension, or set_step_mode(net, 's')"
            )

    def extra_repr(self) -> str:
        inner = super().extra_repr()  # type: ignore[misc]
        return f"{inner}, step_mode={self.step_mode!r}" if inner else f"step_mode={self.step_mode!r}"


class Linear(_StepLayer, nn.Linear):
    """nn.Linear with a step mode; 's' and 'm' alike take [*, in_features], e.g. [T, N, C] or [T, C]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        step_mode: str = "s",
        *,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.step_mode = step_mode

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

    def __init__(self, start_dim: int = 1, end_dim: int = -1, step_mode: str = "s"):
        super().__init__(start_dim, end_dim)
        self.step_mode = step_mode


class _Conv(_StepLayer):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        step_mode: str = "s",
        *,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(  # type: ignore[call-arg]
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.step_mode = step_mode


class Conv1d(_Conv, nn.Conv1d):
    """nn.Conv1d with a step mode; 'm': [T, N, C, L]."""

    sequence_dims = (4,)


class Conv2d(_Conv, nn.Conv2d):
    """nn.Conv2d with a step mode; 'm': [T, N, C, H, W]."""

    sequence_dims = (5,)


class Conv3d(_Conv, nn.Conv3d):
    """nn.Conv3d with a step mode; 'm': [T, N, C, D, H, W]."""

    sequence_dims = (6,)


class _WithOutputSize(_StepLayer):
    """forward(x, …, output_size): the spatial size, or the shape of the output; in 'm' with or without T."""

    def _spatial(self, output_size: Any) -> Any:
        spatial = self.sequence_dims[0] - 3
        return None if output_size is None else list(output_size)[-spatial:]


class _ConvTranspose(_WithOutputSize):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        output_padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, ...] = 1,
        padding_mode: str = "zeros",
        step_mode: str = "s",
        *,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(  # type: ignore[call-arg]
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation,
            padding_mode, device=device, dtype=dtype,
        )  # fmt: skip
        self.step_mode = step_mode

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        return super().forward(x, self._spatial(output_size))


class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d):
    """nn.ConvTranspose1d with a step mode; 'm': [T, N, C, L]."""

    sequence_dims = (4,)


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    """nn.ConvTranspose2d with a step mode; 'm': [T, N, C, H, W]."""

    sequence_dims = (5,)


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    """nn.ConvTranspose3d with a step mode; 'm': [T, N, C, D, H, W]."""

    sequence_dims = (6,)


class _BatchNorm(_StepLayer):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        step_mode: str = "s",
        **keywords: Any,  # device, dtype and what newer versions of torch add
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **keywords)  # type: ignore[call-arg]
        self.step_mode = step_mode


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """nn.BatchNorm1d with a step mode; 'm': [T, N, C] or [T, N, C, L], statistics over T and N."""

    sequence_dims = (3, 4)


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """nn.BatchNorm2d with a step mode; 'm': [T, N, C, H, W], statistics over T, N, H and W."""

    sequence_dims = (5,)


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """nn.BatchNorm3d with a step mode; 'm': [T, N, C, D, H, W], statistics over T, N, D, H and W."""

    sequence_dims = (6,)


class GroupNorm(_StepLayer, nn.GroupNorm):
    """nn.GroupNorm with a step mode; 'm': [T, N, C, *], statistics of each step and sample."""

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        step_mode: str = "s",
        **keywords: Any,  # device, dtype and what newer versions of torch add
    ):
        super().__init__(num_groups, num_channels, eps, affine, **keywords)
        self.step_mode = step_mode

    def forward(self, x: Tensor) -> Tensor:
        channels = 1 if self.step_mode == "s" else 2
        if x.dim() <= channels or x.shape[channels] != self.num_channels:
            raise ValueError(
                f"GroupNorm in step mode {self.step_mode!r} takes {'[N, C, *]' if channels == 1 else '[T, N, C, *]'} "
                f"with C = {self.num_channels}, but got shape {list(x.shape)}"
            )
        return super().forward(x)


class _MaxPool(_StepLayer):
    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        step_mode: str = "s",
    ):
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[call-arg]
        self.step_mode = step_mode


class MaxPool1d(_MaxPool, nn.MaxPool1d):
    """nn.MaxPool1d with a step mode; 'm': [T, N, C, L]."""

    sequence_dims = (4,)


class MaxPool2d(_MaxPool, nn.MaxPool2d):
    """nn.MaxPool2d with a step mode; 'm': [T, N, C, H, W]."""

    sequence_dims = (5,)


class MaxPool3d(_MaxPool, nn.MaxPool3d):
    """nn.MaxPool3d with a step mode; 'm': [T, N, C, D, H, W]."""

    sequence_dims = (6,)


class _MaxUnpool(_WithOutputSize):
    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
        step_mode: str = "s",
    ):
        super().__init__(kernel_size, stride, padding)  # type: ignore[call-arg]
        self.step_mode = step_mode

    def forward(self, x: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        size = self._spatial(output_size)
        if self.step_mode == "s":
            return super().forward(x, indices, size)
        self._check_dimensions(x)
        unpool = super(_StepLayer, self).forward  # type: ignore[misc]
        return seq_to_ann_forward((x, indices), lambda *pair: unpool(*pair, size))


class MaxUnpool1d(_MaxUnpool, nn.MaxUnpool1d):
    """nn.MaxUnpool1d with a step mode; 'm': values and indices [T, N, C, L]."""

    sequence_dims = (4,)


class MaxUnpool2d(_MaxUnpool, nn.MaxUnpool2d):
    """nn.MaxUnpool2d with a step mode; 'm': values and indices [T, N, C, H, W]."""

    sequence_dims = (5,)


class MaxUnpool3d(_MaxUnpool, nn.MaxUnpool3d):
    """nn.MaxUnpool3d with a step mode; 'm': values and indices [T, N, C, D, H, W]."""

    sequence_dims = (6,)


class AvgPool1d(_StepLayer, nn.AvgPool1d):
    """nn.AvgPool1d with a step mode; 'm': [T, N, C, L]."""

    sequence_dims = (4,)

    def __init__(
        self,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] | None = None,
        padding: int | tuple[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        step_mode: str = "s",
    ):
        super().__init__(kernel_size, cast(Any, stride), padding, ceil_mode, count_include_pad)
        self.step_mode = step_mode


class _AvgPool(_StepLayer):
    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        step_mode: str = "s",
    ):
        super().__init__(  # type: ignore[call-arg]
            kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
        self.step_mode = step_mode


class AvgPool2d(_AvgPool, nn.AvgPool2d):
    """nn.AvgPool2d with a step mode; 'm': [T, N, C, H, W]."""

    sequence_dims = (5,)


class AvgPool3d(_AvgPool, nn.AvgPool3d):
    """nn.AvgPool3d with a step mode; 'm': [T, N, C, D, H, W]."""

    sequence_dims = (6,)


class _AdaptiveAvgPool(_StepLayer):
    def __init__(self, output_size: int | tuple[int | None, ...], step_mode: str = "s"):
        super().__init__(output_size)  # type: ignore[call-arg]
        self.step_mode = step_mode


class AdaptiveAvgPool1d(_AdaptiveAvgPool, nn.AdaptiveAvgPool1d):
    """nn.AdaptiveAvgPool1d with a step mode; 'm': [T, N, C, L]."""

    sequence_dims = (4,)


class AdaptiveAvgPool2d(_AdaptiveAvgPool, nn.AdaptiveAvgPool2d):
    """nn.AdaptiveAvgPool2d with a step mode; 'm': [T, N, C, H, W]."""

    sequence_dims = (5,)


class AdaptiveAvgPool3d(_AdaptiveAvgPool, nn.AdaptiveAvgPool3d):
    """nn.AdaptiveAvgPool3d with a step mode; 'm': [T, N, C, D, H, W]."""

    sequence_dims = (6,)


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
