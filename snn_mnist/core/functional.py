"""Functions for a whole network: reset, step mode, backend, and running a module over a sequence."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from snn_mnist.core.base import MemoryModule, check_sequence, check_step_mode, each_step, join, map_tensors

Modules = nn.Module | Callable[[Any], Any] | Sequence[Callable[[Any], Any]]
log = logging.getLogger("snn_mnist")


def reset_net(net: nn.Module) -> None:
    """Call `reset()` of every module that has one, after each batch."""
    _call_everywhere(net, "reset")


def detach_net(net: nn.Module) -> None:
    """Call `detach()` of every module that has one: memories keep their value without its graph (truncated BPTT)."""
    _call_everywhere(net, "detach")


def _call_everywhere(net: nn.Module, name: str) -> None:
    for module in net.modules():
        method = getattr(module, name, None)
        if callable(method):
            if not isinstance(module, MemoryModule):
                _warn_once(name, type(module).__qualname__)
            method()


@functools.cache
def _warn_once(method: str, kind: str) -> None:
    log.warning("calling %s() of %s, which is no base.MemoryModule", method, kind)


# What computes the same for [T, N, *] as for each [N, *]: functions and methods, and modules of torch.
POINTWISE = {"add", "clone", "contiguous", "detach", "div", "dropout", "float", "mul", "neg", "sub", "truediv"}
_TIME_KEEPING = set(nn.modules.activation.__all__) - {"MultiheadAttention", "PReLU", "Softmax2d"}
_TIME_KEEPING |= {"AlphaDropout", "Dropout", "Embedding", "Identity", "LayerNorm", "Linear", "RMSNorm"}
_TIME_KEEPING |= {"PixelShuffle", "PixelUnshuffle", *(f"{kind}Pad{n}d" for kind in ("Zero", "Constant") for n in "123")}


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
            function = getattr(node.target, "__name__", node.target)
            if node.op in ("call_function", "call_method") and function not in POINTWISE:
                raise ValueError(
                    f"{prefix}{node.name}: {function} would take T for the batch in step mode 'm'; use a "
                    "module such as nn.Flatten, or functional.multi_step_forward(x_seq, net)"
                )
    if type(net) is not nn.Sequential:
        return type(net).__module__.startswith("snn_mnist.core.")
    for name, module in net.named_children():
        kind = type(module)
        if kind is nn.Sequential or not kind.__module__.startswith("torch.nn."):
            if not _refuse_what_takes_time_for_batch(module, f"{prefix}{name}."):
                return False
        elif not keeps_time(module):
            raise ValueError(
                f"module {prefix + name!r}: nn.{kind.__name__} would take T for the batch in step mode 'm'; use "
                "the layer of that name in core.layer, or put it into layer.SeqToANNContainer"
            )
    return True


def set_step_mode(net: nn.Module, step_mode: str) -> None:
    """Set 's' or 'm' in every module with a step mode, but not in what a container of `layer` holds.

    ValueError when a module does not support it, or where a sequence would go to a module or function of torch that
    takes T for the batch, as far as nn.Sequential and a converted net show.
    """
    check_step_mode(step_mode)
    if step_mode == "m":
        _refuse_what_takes_time_for_batch(net)
    containers = [m for m in net.modules() if getattr(m, "keeps_step_mode_inside", False)]
    inside = {inner for container in containers for inner in container.modules() if inner is not container}
    _set_everywhere([item for item in net.named_modules() if item[1] not in inside], "step_mode", step_mode)


def set_backend(net: nn.Module, backend: str, instance: type | tuple[type, ...] | None = None) -> None:
    """Set the backend of every module that has one, or of those of type `instance` only.

    ValueError where a module does not support it in its step mode, RuntimeError where it is not available
    here; both name the module, the reason and the fix.
    """
    chosen = [item for item in net.named_modules() if isinstance(item[1], instance or nn.Module)]
    _set_everywhere(chosen, "backend", backend)


def _set_everywhere(modules: list[tuple[str, nn.Module]], attribute: str, value: str) -> None:
    """Set the attribute of all these modules that have it; where one refuses, name it."""
    for name, module in modules:
        if hasattr(module, attribute):
            try:
                setattr(module, attribute, value)
            except (ValueError, RuntimeError) as error:
                raise type(error)(f"module {name!r}: {error}" if name else str(error)) from error


def _apply(x: Any, modules: Modules) -> Any:
    """Apply modules in turn: the first takes the parts of a tuple as arguments, each other what the last returned."""
    in_order: Sequence[Any] = modules if isinstance(modules, list | tuple) else [modules]
    for i, module in enumerate(in_order):
        x = module(*x) if i == 0 and isinstance(x, tuple) else module(x)
    return x


def multi_step_forward(x_seq: Any, single_step_module: Modules) -> Any:
    """Run a single-step module (or list of them, in order) over x_seq [T, N, *] or a tuple of those, step by step."""
    return each_step(lambda x: _apply(x, single_step_module), x_seq)


def seq_to_ann_forward(x_seq: Any, stateless_module: Modules) -> Any:
    """Run a stateless module (or list of them) once over x_seq [T, N, *], or a tuple of those, as a batch [T N, *]."""
    time_and_batch = check_sequence(x_seq, dimensions=2).shape[:2]
    y = _apply(map_tensors(lambda x: x.flatten(0, 1), x_seq), stateless_module)
    return map_tensors(lambda part: part.unflatten(0, time_and_batch), y)


def chunk_multi_step_forward(split_size: int, x_seq: Tensor, multi_step_module: Callable[[Tensor], Any]) -> Any:
    """Run a multi-step module over x_seq [T, N, *], `split_size` time steps at a time, to save memory in inference."""
    check_sequence(x_seq)
    return join([multi_step_module(chunk) for chunk in x_seq.split(split_size)], torch.cat)
