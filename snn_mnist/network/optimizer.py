"""Adam and SGD of one weight as records: settings and state in the form of torch.optim, without importing it.

The arithmetic is in kernels/cpu/optimizer.py. `state_dict` and `load_state_dict` exchange with torch.optim's classes
of the same names; importing torch.optim would take 1.8 s, for it imports torch._dynamo.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor


class FusedOptimizer:
    """One parameter group of one parameter, `param_groups` and `state` as in torch.optim.Optimizer."""

    defaults: ClassVar[dict[str, Any]]

    def __init__(self, weight: Tensor, **settings: Any) -> None:
        self.weight = weight
        self.param_groups: list[dict[str, Any]] = [{"params": [weight], **self.defaults, **settings}]
        self.state: dict[Tensor, dict[str, Tensor]] = {weight: {}}

    def state_dict(self) -> dict[str, Any]:
        """{'state': {0: {…}}, 'param_groups': [{…, 'params': [0]}]}; tensors are shared, as torch's are."""
        (group,) = self.param_groups
        state = self.state[self.weight]
        settings = {name: value for name, value in group.items() if name != "params"}
        return {"state": {0: dict(state)} if state else {}, "param_groups": [{**settings, "params": [0]}]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Takes over settings and state, copied; a setting that the saved form lacks keeps its value."""
        (group,) = saved["param_groups"]
        if len(group["params"]) != 1:
            raise ValueError(f"the optimizer state is of {len(group['params'])} parameters instead of one")
        settings = {name: value for name, value in group.items() if name != "params"}
        self.param_groups[0].update(settings)
        state = saved["state"].get(group["params"][0], {})
        self.state[self.weight] = {
            name: _copied(name, value, self.weight) for name, value in state.items() if value is not None
        }


def _copied(name: str, value: Any, weight: Tensor) -> Tensor:
    if name == "step":
        return torch.as_tensor(value, dtype=torch.float32).clone()
    return value.detach().to(weight.dtype).clone(memory_format=torch.contiguous_format)


class FusedAdam(FusedOptimizer):
    """torch.optim.Adam([weight], lr, fused=True)."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False,
        "foreach": None, "capturable": False, "differentiable": False, "fused": True, "decoupled_weight_decay": False,
    }  # fmt: skip


class FusedSGD(FusedOptimizer):
    """torch.optim.SGD([weight], lr, momentum, fused=True)."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False,
        "foreach": None, "differentiable": False, "fused": True,
    }  # fmt: skip
