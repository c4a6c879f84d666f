"""What one does to a whole net: reset, step mode, backend, and running a module over a sequence."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snn_mnist.core.base import MemoryModule, check_sequence, check_step_mode

Modules = nn.Module | Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]]


def reset_net(net: nn.Module) -> None:
    """Calls `reset()` of every module that has one: call it after each batch."""
    for module in net.modules():
        reset = getattr(module, "reset", None)
        if callable(reset):
            reset()


def detach_net(net: nn.Module) -> None:
    """Cuts every memory from the graph and keeps its value (truncated back-propagation through time)."""
    for module in net.modules():
        if isinstance(module, MemoryModule):
            module.detach()


def _inside_containers(net: nn.Module) -> set[nn.Module]:
    containers = (m for m in net.modules() if getattr(m, "keeps_step_mode_inside", False))
    return {inner for c in containers for inner in c.modules() if inner is not c}


def set_step_mode(net: nn.Module, step_mode: str) -> None:
    """Sets 's' or 'm' in every module with a step mode, but not in what a container of `layer` holds.

    ValueError, and nothing changed, when a module does not support it.
    """
    check_step_mode(step_mode)
    inside = _inside_containers(net)
    changing: list[Any] = [m for m in net.modules() if m not in inside and hasattr(m, "step_mode")]
    before = [m.step_mode for m in changing]
    try:
        for module in changing:
            module.step_mode = step_mode
    except ValueError:
        for module, mode in zip(changing, before, strict=True):
            module.step_mode = mode
        raise


def set_backend(net: nn.Module, backend: str, instance: type | tuple[type, ...] | None = None) -> None:
    """Sets the backend of every module that has one, or of those of type `instance` only.

    ValueError where a module does not support it in its step mode, RuntimeError where it is not available
    here; both name the module, the reason and the fix, and change nothing.
    """
    changing: list[tuple[str, Any]] = [
        (name, m)
        for name, m in net.named_modules()
        if hasattr(m, "backend") and (instance is None or isinstance(m, instance))
    ]
    before = [m.backend for _, m in changing]
    try:
        for name, module in changing:
            try:
                module.backend = backend
            except (ValueError, RuntimeError) as error:
                others = "" if instance else "; pass instance=… to choose the modules to change"
                raise type(error)(f"module {name!r}: {error}{others}" if name else str(error)) from error
    except (ValueError, RuntimeError):
        for (_, module), value in zip(changing, before, strict=True):
            module.backend = value
        raise


def _as_list(modules: Modules) -> Iterable[Callable[[Tensor], Tensor]]:
    return modules if isinstance(modules, list | tuple) else (modules,)  # type: ignore[return-value]


def multi_step_forward(x_seq: Tensor, single_step_module: Modules) -> Tensor:
    """Runs a single-step module (or list of them, in order) over x_seq [T, N, *], one step at a time."""
    check_sequence(x_seq)
    modules = _as_list(single_step_module)
    outputs = []
    for x in x_seq:
        for module in modules:
            x = module(x)
        outputs.append(x)
    return torch.stack(outputs)


def seq_to_ann_forward(x_seq: Tensor, stateless_module: Modules) -> Tensor:
    """Runs a stateless module (or list of them) once over x_seq [T, N, *] seen as a batch [T N, *]."""
    check_sequence(x_seq)
    if x_seq.dim() < 2:
        raise RuntimeError(f"folding T into the batch needs shape [T, N, *], but got {list(x_seq.shape)}")
    y = x_seq.flatten(0, 1)  # [T N, *]
    for module in _as_list(stateless_module):
        y = module(y)
    return y.unflatten(0, x_seq.shape[:2])


__all__ = [
    "detach_net",
    "multi_step_forward",
    "reset_net",
    "seq_to_ann_forward",
    "set_backend",
    "set_step_mode",
]
