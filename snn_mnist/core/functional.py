"""Functions for a whole network: reset, step mode, backend, and running a module over a sequence."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snn_mnist.core.base import (
    MemoryModule,
    check_sequence,
    check_step_mode,
    first_tensor,
    join,
    map_tensors,
    stack_steps,
    steps_of,
)

Modules = nn.Module | Callable[[Any], Any] | Sequence[Callable[[Any], Any]]
log = logging.getLogger("snn_mnist")


def reset_net(net: nn.Module) -> None:
    """Calls `reset()` of every module that has one: call it after each batch."""
    _call_everywhere(net, "reset")


def detach_net(net: nn.Module) -> None:
    """Calls `detach()` of every module that has one: memories keep their value and lose their graph (truncated
    back-propagation through time)."""
    _call_everywhere(net, "detach")


def _call_everywhere(net: nn.Module, name: str) -> None:
    for module in net.modules():
        method = getattr(module, name, None)
        if callable(method):
            if not isinstance(module, MemoryModule):
                log.warning("calling %s() of %s, which is no base.MemoryModule", name, type(module).__name__)
            method()


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


def _apply(x: Any, modules: Modules) -> Any:
    """The first module takes the parts of a tuple as its arguments; from then on each takes what the last returned."""
    in_order: Sequence[Any] = modules if isinstance(modules, (list, tuple)) else [modules]
    for i, module in enumerate(in_order):
        x = module(*x) if i == 0 and isinstance(x, tuple) else module(x)
    return x


def multi_step_forward(x_seq: Any, single_step_module: Modules) -> Any:
    """Runs a single-step module (or list of them, in order) over x_seq [T, N, *], one step at a time.

    Each step of a tuple of sequences goes to the first module as its arguments; a module that returns a tuple gives a
    tuple of sequences.
    """
    check_sequence(x_seq)
    return stack_steps([_apply(x, single_step_module) for x in steps_of(x_seq)])


def seq_to_ann_forward(x_seq: Any, stateless_module: Modules) -> Any:
    """Runs a stateless module (or list of them) once over x_seq [T, N, *] seen as a batch [T N, *].

    The sequences of a tuple go to the first module as its arguments, e.g. values and indices to nn.MaxUnpool2d; a
    module that returns a tuple gives a tuple of sequences.
    """
    check_sequence(x_seq)
    time_and_batch = first_tensor(x_seq).shape[:2]
    if len(time_and_batch) < 2:
        raise RuntimeError(f"folding T into the batch needs shape [T, N, *], but got {list(time_and_batch)}")

    def fold(x: Tensor) -> Tensor:
        if x.shape[:2] != time_and_batch:
            raise RuntimeError(
                f"the sequences of a tuple must share [T, N], but one begins with {list(x.shape[:2])}, the first "
                f"with {list(time_and_batch)}"
            )
        return x.flatten(0, 1)  # [T N, *]

    y = _apply(map_tensors(fold, x_seq), stateless_module)
    return map_tensors(lambda part: part.unflatten(0, time_and_batch), y)


def chunk_multi_step_forward(split_size: int, x_seq: Tensor, multi_step_module: Callable[[Tensor], Any]) -> Any:
    """Runs a multi-step module over x_seq [T, N, *], `split_size` time steps at a time, to save memory in inference."""
    check_sequence(x_seq)
    return join([multi_step_module(chunk) for chunk in x_seq.split(split_size)], torch.cat)


__all__ = [
    "chunk_multi_step_forward",
    "detach_net",
    "multi_step_forward",
    "reset_net",
    "seq_to_ann_forward",
    "set_backend",
    "set_step_mode",
]
