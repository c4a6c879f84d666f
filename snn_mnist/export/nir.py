"""NIR, the neuromorphic intermediate representation (Pedersen et al. 2024), both ways.

NIR's neuron is an equation in seconds, ours a step:

    NIR LIF   tau dv/dt = (v_leak - v) + r I,  fires at v > v_threshold, then v = v_reset
    Euler     v += dt / tau ((v_leak - v) + r I)
    ours      V += (X - (V - V_reset)) / τ,    fires at V >= V_threshold, then V = V_reset

With v = V - V_reset, v_leak = v_reset = 0, r = 1 and tau = τ dt both give the same numbers. Importers that step by the
exponential, v += (1 - e^(-dt/tau)) (r I - v), need tau = -dt / ln(1 - 1/τ) instead (`-discretization exact`). IF is
dv/dt = r I, so r = 1/dt. NIR fires above its threshold, ours at or above: the next float32 below is written. NIR has no
soft reset. With decay_input=False V += X - (V - V_reset) / τ, so r = τ. Several neurons per class are followed by
another Affine, whose rows are the means over their neurons. A network of one's own is a chain of such layers.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from snn_mnist import __version__
from snn_mnist.core import layer, neuron
from snn_mnist.errors import SNNError, UsageError, reason
from snn_mnist.network.network import CLASSES, PIXELS, SNN, SavedNetwork
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint
from snn_mnist.storage.atomic_files import make_directory, write_file

DEFAULT_DT = 1e-4
ENCODERS = {
    "poisson": "Poisson: at every step pixel k of 0..255 fires with probability k/255",
    "constant": "constant current: the input is k/255 for pixel k of 0..255 at every step",
    "latency": "latency: pixel k of 1..255 fires once, at step round((T - 1) (1 - k/255)) from 0",
}
CHAINED = (nn.Sequential.forward, layer.MultiStepContainer.forward)  # run their modules one after another
KNOWN = (nn.Linear, layer.Linear, neuron.LIFNode, neuron.IFNode, neuron.ParametricLIFNode)
IDLE = (nn.Flatten, layer.Flatten, nn.Identity, nn.Dropout, layer.Dropout)  # change nothing in a trained network


def package() -> Any:
    """Return the module `nir`; SNNError with the install line if it can't be imported."""
    try:
        import nir
    except ImportError as error:
        remedy = "SNN_MNIST_EXTRAS=nir bash scripts/setup.sh, or pip install nir"
        raise SNNError(f"the package nir can't be imported ({error}); install it: {remedy}") from error
    return nir


# ---------------------------------------------------------------------------- export


def export_nir(
    saved: SavedNetwork, out: Path, dt: float = DEFAULT_DT, discretization: str = "euler", allow_lossy: bool = False
) -> str:
    """Write a NIR file; return one line about it. The arguments are those of `build`."""
    graph, buffer = build(saved, dt, discretization, allow_lossy), io.BytesIO()
    package().write(buffer, graph)
    make_directory(out.parent, "-out")
    write_file(out, buffer.getvalue(), "-out")
    nodes = [type(node).__name__ + (f"({len(node.r)})" if hasattr(node, "r") else "") for node in graph.nodes.values()]
    return f"{' → '.join(nodes)}, dt {dt:g} s, {discretization}"


def build(saved: SavedNetwork, dt: float = DEFAULT_DT, discretization: str = "euler", allow_lossy: bool = False) -> Any:
    """Return the network as a nir.NIRGraph. UsageError for what NIR can't express, unless allow_lossy."""
    nir, config, modules = package(), saved.config, layers(saved.net)
    if any(getattr(module, "v_reset", 0) is None for module in modules) and not allow_lossy:
        raise UsageError(
            "NIR has no soft reset (v_reset none): its neurons are reset to 0 instead of by the threshold; "
            "train with v_reset 0, or accept other spikes with -allow-lossy"
        )
    nodes: dict[str, Any] = {"input": nir.Input(input_type={"input": np.array([PIXELS])})}
    kinds = ["affine" if isinstance(module, nn.Linear) else "neurons" for module in modules]
    size = PIXELS
    for i, (kind, module) in enumerate(zip(kinds, modules, strict=True)):
        name = kind if kinds.count(kind) == 1 else f"{kind}{kinds[: i + 1].count(kind)}"
        size = getattr(module, "out_features", size)
        nodes[name] = _node(module, size, dt, discretization)
    metadata = {name: getattr(config, name) for name in ("T", "tau", "dataset", "seed", "encoding")}
    if not isinstance(saved.net, SNN):
        del metadata["tau"]  # its neurons have their own
    metadata |= {
        "program": f"snn_mnist {__version__}",
        "dt": dt,
        "discretization": discretization,
        "encoder": ENCODERS[config.encoding],
        "readout": "argmax over the neurons of the spike count in T steps; the lower neuron wins a tie",
        "epochs": saved.epochs,
    }
    if size > CLASSES:
        metadata["readout"] = "argmax over the classes of the sum of the output in T steps; the lower class wins a tie"
        nodes["vote"] = nir.Affine(weight=vote_weight(size // CLASSES), bias=np.zeros(CLASSES, np.float32))
    nodes["output"] = nir.Output(output_type={"output": np.array([CLASSES])})
    return nir.NIRGraph(nodes, [*itertools.pairwise(nodes)], metadata=metadata)


def layers(net: Any) -> list[Any]:
    """Return the Linear layers and neurons of a network in order, without its vote; UsageError for other modules."""

    def chain(name: str, module: Any) -> list[tuple[str, nn.Module]]:
        if type(module).forward not in CHAINED:
            return [] if type(module) in IDLE else [(name, module)]
        return [each for key, inner in module._modules.items() for each in chain(f"{name}.{key}".strip("."), inner)]

    found = chain("", net.layer if isinstance(net, SNN) else net.module)
    while found and type(found[-1][1]) is layer.VotingLayer:
        found.pop()
    modules = [module for _, module in found]
    takes = "NIR export takes chains of Linear, LIFNode, IFNode and ParametricLIFNode, and a VotingLayer at the end"
    for i, (name, module) in enumerate(found):
        what = f"module {name}" if name else "the network"
        if type(module) not in KNOWN:
            raise UsageError(f"{what} is a {type(module).__name__}: {takes}")
        if isinstance(module, neuron.BaseNode) and modules.index(module) < i:
            raise UsageError(f"{what} is used twice: NIR export needs other neurons at each place")
    if not modules or isinstance(modules[-1], nn.Linear):
        raise UsageError(f"the network does not end with neurons: {takes}")
    return modules


def parameters(linear: nn.Linear) -> tuple[np.ndarray, ...]:
    """Return the weights [N, M] and biases [N] of a layer in float32; zeros where it has no bias."""
    bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
    return tuple(each.detach().cpu().float().numpy() for each in (linear.weight, bias))


def _node(module: Any, size: int, dt: float, discretization: str) -> Any:
    """Return the node of a layer of `size` outputs; every parameter of neurons is a vector."""

    def vector(value: Any) -> np.ndarray:
        return np.full(size, torch.as_tensor(value, dtype=torch.float64).detach().cpu().numpy().ravel())

    nir = package()
    if isinstance(module, nn.Linear):
        return nir.Affine(*parameters(module))
    thresholds, resets = vector(module.v_threshold), vector(0.0 if module.v_reset is None else module.v_reset)
    levels = {"v_threshold": np.array([*map(firing_level, thresholds, resets)]), "v_reset": np.zeros(size)}
    if isinstance(module, neuron.IFNode):
        return nir.IF(r=np.ones(size) / dt, **levels)
    tau = vector(1.0 / module.w.double().sigmoid() if isinstance(module, neuron.ParametricLIFNode) else module.tau)
    seconds = np.array([nir_tau(each, dt, discretization) for each in tau])
    return nir.LIF(tau=seconds, r=np.ones(size) if module.decay_input else tau, v_leak=np.zeros(size), **levels)


def vote_weight(votes: int) -> np.ndarray:
    """Return the weights [10, 10 votes] of the mean over the neurons of each class."""
    return np.repeat(np.eye(CLASSES, dtype=np.float32) / votes, votes, axis=1)


def nir_tau(tau: float, dt: float, discretization: str) -> float:
    """Return the time constant in seconds with which one step of `dt` decays by 1 - 1/tau."""
    return tau * dt if discretization == "euler" else -dt / math.log1p(-1 / tau)


def gain_of(neurons: Any, dt: float, discretization: str) -> np.ndarray:
    """Return by how much a step of `dt` moves v [10]: LIF by this share of r I - v, IF by this multiple of I."""
    if not hasattr(neurons, "tau"):
        return np.asarray(neurons.r * dt)
    ratio = dt / neurons.tau
    return np.asarray(ratio if discretization == "euler" else -np.expm1(-ratio))


def firing_level(v_threshold: float, v_reset: float) -> float:
    """Return the float32 for which v > firing_level(…) exactly when v >= V_threshold - V_reset, for every float32 v."""
    exact = Fraction(float(np.float32(v_threshold))) - Fraction(float(np.float32(v_reset)))
    level = np.float32(float(exact))
    if Fraction(float(level)) < exact:
        level = np.nextafter(level, np.float32(np.inf))
    return float(np.nextafter(level, np.float32(-np.inf)))


# ---------------------------------------------------------------------------- reading and simulating


def read(path: Path) -> Any:
    """Return the graph of a file; SNNError names the file and what is wrong."""
    nir = package()
    if not path.is_file():
        raise UsageError(f"there is no file {path}; name a NIR file")
    try:
        return nir.read(str(path), type_check=False)  # `parts` checks the shapes; a parameter may be one number
    except Exception as error:  # h5py and nir raise almost anything for a damaged or foreign file
        what = f"{type(error).__name__}: {reason(error)}"
        raise SNNError(f"{path} can't be read as NIR ({what}); name a NIR file") from error


def in_order(graph: Any) -> dict[str, Any]:
    """Return the nodes by name, from the Input on along the edges."""
    nodes, following = getattr(graph, "nodes", {}), dict(getattr(graph, "edges", []))
    names = [name for name, node in nodes.items() if type(node).__name__ == "Input"][:1]
    while names and following.get(names[-1]) in nodes and len(names) < len(nodes):
        names.append(following[names[-1]])
    return {name: nodes[name] for name in names}


def parts(graph: Any, source: Any = "the graph") -> tuple[np.ndarray, np.ndarray, Any, int]:
    """Return weights [10 N, 784], bias [10 N], neurons and N of Input → [Flatten →] Affine|Linear → LIF|IF → Output.

    Before the output there may be an Affine or Linear that is the vote of N neurons per class.
    """
    nodes, edges = getattr(graph, "nodes", {}), getattr(graph, "edges", [])
    kinds = {name: type(node).__name__ for name, node in in_order(graph).items()}
    essential = [name for name, kind in kinds.items() if kind != "Flatten"]
    chained = " ".join(kinds[name] for name in essential)
    known = re.fullmatch("Input (Affine|Linear) (LIF|IF)( Affine| Linear)? Output", chained)
    if not known or not len(kinds) == len(nodes) == len(edges) + 1:
        found = " → ".join(kinds.values()) or "no chain of nodes"
        if len(edges) != len(nodes) - 1:  # e.g. a recurrent one, which the chain does not show
            found += f" with {len(edges)} connections"
        raise SNNError(f"{source} holds {found}, not Input → Affine → LIF → Output; import such a network")
    linear, neurons, last = (nodes[name] for name in essential[1:4])
    votes = 1
    if len(essential) > 4:
        shares = np.asarray(last.weight)
        votes = max(1, shares.size // CLASSES**2)
        vote = vote_weight(votes)
        if np.any(getattr(last, "bias", 0)) or shares.shape != vote.shape or not np.allclose(shares, vote, atol=1e-7):
            what = f"a node {essential[3]!r} after its neurons that is not the vote of N neurons per class"
            raise SNNError(f"{source} has {what}, 1/N from each of its own; import a network with such a vote or none")
    weight, count = np.asarray(linear.weight), CLASSES * votes
    bias = np.asarray(getattr(linear, "bias", np.zeros(weight.shape[:1])))
    if weight.shape != (count, PIXELS) or bias.shape != (count,):
        shapes = f"weights {list(weight.shape)} and biases {list(bias.shape)}"
        raise SNNError(f"{source} has {shapes}, not [{count}, 784] and [{count}]; import a network of this size")
    for name in ("r", "v_threshold", "v_reset", *(("tau", "v_leak") if hasattr(neurons, "tau") else ())):
        values = np.asarray(getattr(neurons, name), np.float64)
        if values.shape not in ((count,), (1,), ()) or not np.isfinite(values).all():
            raise SNNError(f"{source} has {name} of shape {list(values.shape)}, not {count} finite numbers")
        setattr(neurons, name, np.broadcast_to(values, (count,)))
    return weight, bias, neurons, votes


def simulate(
    graph: Any, spikes: np.ndarray, dt: float, discretization: str = "euler", dtype: Any = np.float64
) -> np.ndarray:
    """Return the output [T, N, 10] for an input [T, N, 784], by the equations in plain numpy; v is kept in `dtype`."""
    x = spikes
    for node in in_order(graph).values():
        if hasattr(node, "weight"):
            x = currents(x, dtype, node.weight, getattr(node, "bias", 0))
        elif hasattr(node, "r"):
            level = np.nextafter(np.asarray(node.v_threshold, np.float32), np.float32(np.inf)).astype(dtype)
            r, reset, leak = (np.asarray(each, dtype) for each in (node.r, node.v_reset, getattr(node, "v_leak", 0)))
            gain, v, fired = gain_of(node, dt, discretization).astype(dtype), reset, []
            for current in x:
                v = v + gain * ((leak - v) + r * current) if hasattr(node, "tau") else v + gain * current
                fired.append(v >= level)  # of float32 numbers that is v > v_threshold
                v = np.where(fired[-1], reset, v)
            x = np.stack(fired)
    return x


def currents(x: np.ndarray, dtype: Any, weight: np.ndarray, bias: Any = 0) -> np.ndarray:
    """Return the weighted sums of x [.., M], added in float64 and rounded to `dtype`, [.., N]."""
    return (x.astype(np.float64) @ weight.T.astype(np.float64) + bias).astype(dtype)


# ---------------------------------------------------------------------------- import


def import_nir(
    source: Path, out: Path, dt: float | None = None, discretization: str | None = None, steps: int | None = None
) -> tuple[Config, list[str]]:
    """Make a checkpoint of a NIR file of this network's shape; return its settings and notes for the user.

    What is not given is what this program wrote beside the graph, in a file of another program a default.
    """
    graph, notes = read(source), []
    weight, bias, neurons, votes = parts(graph, source)

    def refuse(what: str, remedy: str) -> SNNError:
        return SNNError(f"{source} has {what}; {remedy}")

    def one(name: str) -> float:
        values = getattr(neurons, name)
        if not np.allclose(values, values[0], rtol=1e-6, atol=0):
            raise refuse(f"a different {name} in each neuron", "import a network where it is one number")
        return float(values[0])

    metadata = graph.metadata if isinstance(graph.metadata, dict) else {}
    known: dict[str, Any] = {"dt": DEFAULT_DT, "discretization": "euler", "T": 100, "dataset": "mnist"}
    known["encoding"] = "poisson"
    if ours := str(metadata.get("program")).startswith("snn_mnist "):
        known |= {name: np.asarray(value).item() for name, value in metadata.items()}
    dt, discretization, steps = dt or known["dt"], discretization or known["discretization"], steps or known["T"]
    if not ours:
        notes.append(f"{source} does not hold its time step: using dt {dt:g} s and T {steps}")
    leaky, reset = hasattr(neurons, "tau"), one("v_reset")
    gain = gain_of(neurons, dt, discretization)
    tau = float(f"{1 / gain[0]:.15g}") if leaky and one("tau") else 2.0  # the 15 digits that survive the way there
    if np.any(bias):
        raise refuse("biases, this program's network has none", "import a network without")
    if leaky and one("v_leak") != reset:
        raise refuse(f"v_leak {neurons.v_leak[0]:g} but v_reset {reset:g}", "import one with both equal")
    if not (math.isfinite(tau) and tau > 1):
        seconds = f"tau {neurons.tau[0]:g} s, which is {tau:g} steps of dt {dt:g} s, not above 1"
        raise refuse(seconds, "give the -dt it was made for")
    # r I = (r W) S: r goes into the weights. With r = τ the input does not decay: H = V - V / τ + X.
    scale = neurons.r if leaky else gain
    for plain in (tau, 1.0) if leaky else (1.0,):
        if np.allclose(scale, plain, rtol=1e-6):
            scale = np.full(len(weight), plain)
    level = np.nextafter(neurons.v_threshold.astype(np.float32), np.float32(np.inf)).astype(np.float64)  # v > is v >=
    if np.any(level <= reset):
        raise refuse(f"a v_threshold that is not above its v_reset {reset:g}", "import another network")
    if np.ptp(level):  # different thresholds: v - v_reset of each neuron is scaled so that they become one
        scale, level = scale / (level - reset), np.full(len(weight), 1.0 + reset)
        notes.append("its neurons have different thresholds: their weights are scaled so that all have one")
    scaled = (weight.astype(np.float64) * scale[:, None]).astype(np.float32)
    if not np.isfinite(scaled).all():
        raise refuse("weights that are not finite numbers", "import another network")
    settings = {"T": steps, "neuron": "lif" if leaky else "if", "tau": tau, "votes": votes}
    settings |= {name: known[name] for name in ("dataset", "encoding")}
    settings |= {"v_threshold": float(f"{level[0]:.9g}"), "v_reset": reset}
    config = Config.from_mapping(settings, str(source))
    make_directory(out.parent, "-out")
    net = {checkpoint.WEIGHT: torch.from_numpy(scaled)}
    checkpoint.save(out, {"net": net, "epoch": -1, "max_test_acc": 0.0, "config": config.to_mapping()}, "-out")
    return config, notes
