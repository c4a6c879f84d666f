"""Step modes and memories: what every module of the spiking core shares.

One step is `[N, *]` (step mode 's'), a sequence is `[T, N, *]` (step mode 'm').
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MemoryModule", "StepModule", "check_step_mode"]

HALF_PRECISION = (torch.float16, torch.bfloat16)


def check_step_mode(step_mode: str, supported: tuple[str, ...] = ("s", "m"), who: str = "a module") -> str:
    """`step_mode` itself, or ValueError where `who` has no such step mode."""
    if step_mode not in supported:
        raise ValueError(
            f"step_mode {step_mode!r} is not supported by {who}; use {' or '.join(map(repr, supported))} "
            "('s': one step [N, *], 'm': a sequence [T, N, *])"
        )
    return step_mode


class StepModule:
    """Anything with a `step_mode`: 's' (one step at a time) or 'm' (a whole sequence)."""

    _step_mode = "s"
    keeps_step_mode_inside = False  # containers: set_step_mode leaves what they hold alone

    def supported_step_mode(self) -> tuple[str, ...]:
        return ("s", "m")

    @property
    def step_mode(self) -> str:
        return self._step_mode

    @step_mode.setter
    def step_mode(self, value: str) -> None:
        self._step_mode = check_step_mode(value, self.supported_step_mode(), type(self).__name__)


class MemoryModule(nn.Module, StepModule):
    """A module with state between steps, e.g. a neuron's `v`.

    A subclass calls `register_memory` in its constructor and defines `single_step_forward`. Memories read
    and write as attributes, follow `.to()`, go back to their registered value in `reset()`, and stay out of
    `state_dict`: they belong to one sample, not to the model.
    """

    forward_changes_memories = True  # False: a second forward pass on the same input finds the same memories

    def __init__(self) -> None:
        super().__init__()
        self._memories: dict[str, Any] = {}
        self._initial_memories: dict[str, Any] = {}
        self._advanced_in: int | None = None  # backward pass (-1: none) of the last forward; None: freshly set

    def register_memory(self, name: str, value: Any) -> None:
        """Adds a memory; `value` (a number, a tensor, None, …) is what `reset()` restores."""
        if hasattr(self, name):
            raise ValueError(f"{type(self).__name__} already has {name!r}; choose another memory name")
        self._memories[name] = copy.deepcopy(value)
        self.set_reset_value(name, value)

    def set_reset_value(self, name: str, value: Any) -> None:
        """Changes what `reset()` restores."""
        self._initial_memories[name] = copy.deepcopy(value)

    def reset(self) -> None:
        """Sets every memory back to its registered value."""
        self._advanced_in = None
        for name, value in self._initial_memories.items():
            self._memories[name] = copy.deepcopy(value)

    def detach(self) -> None:
        """Cuts every memory from the autograd graph, keeping its value (truncated back-propagation)."""
        for name, value in self._memories.items():
            self._memories[name] = map_tensors(Tensor.detach, value)

    def named_memories(self) -> Iterator[tuple[str, Any]]:
        yield from self._memories.items()

    def memories(self) -> Iterator[Any]:
        yield from self._memories.values()

    def single_step_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x  # [N, *], one time step"""
        raise NotImplementedError(f"{type(self).__name__} must define single_step_forward(x)")

    def multi_step_forward(self, x_seq: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x_seq  # [T, N, *]; the single step, T times"""
        check_sequence(x_seq)
        return stack_steps([self.single_step_forward(x, *args, **kwargs) for x in steps_of(x_seq)])

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self._refuse_recomputation()
        step = self.single_step_forward if self.step_mode == "s" else self.multi_step_forward
        y = step(*args, **kwargs)
        self._advanced_in = backward_pass()
        return y

    def _refuse_recomputation(self) -> None:
        """RuntimeError when activation checkpointing repeats a forward pass from the memories that it left."""
        now = backward_pass()
        if now >= 0 and self._advanced_in not in (None, now) and self.forward_changes_memories:
            raise RuntimeError(
                f"the forward pass of {type(self).__name__} runs again inside the backward pass (activation "
                "checkpointing), but its memories have already advanced, so the gradient would be wrong; call "
                "functional.reset_net at the start of the checkpointed function, or set the memories there"
            )

    def _start_memory(self, name: str, like: Tensor, dtype: torch.dtype) -> None:
        """Gives a memory the shape of `like` at the first step; RuntimeError where the shape changes later."""
        value = self._memories[name]
        if not isinstance(value, Tensor):
            self._memories[name] = torch.full_like(like, value or 0.0, dtype=dtype, requires_grad=False)
        elif value.shape != like.shape:
            if self._advanced_in is not None:
                raise RuntimeError(
                    f"the input of {type(self).__name__} changed from shape {list(value.shape)} to "
                    f"{list(like.shape)} while {name} is kept; call functional.reset_net(net) before a new batch"
                )
            if not _fits(value.shape, like.shape):
                raise RuntimeError(
                    f"{name} of {type(self).__name__} starts with shape {list(value.shape)}, which does not fit "
                    f"one step of shape {list(like.shape)}; give it the shape of the features"
                )
            self._memories[name] = value.to(like.device, dtype).expand(like.shape)
        elif value.dtype in HALF_PRECISION and dtype not in HALF_PRECISION:
            self._memories[name] = value.to(dtype)

    def extra_repr(self) -> str:
        return f"step_mode={self.step_mode!r}"

    def __getattr__(self, name: str) -> Any:
        memories = self.__dict__.get("_memories")
        if memories is not None and name in memories:
            return memories[name]
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        memories = self.__dict__.get("_memories")
        if memories is not None and name in memories:
            memories[name] = value
            self.__dict__["_advanced_in"] = None
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._memories:
            del self._memories[name], self._initial_memories[name]
        else:
            super().__delattr__(name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._memories]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # what .to(), .cuda(), .double(), … call
        for memories in (self._memories, self._initial_memories):
            for name, value in memories.items():
                memories[name] = map_tensors(fn, value)
        return super()._apply(fn, recurse)

    def _replicate_for_data_parallel(self) -> Any:  # each replica of nn.DataParallel has memories of its own
        replica = super()._replicate_for_data_parallel()  # type: ignore[misc]
        replica._memories = self._memories.copy()
        replica._initial_memories = self._initial_memories.copy()
        return replica

    def __getstate__(self) -> dict[str, Any]:  # for copy.deepcopy and pickle, which refuse tensors of a graph
        state = self.__dict__.copy()
        state["_memories"] = {name: map_tensors(Tensor.detach, value) for name, value in self.named_memories()}
        return state


def backward_pass() -> int:
    """A number of the backward pass that is running, -1 outside of one."""
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


def _fits(shape: torch.Size, target: torch.Size) -> bool:
    """Whether a tensor of this shape expands to the target."""
    missing = len(target) - len(shape)
    return missing >= 0 and all(a in (1, b) for a, b in zip(shape, target[missing:], strict=True))


def floating(x: Tensor, who: str) -> Tensor:
    """x as real floating-point numbers, in float32 under autocast; TypeError for complex numbers."""
    if x.is_complex():
        raise TypeError(f"{who} takes real numbers, but got {x.dtype}; use e.g. x.real or x.abs()")
    if not x.is_floating_point():
        return x.to(torch.get_default_dtype())
    if x.dtype in HALF_PRECISION and torch.is_autocast_enabled(x.device.type):
        return x.float()
    return x


def state_dtype(x: Tensor) -> torch.dtype:
    """The type of a state that sums up x: half precision would round small inputs away."""
    return torch.float32 if x.dtype in HALF_PRECISION else x.dtype


# ---- sequences: a tensor [T, N, *], or a tuple of them where a module has several inputs or outputs ----


def map_tensors(function: Callable[[Tensor], Tensor], data: Any) -> Any:
    """`function` of a tensor, or of each tensor in a (nested) tuple or list."""
    if isinstance(data, Tensor):
        return function(data)
    if isinstance(data, (tuple, list)):
        parts = [map_tensors(function, part) for part in data]
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    return data


def first_tensor(data: Any) -> Tensor:
    while isinstance(data, (tuple, list)) and data:
        data = data[0]
    if not isinstance(data, Tensor):
        raise TypeError(f"a sequence must be a tensor [T, N, *] or a tuple of tensors, not {type(data).__name__}")
    return data


def steps_of(x_seq: Any) -> Iterator[Any]:
    """The time steps [N, *] of a sequence, in order."""
    if isinstance(x_seq, Tensor):
        yield from x_seq
    else:
        for t in range(len(first_tensor(x_seq))):
            yield map_tensors(lambda part: part[t], x_seq)  # noqa: B023


def stack_steps(outputs: list[Any]) -> Any:
    """The outputs of the steps as a sequence."""
    return join(outputs, torch.stack)


def join(outputs: list[Any], how: Callable[[list[Tensor]], Tensor]) -> Any:
    """torch.stack or torch.cat of tensors, or of each place of a tuple."""
    first = outputs[0]
    if isinstance(first, (tuple, list)):
        parts = [join(list(place), how) for place in zip(*outputs, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return how(outputs) if isinstance(first, Tensor) else first


def check_sequence(x_seq: Any) -> None:
    """RuntimeError unless there is at least one time step."""
    x_seq = first_tensor(x_seq)
    if x_seq.dim() == 0 or x_seq.shape[0] == 0:
        raise RuntimeError(
            f"step mode m needs a sequence [T, N, *] with T >= 1, but got shape {list(x_seq.shape)}; "
            "stack the time steps in dimension 0, or use step mode 's'"
        )
