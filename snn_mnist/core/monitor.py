"""Monitors: record what passes through chosen layers of a net, in call order.

`records` has all of them, `monitor[0]` is the first, `monitor['1']` the list of those of the layer named '1'.
`instance` is a type or a tuple of types; None means the net's own type. A function given to a monitor is applied
to each record before it is kept, e.g. to store a norm instead of a tensor. Records keep their autograd graph: run
under torch.no_grad(), or pass `function=lambda y: y.detach()`, to save memory. What may be overwritten later is copied:
all of a net with layers that work in place, else parameters and tensors without a graph.
A monitor belongs to the net in memory: copies and saved files of the net are without it.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from snn_mnist.core.base import map_tensors


def identity(data: Any) -> Any:
    return data


def _only(data: Any) -> Any:
    """Return the single element of a tuple of one."""
    return data[0] if isinstance(data, tuple) and len(data) == 1 else data


class Hook:
    """A hook that copy.deepcopy and pickle replace by one that does nothing."""

    def __init__(self, call: Callable[..., Any] = lambda *_: None):
        self._call = call

    def __call__(self, *args: Any) -> None:
        self._call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, ()


class BaseMonitor:
    """A list of records and the hooks that fill it; `record_of` is given what a registered hook is called with."""

    def __init__(
        self,
        net: nn.Module,
        instance: type | tuple[type, ...] | None,
        function: Callable[[Any], Any],
        register: Callable[[nn.Module, Hook], RemovableHandle],
        record_of: Callable[..., Any],
    ):
        self.records: list[Any] = []
        self.name_records_index: dict[str, list[int]] = {}  # layer name -> places of its records
        self._function = function
        self._enabled = True
        self._handles: list[RemovableHandle] = []
        self._in_place = any(getattr(module, "inplace", False) for module in net.modules())
        watched: Any = type(net) if instance is None else instance
        for name, module in net.named_modules():
            if isinstance(module, watched):
                self.name_records_index[name] = []
                hook = Hook(lambda *given, name=name: self._record(name, record_of(*given)))
                self._handles.append(register(module, hook))

    def _record(self, name: str, data: Any) -> None:
        if self._enabled:
            self.name_records_index[name].append(len(self.records))
            self.records.append(self._function(map_tensors(self._lasting, data)))

    def _lasting(self, tensor: Tensor) -> Tensor:
        """Return the tensor, or a copy of one that an optimiser, the next batch or a layer in place may overwrite."""
        overwritten = self._in_place or isinstance(tensor, nn.Parameter) or not tensor.requires_grad
        return tensor.clone() if overwritten else tensor

    @property
    def monitored_layers(self) -> list[str]:
        """Names of the layers, as in net.named_modules()."""
        return list(self.name_records_index)

    def __getitem__(self, key: int | slice | str) -> Any:
        """Return a record by number, or the list of a layer's records by name."""
        if not isinstance(key, str):
            return self.records[key]
        return [self.records[i] for i in self.name_records_index[key]]

    def __len__(self) -> int:
        return len(self.records)

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        """Pause recording; the records stay."""
        self._enabled = False

    def clear_recorded_data(self) -> None:
        self.records.clear()
        for places in self.name_records_index.values():
            places.clear()

    def remove_hooks(self) -> None:
        """Detach the monitor from the net for good; the records stay."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> "BaseMonitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove_hooks()


class OutputMonitor(BaseMonitor):
    """Records each layer's output y = layer(x)."""

    def __init__(self, net: nn.Module, instance: Any = None, function_on_output: Callable = identity):
        super().__init__(net, instance, function_on_output, nn.Module.register_forward_hook, lambda m, x, y: y)


class InputMonitor(BaseMonitor):
    """Records each layer's input; a tuple where it has several."""

    def __init__(self, net: nn.Module, instance: Any = None, function_on_input: Callable = identity):
        register = nn.Module.register_forward_pre_hook
        super().__init__(net, instance, function_on_input, register, lambda m, x: _only(x))


class AttributeMonitor(BaseMonitor):
    """Records an attribute of each layer, e.g. 'v', before (`pre_forward`) or after each forward pass."""

    def __init__(
        self,
        attribute_name: str,
        pre_forward: bool,
        net: nn.Module,
        instance: Any = None,
        function_on_attribute: Callable = identity,
    ):
        register: Any = nn.Module.register_forward_pre_hook if pre_forward else nn.Module.register_forward_hook
        super().__init__(net, instance, function_on_attribute, register, lambda m, *_: getattr(m, attribute_name))


class GradInputMonitor(BaseMonitor):
    """Records dL/d(input) of each layer, last layer first; None where the input needs no gradient."""

    def __init__(self, net: nn.Module, instance: Any = None, function_on_grad_input: Callable = identity):
        register = nn.Module.register_full_backward_hook
        super().__init__(net, instance, function_on_grad_input, register, lambda m, grad_in, grad_out: _only(grad_in))


class GradOutputMonitor(BaseMonitor):
    """Records dL/d(output) of each layer, last layer first."""

    def __init__(self, net: nn.Module, instance: Any = None, function_on_grad_output: Callable = identity):
        register = nn.Module.register_full_backward_hook
        super().__init__(net, instance, function_on_grad_output, register, lambda m, grad_in, grad_out: _only(grad_out))
