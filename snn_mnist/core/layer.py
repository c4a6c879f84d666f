"""PyTorch's layers with a step mode, and containers that give any module one.

A layer in step mode 'm' takes [T, N, *] and folds T into the batch; its `state_dict` is torch's.
"""

from typing import Any

from torch import Tensor, nn

from snn_mnist.core.base import MemoryModule, StepModule, check_step_mode
from snn_mnist.core.functional import multi_step_forward, seq_to_ann_forward


class _StepLayer(StepModule):
    """Mixed in before a stateless torch layer."""

    sequence_dims: tuple[int, ...] = ()  # allowed numbers of dimensions of [T, N, *]; empty: any

    def __init__(self, *args: Any, step_mode: str = "s", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.step_mode = step_mode

    def forward(self, x: Tensor) -> Tensor:
        single_step = super().forward  # type: ignore[misc]
        if self.step_mode == "s":
            return single_step(x)
        if self.sequence_dims and x.dim() not in self.sequence_dims:
            expected = " or ".join(map(str, self.sequence_dims))
            raise ValueError(
                f"{type(self).__name__} in step mode 'm' takes [T, N, *] of {expected} dimensions, "
                f"but got shape {list(x.shape)}; add the time dimension, or set_step_mode(net, 's')"
            )
        return seq_to_ann_forward(x, single_step)

    def extra_repr(self) -> str:
        inner = super().extra_repr()  # type: ignore[misc]
        return f"{inner}, step_mode={self.step_mode!r}" if inner else f"step_mode={self.step_mode!r}"


class Linear(_StepLayer, nn.Linear):
    """nn.Linear with a step mode."""


class Flatten(_StepLayer, nn.Flatten):
    """nn.Flatten with a step mode; dimensions count as in one step, so start_dim=1 keeps T and N."""


class Conv1d(_StepLayer, nn.Conv1d):
    """nn.Conv1d with a step mode; 'm': [T, N, C, L]."""

    sequence_dims = (4,)


class Conv2d(_StepLayer, nn.Conv2d):
    """nn.Conv2d with a step mode; 'm': [T, N, C, H, W]."""

    sequence_dims = (5,)


class Conv3d(_StepLayer, nn.Conv3d):
    """nn.Conv3d with a step mode; 'm': [T, N, C, D, H, W]."""

    sequence_dims = (6,)


class BatchNorm1d(_StepLayer, nn.BatchNorm1d):
    """nn.BatchNorm1d with a step mode; 'm': [T, N, C] or [T, N, C, L], statistics over T and N."""

    sequence_dims = (3, 4)


class BatchNorm2d(_StepLayer, nn.BatchNorm2d):
    """nn.BatchNorm2d with a step mode; 'm': [T, N, C, H, W], statistics over T, N, H and W."""

    sequence_dims = (5,)


class BatchNorm3d(_StepLayer, nn.BatchNorm3d):
    """nn.BatchNorm3d with a step mode; 'm': [T, N, C, D, H, W], statistics over T, N, D, H and W."""

    sequence_dims = (6,)


class MaxPool2d(_StepLayer, nn.MaxPool2d):
    """nn.MaxPool2d with a step mode; 'm': [T, N, C, H, W]."""

    sequence_dims = (5,)


class AvgPool2d(_StepLayer, nn.AvgPool2d):
    """nn.AvgPool2d with a step mode; 'm': [T, N, C, H, W]."""

    sequence_dims = (5,)


class Dropout(_StepLayer, nn.Dropout):
    """nn.Dropout with a step mode: every step draws its own mask, in both step modes."""


class _Container(nn.Sequential, StepModule):
    """A Sequential whose single-step contents keep their own step mode."""

    keeps_step_mode_inside = True

    def __init__(self, *args: Any):
        super().__init__(*args)
        for name, module in self.named_modules():
            if module is not self and getattr(module, "step_mode", "s") != "s":
                raise ValueError(
                    f"module {name!r} inside {type(self).__name__} is in step mode 'm'; the container "
                    "does the steps, so set its contents to step mode 's'"
                )


class _MultiStepOnly(_Container):
    _step_mode = "m"

    def supported_step_mode(self) -> tuple[str, ...]:
        return ("m",)


def _check_stateless(container: nn.Module) -> None:
    for name, module in container.named_modules():
        if isinstance(module, MemoryModule):
            raise ValueError(
                f"module {name!r} ({type(module).__name__}) has a state, which folding T into the batch "
                "would lose; use MultiStepContainer or StepModeContainer(True, …)"
            )


class MultiStepContainer(_MultiStepOnly):
    """Single-step modules over a sequence [T, N, *], one step at a time."""

    def forward(self, x_seq: Tensor) -> Tensor:
        return multi_step_forward(x_seq, super().forward)


class SeqToANNContainer(_MultiStepOnly):
    """Stateless modules over a sequence [T, N, *] at once, as a batch [T N, *]."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        _check_stateless(self)

    def forward(self, x_seq: Tensor) -> Tensor:
        return seq_to_ann_forward(x_seq, super().forward)


class StepModeContainer(_Container):
    """Single-step modules in either step mode; in 'm' T is looped over if `stateful`, else folded."""

    def __init__(self, stateful: bool, *args: Any, step_mode: str = "s"):
        if not isinstance(stateful, bool):
            raise TypeError(f"StepModeContainer(stateful, *modules) needs True or False, not {stateful!r}")
        super().__init__(*args)
        self.stateful = stateful
        if not stateful:
            _check_stateless(self)
        self.step_mode = check_step_mode(step_mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.step_mode == "s":
            return super().forward(x)
        return (multi_step_forward if self.stateful else seq_to_ann_forward)(x, super().forward)
