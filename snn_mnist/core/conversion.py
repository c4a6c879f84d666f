"""Conversion of a trained ANN with ReLUs into an SNN of integrate-and-fire neurons.

An IF neuron with soft reset that gets the current x in each step fires at the rate clip(x, 0, 1), up to 1/T: a ReLU
that saturates at 1. So the largest activation s of each layer is measured on data, and

    ReLU(x)    becomes    s IF(x / s),    IF: v_threshold 1, v_reset None

The mean output of the SNN over T steps then approaches the output of the ANN, with an error of s / T a layer where no
activation is above s. Batch normalisation is fused into the layer before it.

    snn = Converter(dataloader, mode="99.9%")(ann)
    with torch.no_grad():
        output = sum(snn(x) for _ in range(T)) / T      # constant input current x; or an encoder's spikes
    functional.reset_net(snn)

In step mode 's' an SNN keeps nothing but the potentials, so its memory does not depend on T. Diehl et al., "Fast-
classifying, high-accuracy spiking deep networks through weight and threshold balancing", IJCNN 2015 (the balance);
Rueckauer et al., "Conversion of continuous-valued deep networks to efficient event-driven networks for image
classification", Frontiers in Neuroscience 11 (2017) (soft reset, percentile).
"""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from snn_mnist.core import layer, neuron
from snn_mnist.core.base import StepModule

FUSIONS: tuple[tuple[type[nn.Module], type[nn.Module], Any], ...] = (
    (nn.Linear, nn.BatchNorm1d, fuse_linear_bn_eval),
    (nn.Conv1d, nn.BatchNorm1d, fuse_conv_bn_eval),
    (nn.Conv2d, nn.BatchNorm2d, fuse_conv_bn_eval),
    (nn.Conv3d, nn.BatchNorm3d, fuse_conv_bn_eval),
)
OTHER_ACTIVATIONS = {name.lower() for name in nn.modules.activation.__all__} - {"relu"}


class VoltageScaler(nn.Module):
    """scale x"""

    scale: Tensor

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

    def extra_repr(self) -> str:
        return f"{self.scale.item():g}"


class Converter(nn.Module):
    """`Converter(dataloader)(ann)` is the ANN as an SNN, an fx.GraphModule in step mode 's'; the ANN stays as it is.

    dataloader: batches for the ANN, each a tensor or (images, …), such as the training images; every activation's s is
    measured on them. mode: 'Max', the largest activation of a batch; '99.9%' or another percentage, that percentile,
    which outliers do not move; a number in (0, 1], this share of the largest. Over batches s is the moving average
    s = (1 - momentum) s + momentum s_batch, from the first batch on. device: of the SNN, by default the ANN's.
    fuse_flag: whether batch normalisation is fused.

    Supported are Linear, convolutions, average pooling, batch normalisation and other linear layers; ReLU as a module
    or function. Another activation is a ValueError. Maximum pooling passes, but the maximum of spikes is not that of
    the rates; prefer the average. `functional.set_step_mode(snn, 'm')` works for a net made of modules only.
    """

    def __init__(
        self, dataloader: Iterable[Any], device: Any = None, mode: str | float = "Max", momentum: float = 0.1,
        fuse_flag: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        check_mode(mode)
        self.dataloader, self.device, self.mode = dataloader, device, mode
        self.momentum, self.fuse_flag = momentum, fuse_flag

    @torch.no_grad()
    def forward(self, ann: nn.Module) -> fx.GraphModule:
        device = self.device or next((p.device for p in ann.parameters()), torch.device("cpu"))
        net = trace(copy.deepcopy(ann).to(device).eval())
        if self.fuse_flag:
            fuse(net)
        relus = relu_nodes(net)
        calibration = _Calibration(net, relus, self.mode, self.momentum)
        for batch in self.dataloader:
            images = batch[0] if isinstance(batch, tuple | list) else batch
            calibration.run(images.to(device))
        for number, node in enumerate(relus):
            _replace_by_if_node(net, node, number, calibration.scale(node))
        _give_step_modes(net)
        net.delete_all_unused_submodules()
        net.graph.lint()
        net.recompile()
        return net.to(device)


# ---- scales --------------------------------------------------------------------------------------------------


def check_mode(mode: str | float) -> None:
    """ValueError unless it is 'Max', a percentage as '99.9%' or a number in (0, 1]."""
    try:
        if isinstance(mode, str):
            good = mode.lower() == "max" or (mode.endswith("%") and 0 < float(mode[:-1]) <= 100)
        else:
            good = not isinstance(mode, bool) and 0 < mode <= 1
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f"mode={mode!r} is not supported; use 'Max', a percentage such as '99.9%', or a number in (0, 1]"
        )


def activation_scale(x: Tensor, mode: str | float) -> float:
    """s of one batch of activations"""
    if isinstance(mode, str) and mode.endswith("%"):
        return float(np.percentile(x.double().cpu().numpy(), float(mode[:-1])))
    largest = x.max().item()
    return largest if isinstance(mode, str) else mode * largest


class _Calibration(fx.Interpreter):
    """Runs the ANN on batches and keeps s of each ReLU, the moving average over the batches."""

    def __init__(self, net: fx.GraphModule, relus: list[fx.Node], mode: str | float, momentum: float) -> None:
        super().__init__(net)
        self.relus, self.mode, self.momentum = set(relus), mode, momentum
        self.scales: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        y = super().run_node(n)
        if n in self.relus:
            scale = activation_scale(y, self.mode)
            before = self.scales.get(n, scale)
            self.scales[n] = (1 - self.momentum) * before + self.momentum * scale
        return y

    def scale(self, node: fx.Node) -> float:
        if node not in self.scales:
            raise ValueError("the dataloader gave no batch; give some of the training images")
        if not 0 < (scale := self.scales[node]) < float("inf"):
            raise ValueError(
                f"mode={self.mode!r} gives the activations of {node.name!r} the scale {scale:g}, which must be above 0 "
                "and finite; give other data, or mode='Max'"
            )
        return scale


# ---- the graph -----------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Layers of `core` are leaves of the graph, as PyTorch's own are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, StepModule) or super().is_leaf_module(m, module_qualified_name)


def trace(ann: nn.Module) -> fx.GraphModule:
    tracer = _Tracer()
    return fx.GraphModule(ann, tracer.trace(ann))


def relu_nodes(net: fx.GraphModule) -> list[fx.Node]:
    """The ReLUs in order; ValueError for another activation, or where there is none."""
    named = [(node, _operation(net, node)) for node in net.graph.nodes]
    if other := next((node for node, name in named if name in OTHER_ACTIVATIONS), None):
        raise ValueError(
            f"{other.name!r} is neither linear nor a ReLU, so no IF neuron stands for it; train with nn.ReLU"
        )
    if not (found := [node for node, name in named if name == "relu"]):
        raise ValueError("the network has no ReLU, so there is nothing to convert")
    return found


def _operation(net: fx.GraphModule, node: fx.Node) -> str:
    """'relu' of nn.ReLU(), F.relu(x), torch.relu_(x) and x.relu(); 'avgpool2d' of F.avg_pool2d(x, 2); …"""
    name: Any = ""
    if node.op == "call_module":
        name = type(net.get_submodule(str(node.target))).__name__
    elif node.op in ("call_function", "call_method"):
        name = getattr(node.target, "__name__", node.target)
    return str(name).lower().replace("_", "")


def fuse(net: fx.GraphModule) -> None:
    """Batch normalisation into the linear layer or convolution before it, where nothing else uses their output."""
    calls = [node.target for node in net.graph.nodes if node.op == "call_module"]
    for node in list(net.graph.nodes):
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        if len(before.users) > 1 or calls.count(before.target) > 1:
            continue
        linear, norm = net.get_submodule(str(before.target)), net.get_submodule(str(node.target))
        for linear_type, norm_type, fused in FUSIONS:
            if isinstance(linear, linear_type) and isinstance(norm, norm_type) and norm.running_mean is not None:
                _set_submodule(net, str(before.target), fused(linear, norm))
                node.replace_all_uses_with(before)
                net.graph.erase_node(node)
                break


def _set_submodule(net: nn.Module, target: str, module: nn.Module) -> None:
    parent, _, name = target.rpartition(".")
    setattr(net.get_submodule(parent), name, module)


def _replace_by_if_node(net: fx.GraphModule, relu: fx.Node, number: int, scale: float) -> None:
    """x -> s IF(x / s)"""
    chain = (VoltageScaler(1 / scale), neuron.IFNode(v_threshold=1.0, v_reset=None), VoltageScaler(scale))
    last, before = relu, relu.all_input_nodes[0]
    for place, module in enumerate(chain):
        target = f"snn tailor.{number}.{place}"  # SpikingJelly's name
        net.add_submodule(target, module)
        with net.graph.inserting_after(last):
            last = net.graph.call_module(target, (before,))
        before = last
    relu.replace_all_uses_with(last)
    net.graph.erase_node(relu)


def _give_step_modes(net: fx.GraphModule) -> None:
    """PyTorch's layers become those of `core.layer`, of which they differ by the step mode only."""
    for module in net.modules():
        kind = type(module)
        stepped = getattr(layer, kind.__name__, None)
        if kind.__module__.startswith("torch.nn.modules.") and stepped and issubclass(stepped, kind):
            module.__class__ = stepped


__all__ = ["Converter", "VoltageScaler"]
