"""Functions for a whole network: reset, step mode, backend, and running a module over a sequence."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

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


# What computes the same for [T, N, *] as for each [N, *]: functions and methods, and modules of torch.
POINTWISE = {"add", "clone", "contiguous", "detach", "div", "dropout", "float", "mul", "neg", "sub", "truediv"}
_TIME_KEEPING = set(nn.modules.activation.__all__) - {"MultiheadAttention", "PReLU", "Softmax2d"} | {
    "AlphaDropout", "Dropout", "Embedding", "Identity", "LayerNorm", "Linear", "PixelShuffle", "PixelUnshuffle",
    "RMSNorm", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d",
}  # fmt: skip


def keeps_time(module: nn.Module) -> bool:
    """Return whether a module of torch without a step mode takes [T, N, *] as T steps [N, *]."""
    if isinstance(module, nn.PReLU):
        return module.num_parameters == 1
    dim = getattr(module, "dim", -1)  # of Softmax and GLU
    return any(kind.__name__ in _TIME_KEEPING for kind in type(module).__mro__) and dim is not None and dim < 0


def _refuse_what_takes_time_for_batch(net: nn.Module, prefix: str = "") -> bool:
    """ValueError for a module of torch to which nested nn.Sequentials give [T, N, *], or a function of a converted net.

    Return whether the output is known to be a sequence still; a module of the user's own may return anything.
    """
    if isinstance(net, fx.GraphModule) and hasattr(net, "snn tailor"):
        for node in net.graph.nodes:
            if node.op in ("call_function", "call_method"):
                function = getattr(node.target, "__name__", node.target)
                if function not in POINTWISE:
                    raise ValueError(
                        f"{prefix}{node.name}: {function} would take T for the batch in step mode 'm'; use a "
                        "module such as nn.Flatten, or functional.multi_step_forward(x_seq, net)"
                    )
    if type(net) is not nn.Sequential:
        return type(net).__module__.startswith("snn_mnist.core.")
    for name, module in net.named_children():
        kind = type(module)
        if kind is not nn.Sequential and kind.__module__.startswith("torch.nn."):
            if not keeps_time(module):
                raise ValueError(
                    f"module {prefix + name!r}: nn.{kind.__name__} would take T for the batch in step mode 'm'; use "
                    "the layer of that name in core.layer, or put it into layer.SeqToANNContainer"
                )
        elif not _refuse_what_takes_time_for_batch(module, f"{prefix}{name}."):
            return False
    return True


def set_step_mode(net: nn.Module, step_mode: str) -> None:
    """Sets 's' or 'm' in every module with a step mode, but not in what a container of `layer` holds.

    ValueError, and nothing changed, when a module does not support it, or where a sequence would go to a module or
    function of torch that takes T for the batch, as far as nn.Sequential and a converted net show.
    """
    check_step_mode(step_mode)
    if step_mode == "m":
        _refuse_what_takes_time_for_batch(net)
    inside = _inside_containers(net)
    changing: list[tuple[str, Any]] = [
        (name, m) for name, m in net.named_modules() if m not in inside and hasattr(m, "step_mode")
    ]
    _set_everywhere(changing, "step_mode", step_mode)


def _set_everywhere(changing: list[tuple[str, Any]], attribute: str, value: str, hint: str = "") -> None:
    """Sets the attribute of all these modules; where one refuses, names it and changes nothing."""
    before = [getattr(module, attribute) for _, module in changing]
    try:
        for name, module in changing:
            try:
                setattr(module, attribute, value)
            except (ValueError, RuntimeError) as error:
                raise type(error)(f"module {name!r}: {error}{hint}" if name else str(error)) from error
    except (ValueError, RuntimeError):
        for (_, module), old in zip(changing, before, strict=True):
            setattr(module, attribute, old)
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
    hint = "" if instance else "; pass instance=… to choose the modules to change"
    _set_everywhere(changing, "backend", backend, hint)


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
