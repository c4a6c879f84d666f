"""Conversion of a trained ANN with ReLUs into an SNN of integrate-and-fire neurons.

An IF neuron with soft reset that gets the current x in each step fires at the rate clip(x, 0, 1), up to 1/T: a ReLU
that saturates at 1. So the largest activation s of each layer is measured on data, and

    ReLU(x)    becomes    s IF(x / s),    IF: v_threshold 1, v_reset None

The mean output of the SNN over T steps, sum(snn(x) for _ in range(T)) / T, then approaches the output of the ANN, with
an error of s / T a layer where no activation is above s. Diehl et al., "Fast-classifying, high-accuracy spiking deep
networks through weight and threshold balancing", IJCNN 2015 (the balance); Rueckauer et al., "Conversion of
continuous-valued deep networks to efficient event-driven networks for image classification", Frontiers in Neuroscience
11 (2017) (soft reset, percentile).
"""

import copy
import itertools
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from snn_mnist.core import layer, neuron
from snn_mnist.core.base import StepModule
from snn_mnist.core.functional import POINTWISE, keeps_time

# What an ANN may compute beside ReLUs. A name stands for module, function and method: conv for nn.Conv1d and F.conv2d.
LINEAR = POINTWISE | {
    "alphadropout", "avgpool", "adaptiveavgpool", "batchnorm", "cat", "channelshuffle", "chunk", "circularpad",
    "concat", "constantpad", "conv", "convtranspose", "dim", "expand", "featurealphadropout", "flatten", "flip", "fold",
    "getattr", "getitem", "identity", "interpolate", "linear", "matmul", "mean", "movedim", "narrow", "pad", "permute",
    "pixelshuffle", "pixelunshuffle", "reflectionpad", "repeat", "replicationpad", "reshape", "roll", "select", "size",
    "split", "squeeze", "stack", "sum", "transpose", "unflatten", "unfold", "unsqueeze", "upsample",
    "upsamplingbilinear", "upsamplingnearest", "view", "votinglayer", "zeropad",
}  # fmt: skip
PASSING = LINEAR | {"maxpool", "adaptivemaxpool"}
PRODUCTS = {"conv", "convtranspose", "linear", "matmul", "mul"}  # linear while only one factor depends on the input
OF_THE_FIRST = {"div", "getitem", "truediv"}  # linear in the first argument alone
SHAPES = {"device", "dtype", "ndim", "shape"}  # attributes of a tensor that do not depend on its values


class VoltageScaler(nn.Module):
    """scale x"""

    scale: Tensor

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Converter(nn.Module):
    """`Converter(dataloader)(ann)` is the ANN as an SNN, an fx.GraphModule in step mode 's'; the ANN stays as it is.

    dataloader: batches for the ANN, each a tensor or (images, …), such as the training images, on which s is measured.
    mode: 'Max', the largest activation of a batch; a percentile such as '99.9%', which outliers do not move; a number
    in (0, 1], this share of the largest. Over batches s = (1 - momentum) s + momentum s_batch, from the first on.
    device: of the SNN, by default the ANN's. fuse_flag: whether batch normalisation is fused.

    An ANN may consist of ReLUs, as modules or functions, and of what is linear or affine in its input: Linear,
    convolutions, average pooling, batch normalisation, sums, products with constants, changes of shape, and dropout,
    which evaluation leaves out. All else is a ValueError that names the node. Maximum pooling passes, but the maximum
    of spikes is not that of the rates; prefer the average. In step mode 'm' modules and sums work; a function such as
    torch.flatten is refused by name.
    """

    def __init__(
        self,
        dataloader: Iterable[Any],
        device: Any = None,
        mode: str | float = "Max",
        momentum: float = 0.1,
        fuse_flag: bool = True,
    ) -> None:
        super().__init__()
        self.share = share(mode)
        self.dataloader, self.device, self.mode = dataloader, device, mode
        self.momentum, self.fuse_flag = momentum, fuse_flag

    @torch.no_grad()
    def forward(self, ann: nn.Module) -> fx.GraphModule:
        device = self.device or next((p.device for p in ann.parameters()), torch.device("cpu"))
        batches = ((b[0] if isinstance(b, tuple | list) else b).to(device) for b in self.dataloader)
        if (first := next(batches, None)) is None:
            raise ValueError("the dataloader gave no batch; give some of the training images")
        _refuse_computed_weights(ann)
        ann = copy.deepcopy(ann).eval().to(device)
        net = fx.GraphModule(ann, _Tracer().trace(ann))
        relus = check_operations(net)
        _compare(ShapeProp(net).propagate(first), ann(first.clone()))
        if self.fuse_flag:
            fuse(net)
        calibration = _Calibration(net, relus, self)
        for images in itertools.chain([first], batches):
            calibration.run(images)
        _give_step_modes(net)
        for number, (node, scale) in enumerate(calibration.scales.items()):
            if not 0 < scale < math.inf:
                raise ValueError(
                    f"mode={self.mode!r} gives the activations of {node.name!r} the scale {scale:g}, which must be "
                    "above 0 and finite; give other data, or mode='Max'"
                )
            _replace_by_if_node(net, node, number, scale)
        net.delete_all_unused_submodules()
        net.recompile()
        return net.to(device)


def _refuse_computed_weights(ann: nn.Module) -> None:
    """ValueError where a hook or parametrisation computes a weight, with which no normalisation can be fused."""
    for name, module in ann.named_modules():
        if isinstance(getattr(module, "weight", None), Tensor) and "weight" not in module._parameters:
            raise ValueError(
                f"the weight of {name!r} is computed from other parameters; make it a parameter first, e.g. by "
                "torch.nn.utils.parametrize.remove_parametrizations or prune.remove"
            )


# ---- scales --------------------------------------------------------------------------------------------------


def share(mode: str | float) -> float:
    """Return 1 for 'Max', 0.999 for '99.9%' and a number itself; ValueError unless it is in (0, 1]."""
    try:
        text = str(mode).lower()
        found = 1.0 if text == "max" else float(text.removesuffix("%")) / (100 if "%" in text else 1)
    except ValueError:
        found = math.nan
    if not 0 < found <= 1:
        raise ValueError(
            f"mode={mode!r} is not supported; use 'Max', a percentage such as '99.9%', or a number in (0, 1]"
        )
    return found


class _Calibration(fx.Interpreter):
    """Runs the ANN on batches and keeps s of each ReLU, the moving average over the batches."""

    def __init__(self, net: fx.GraphModule, relus: list[fx.Node], settings: Converter) -> None:
        super().__init__(net)
        self.relus, self.share, self.momentum = set(relus), settings.share, settings.momentum
        self.percentile = str(settings.mode).endswith("%")
        self.scales: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        y = super().run_node(n)
        if n in self.relus:
            if self.percentile:
                scale = float(np.quantile(y.double().cpu().numpy(), self.share))
            else:
                scale = y.max().item() * self.share
            before = self.scales.get(n, scale)
            self.scales[n] = (1 - self.momentum) * before + self.momentum * scale
        return y


# ---- the graph -----------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Layers of `core` are leaves of the graph, as PyTorch's own are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, StepModule) or super().is_leaf_module(m, module_qualified_name)


def check_operations(net: fx.GraphModule) -> list[fx.Node]:
    """Return the ReLUs in order, each now torch.relu; ValueError for other operations, or where there is no ReLU."""
    relus, varying = [], set()  # varying: nodes whose values depend on the input
    for node in net.graph.nodes:
        arguments: list[fx.Node] = []
        fx.map_arg((node.args, node.kwargs), arguments.append)  # with repetitions, unlike all_input_nodes
        dependent = [argument for argument in arguments if argument in varying]
        name = _operation(net, node)
        if node.op == "placeholder":
            varying.add(node)
        elif name == "relu" and dependent:
            before = node.all_input_nodes[0]
            node.op, node.target, node.args, node.kwargs = "call_function", torch.relu, (before,), {}
            relus.append(node)
            varying.add(node)
        elif dependent and node.op != "output":
            if not _is_linear(net, node, name, dependent):
                raise ValueError(
                    f"{node.name!r} is neither linear nor a ReLU ({name}), so no IF neuron can replace it; "
                    "use nn.ReLU and layers that are linear in evaluation"
                )
            if not (name in ("size", "dim") or (name == "getattr" and node.args[1] in SHAPES)):
                varying.add(node)
    if not relus:
        raise ValueError("the network has no ReLU, so there is nothing to convert")
    return relus


def _operation(net: fx.GraphModule, node: fx.Node) -> str:
    """Return 'relu' of nn.ReLU(), F.relu(x), torch.relu_(x) and x.relu(); 'avgpool' of F.avg_pool2d(x, 2); …"""
    target: Any = node.target
    known = True
    if node.op == "call_module":
        kind = type(net.get_submodule(target))
        target, known = kind.__name__, kind.__module__.startswith(("torch.nn.", "snn_mnist.core."))
    elif node.op == "call_function":
        known = (target.__module__ or "torch").split(".")[0] in ("torch", "_operator", "builtins")
        target = target.__name__
    plain = re.sub("[123]d$", "", str(target).lower().rstrip("_").replace("_", ""))
    in_place = str(target).endswith("_") and plain != "relu"
    return plain if known and not in_place else f"{target}, unknown" if not known else f"{target}, in place"


def _is_linear(net: fx.GraphModule, node: fx.Node, name: str, dependent: list[fx.Node]) -> bool:
    """Return whether the node is linear (or maximum pooling) in the nodes that depend on the input."""
    if name not in PASSING:
        return False
    if name in PRODUCTS and len(dependent) > 1:
        return False
    if name in OF_THE_FIRST and dependent != [node.args[0]]:
        return False
    if node.op == "call_module":
        return name != "batchnorm" or net.get_submodule(str(node.target)).running_mean is not None
    if name == "getattr":
        return node.args[1] in SHAPES | {"T", "mT"}
    if name == "dropout":
        return not node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True)
    return name != "batchnorm"  # as a function it has no module whose statistics are fixed


def _compare(traced: Any, expected: Any) -> None:
    """ValueError where the graph computes something else than the network did on the first batch."""
    try:
        torch.testing.assert_close(traced, expected, rtol=1e-3, atol=1e-5, equal_nan=True)
    except AssertionError as error:
        raise ValueError(
            "the traced network gives another output than the network itself; write its forward without branches that "
            "depend on the data and without operations in place on a tensor, or a view of it, that is used again"
        ) from error


def fuse(net: fx.GraphModule) -> None:
    """Fuse batch normalisation into the linear layer or convolution before it, where nothing else uses their output."""
    calls = [node.target for node in net.graph.nodes if node.op == "call_module"]
    for node in list(net.graph.nodes):
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        linear, norm = net.get_submodule(str(before.target)), net.get_submodule(str(node.target))
        if (
            isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
            and isinstance(linear, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
            and len(before.users) == calls.count(before.target) == 1
            # the channels of Linear are the last dimension, those of the norm the first
            and (len(before.meta["tensor_meta"].shape) == 2 or not isinstance(linear, nn.Linear))
        ):
            fused: Any = fuse_linear_bn_eval if isinstance(linear, nn.Linear) else fuse_conv_bn_eval
            net.set_submodule(str(before.target), fused(linear, norm))
            node.replace_all_uses_with(before)
            net.graph.erase_node(node)


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
    """PyTorch's layers become those of `core.layer`, of which they differ by the step mode only; those that `layer`
    lacks and that would take T for the batch are put into a container."""
    for target in {str(node.target) for node in net.graph.nodes if node.op == "call_module"}:
        module = net.get_submodule(target)
        stepped = getattr(layer, type(module).__name__, None)
        if isinstance(module, StepModule):
            continue
        if stepped and issubclass(stepped, type(module)):
            module.__class__ = stepped
        elif not keeps_time(module):
            net.set_submodule(target, layer.StepModeContainer(False, module))
