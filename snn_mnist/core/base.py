"""Step modes, memories and settings: what every module of the spiking core shares.

One step is `[N, *]` (step mode 's'), a sequence is `[T, N, *]` (step mode 'm').
"""

import copy
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

HALF_PRECISION = (torch.float16, torch.bfloat16)


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

    def extra_repr(self) -> str:
        return f"step_mode={self.step_mode!r}"


class MemoryModule(StepModule, nn.Module):
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
        """Add a memory; `value` (a number, a tensor, None, …) is what `reset()` restores."""
        if hasattr(self, name):
            raise ValueError(f"{type(self).__name__} already has {name!r}; choose another memory name")
        self._memories[name] = copy.deepcopy(value)
        self.set_reset_value(name, value)

    def set_reset_value(self, name: str, value: Any) -> None:
        """Change what `reset()` restores."""
        self._initial_memories[name] = copy.deepcopy(value)

    def reset(self) -> None:
        """Set every memory back to its registered value."""
        self._advanced_in = None
        self._memories = copy.deepcopy(self._initial_memories)

    def detach(self) -> None:
        """Cut every memory from the autograd graph, keeping its value (truncated back-propagation)."""
        self._memories = self._detached()

    def _detached(self) -> dict[str, Any]:
        return {name: map_tensors(Tensor.detach, value) for name, value in self._memories.items()}

    def named_memories(self) -> Iterator[tuple[str, Any]]:
        yield from self._memories.items()

    def single_step_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute one time step x [N, *]."""
        raise NotImplementedError(f"{type(self).__name__} must define single_step_forward(x)")

    def multi_step_forward(self, x_seq: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the single step T times, of x_seq [T, N, *]."""
        return each_step(lambda x: self.single_step_forward(x, *args, **kwargs), x_seq)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        # a number of the running backward pass, -1 outside of one
        now = -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()
        if now >= 0 and self._advanced_in not in (None, now) and self.forward_changes_memories:
            raise RuntimeError(
                f"the forward pass of {type(self).__name__} runs again inside the backward pass (activation "
                "checkpointing), but its memories have already advanced, so the gradient would be wrong; call "
                "functional.reset_net at the start of the checkpointed function, or set the memories there"
            )
        try:
            return (self.single_step_forward if self.step_mode == "s" else self.multi_step_forward)(*args, **kwargs)
        finally:  # after an exception in mid-sequence too
            self._advanced_in = now

    def _start_memory(self, name: str, like: Tensor, dtype: torch.dtype) -> None:
        """Give a memory the shape of `like` at the first step; RuntimeError where the shape changes later."""
        value = self._memories[name]
        if not isinstance(value, Tensor):
            self._memories[name] = torch.full_like(like, value or 0.0, dtype=dtype, requires_grad=False)
        elif value.shape != like.shape:
            if self._advanced_in is not None:
                self._refuse_shape(name, value.shape, like.shape)
            self._memories[name] = value.to(like.device, dtype).expand(like.shape)
        elif value.dtype in HALF_PRECISION and dtype not in HALF_PRECISION:
            self._memories[name] = value.to(dtype)

    def _refuse_shape(self, name: str, kept: torch.Size, given: torch.Size) -> None:
        """RuntimeError where the input's shape is no longer that of the memory."""
        if given != kept:
            raise RuntimeError(
                f"the input of {type(self).__name__} changed from shape {list(kept)} to {list(given)} while {name} "
                "is kept; call functional.reset_net(net) before a new batch"
            )

    def __getattr__(self, name: str) -> Any:
        memories = self.__dict__.get("_memories", {})
        return memories[name] if name in memories else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        memories = self.__dict__.get("_memories", {})
        if name in memories:
            memories[name] = value
            self.__dict__["_advanced_in"] = None
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # what .to(), .cuda(), .double(), … call
        for memories in (self._memories, self._initial_memories):
            for name, value in memories.items():
                memories[name] = map_tensors(fn, value)
        return super()._apply(fn, recurse)

    def _replicate_for_data_parallel(self) -> Any:  # each replica of nn.DataParallel has memories of its own
        replica = super()._replicate_for_data_parallel()  # type: ignore[misc]
        replica._memories = self._memories.copy()
        return replica

    def __getstate__(self) -> dict[str, Any]:  # for copy.deepcopy and pickle, which refuse tensors of a graph
        return self.__dict__ | {"_memories": self._detached()}


def floating(x: Tensor, who: str) -> Tensor:
    """Return x as real floating-point numbers, in float32 under autocast; TypeError for complex numbers."""
    if x.is_complex():
        raise TypeError(f"{who} takes real numbers, but got {x.dtype}; use e.g. x.real or x.abs()")
    if not x.is_floating_point():
        return x.to(torch.get_default_dtype())
    if x.dtype in HALF_PRECISION and torch.is_autocast_enabled(x.device.type):
        return x.float()
    return x


def state_dtype(x: Tensor) -> torch.dtype:
    """Return the type of a state that sums up x: half precision would round small inputs away."""
    return torch.float32 if x.dtype in HALF_PRECISION else x.dtype


# ---- settings ----------------------------------------------------------------------------------------------


def check_step_mode(step_mode: str, supported: tuple[str, ...] = ("s", "m"), who: str = "a module") -> str:
    """Return the step mode; ValueError where `who` has no such step mode."""
    if step_mode not in supported:
        raise ValueError(
            f"step_mode {step_mode!r} is not supported by {who}; use {' or '.join(map(repr, supported))} "
            "('s': one step [N, *], 'm': a sequence [T, N, *])"
        )
    return step_mode


def real_number(name: str, value: Any, hint: str, above: float = -math.inf) -> Any:
    """Return a setting as a float, or as the tensor that it is where it is learned (an nn.Parameter).

    ValueError unless it is finite and exceeds `above`; NumPy's numbers and 0-d tensors count.
    """
    number = value
    if isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and value.requires_grad):
        fits = bool(((value > above) & (value < math.inf)).all())
    else:
        number = value.item() if getattr(value, "ndim", None) == 0 else value
        fits = isinstance(number, int | float) and not isinstance(number, bool) and above < number < math.inf
    if not fits:
        limit = "" if above == -math.inf else f" above {above:g}"
        raise ValueError(f"{name}={value!r} must be a finite number{limit}; {hint}")
    return number if isinstance(number, Tensor) else float(number)


# ---- sequences: a tensor [T, N, *], or a tuple of them where a module has several inputs or outputs ----


def map_tensors(function: Callable[[Tensor], Tensor], data: Any) -> Any:
    """Return `function` of a tensor, or of each tensor in a (nested) tuple or list."""
    if isinstance(data, Tensor):
        return function(data)
    if isinstance(data, tuple | list):
        kind = getattr(data, "_make", type(data))  # _make: of a named tuple
        return kind([map_tensors(function, part) for part in data])
    return data


def join(outputs: list[Any], how: Callable[[list[Tensor]], Tensor]) -> Any:
    """Return torch.stack or torch.cat of tensors, or of each place of a tuple."""
    first = outputs[0]
    if isinstance(first, tuple | list):
        return getattr(first, "_make", type(first))([join(list(place), how) for place in zip(*outputs, strict=True)])
    return how(outputs) if isinstance(first, Tensor) else first


def check_sequence(x_seq: Any, dimensions: int = 1) -> Tensor:
    """Return the tensor or the first of a tuple; RuntimeError unless it has a time step and so many dimensions."""
    first = x_seq
    while isinstance(first, tuple | list) and first:
        first = first[0]
    if first.dim() < dimensions or first.shape[0] == 0:
        raise RuntimeError(
            f"step mode m needs a sequence [T, N, *] with T >= 1, but got shape {list(first.shape)}; "
            "stack the time steps in dimension 0, or use step mode 's'"
        )
    return first


def each_step(step: Callable[[Any], Any], x_seq: Any) -> Any:
    """Return the outputs of `step` for the time steps [N, *] of a sequence, in order, as a sequence."""
    T = len(check_sequence(x_seq))  # a tensor is unbound, so that its backward pass stacks the gradients once
    steps = x_seq if isinstance(x_seq, Tensor) else (map_tensors(operator.itemgetter(t), x_seq) for t in range(T))
    return join([step(x) for x in steps], torch.stack)
