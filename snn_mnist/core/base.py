"""Step modes and memories: what every module of the spiking core shares.

One step is `[N, *]` (step mode 's'), a sequence is `[T, N, *]` (step mode 'm').
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MemoryModule", "StepModule", "check_step_mode"]


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

    def __init__(self) -> None:
        super().__init__()
        self._memories: dict[str, Any] = {}
        self._initial_memories: dict[str, Any] = {}

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
        for name, value in self._initial_memories.items():
            self._memories[name] = copy.deepcopy(value)

    def detach(self) -> None:
        """Cuts every memory from the autograd graph, keeping its value (truncated back-propagation)."""
        for name, value in self._memories.items():
            if isinstance(value, Tensor):
                self._memories[name] = value.detach()

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
        return torch.stack([self.single_step_forward(x, *args, **kwargs) for x in x_seq])

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.step_mode == "s":
            return self.single_step_forward(*args, **kwargs)
        return self.multi_step_forward(*args, **kwargs)

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
                if isinstance(value, Tensor):
                    memories[name] = fn(value)
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:  # for copy.deepcopy and pickle, which refuse tensors of a graph
        state = self.__dict__.copy()
        state["_memories"] = {n: v.detach() if isinstance(v, Tensor) else v for n, v in self.named_memories()}
        return state


def check_sequence(x_seq: Tensor) -> None:
    """RuntimeError unless there is at least one time step."""
    if x_seq.dim() == 0 or x_seq.shape[0] == 0:
        raise RuntimeError(
            f"step mode m needs a sequence [T, N, *] with T >= 1, but got shape {list(x_seq.shape)}; "
            "stack the time steps in dimension 0, or use step mode 's'"
        )
