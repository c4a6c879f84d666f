"""Containers that give single-step modules a step mode, and recurrent ones. Users find them in `layer`."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snn_mnist.core.base import MemoryModule, StepModule, floating
from snn_mnist.core.functional import multi_step_forward, seq_to_ann_forward


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

    __add__ = __mul__ = __rmul__ = None  # type: ignore[assignment] # torch's would give a plain Sequential


class _MultiStepOnly(_Container):
    _step_mode = "m"

    def supported_step_mode(self) -> tuple[str, ...]:
        return ("m",)


class MultiStepContainer(_MultiStepOnly):
    """Single-step modules over a sequence [T, N, *], one step at a time."""

    def forward(self, x_seq: Any) -> Any:
        return multi_step_forward(x_seq, list(self))


class SeqToANNContainer(_MultiStepOnly):
    """Stateless modules over a sequence [T, N, *] at once, as a batch [T N, *]."""

    stateful = False

    def forward(self, x_seq: Any) -> Any:
        return seq_to_ann_forward(x_seq, list(self))


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

    def forward(self, x: Any) -> Any:
        if self.step_mode == "s":
            return super().forward(x)
        return (multi_step_forward if self.stateful else seq_to_ann_forward)(x, list(self))


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

    def extra_repr(self) -> str:
        return f"element_wise_function={self.element_wise_function}, {super().extra_repr()}"


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
