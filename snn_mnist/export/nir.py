"""NIR, the neuromorphic intermediate representation (Pedersen et al. 2024), both ways.

NIR's neuron is an equation in seconds, ours a step:

    NIR LIF   tau dv/dt = (v_leak - v) + r I,  fires at v > v_threshold, then v = v_reset
    Euler     v += dt / tau ((v_leak - v) + r I)
    ours      V += (X - (V - V_reset)) / τ,    fires at V >= V_threshold, then V = V_reset

With v = V - V_reset, v_leak = v_reset = 0, r = 1 and tau = τ dt both give the same numbers. Importers that step by the
exponential, v += (1 - e^(-dt/tau)) (r I - v), need tau = -dt / ln(1 - 1/τ) instead (`-discretization exact`). IF is
dv/dt = r I, so r = 1/dt. NIR fires above its threshold, ours at or above: the next float32 below is written. NIR has no
soft reset. Several neurons per class are followed by a second Affine, whose rows are the means over their neurons.
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

from snn_mnist import __version__
from snn_mnist.errors import SNNError, UsageError, reason
from snn_mnist.network.network import CLASSES, PIXELS, SavedNetwork
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint
from snn_mnist.storage.atomic_files import make_directory, write_file

DEFAULT_DT = 1e-4
ENCODERS = {
    "poisson": "Poisson: at every step pixel k of 0..255 fires with probability k/255",
    "constant": "constant current: the input is k/255 for pixel k of 0..255 at every step",
    "latency": "latency: pixel k of 1..255 fires once, at step round((T - 1) (1 - k/255)) from 0",
}


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
    neurons = graph.nodes["neurons"]
    vote = f" → Affine, the vote of {saved.config.votes}" if saved.config.votes > 1 else ""
    nodes = f"Input({PIXELS}) → Affine → {type(neurons).__name__}({len(neurons.r)}){vote} → Output"
    time = f"dt {dt:g} s, {discretization}, tau {saved.config.tau:g} steps"
    return f"{nodes}, {time}, threshold {float(neurons.v_threshold[0])!r}"


def build(saved: SavedNetwork, dt: float = DEFAULT_DT, discretization: str = "euler", allow_lossy: bool = False) -> Any:
    """Return the network as a nir.NIRGraph. UsageError for what NIR can't express, unless allow_lossy."""
    nir, config = package(), saved.config
    if config.v_reset is None and not allow_lossy:
        raise UsageError(
            "NIR has no soft reset (v_reset none): its neurons are reset to 0 instead of by the threshold; "
            "train with -v-reset 0, or accept other spikes with -allow-lossy"
        )
    each, zeros = np.ones(CLASSES * config.votes), np.zeros(CLASSES * config.votes)
    levels = {"v_threshold": firing_level(config) * each, "v_reset": zeros}
    if config.neuron == "if":
        neurons = nir.IF(r=each / dt, **levels)
    else:
        neurons = nir.LIF(tau=nir_tau(config.tau, dt, discretization) * each, r=each, v_leak=zeros, **levels)
    weight = saved.net.weight.detach().cpu().float().numpy()
    metadata = {name: getattr(config, name) for name in ("T", "tau", "dataset", "seed", "encoding")}
    metadata |= {
        "program": f"snn_mnist {__version__}",
        "dt": dt,
        "discretization": discretization,
        "encoder": ENCODERS[config.encoding],
        "readout": "argmax over the neurons of the spike count in T steps; the lower neuron wins a tie",
        "epochs": saved.epochs,
    }
    nodes = {
        "input": nir.Input(input_type={"input": np.array([PIXELS])}),
        "affine": nir.Affine(weight=weight, bias=zeros.astype(np.float32)),
        "neurons": neurons,
        "output": nir.Output(output_type={"output": np.array([CLASSES])}),
    }
    if config.votes > 1:
        metadata["readout"] = "argmax over the classes of the sum of the output in T steps; the lower class wins a tie"
        nodes["vote"] = nir.Affine(weight=vote_weight(config.votes), bias=np.zeros(CLASSES, np.float32))
        nodes["output"] = nodes.pop("output")  # to the end
    return nir.NIRGraph(nodes, [*itertools.pairwise(nodes)], metadata=metadata)


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


def firing_level(config: Config) -> float:
    """Return the float32 for which v > firing_level(…) exactly when v >= V_threshold - V_reset, for every float32 v."""
    exact = Fraction(float(np.float32(config.v_threshold))) - Fraction(float(np.float32(config.v_reset or 0.0)))
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


def parts(graph: Any, source: Any = "the graph") -> tuple[np.ndarray, np.ndarray, Any, int]:
    """Return weights [10 N, 784], bias [10 N], neurons and N of Input → [Flatten →] Affine|Linear → LIF|IF → Output.

    Before the output there may be an Affine or Linear that is the vote of N neurons per class.
    """
    nodes, edges = getattr(graph, "nodes", {}), getattr(graph, "edges", [])
    following = dict(edges)
    chain = [name for name, node in nodes.items() if type(node).__name__ == "Input"][:1]
    while chain and following.get(chain[-1]) in nodes and len(chain) < len(nodes):
        chain.append(following[chain[-1]])
    kinds = {name: type(nodes[name]).__name__ for name in chain}
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
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the graph by its equations in plain numpy, with nothing of our own neurons.

    input [T, N, 784] to spikes of the neurons and v before the reset, both [T, N, 10 votes]. The weighted sums are
    float64, rounded to `dtype`, in which v is kept.
    """
    weight, bias, neurons, _ = parts(graph)
    leaky = hasattr(neurons, "tau")
    r, level, reset = (np.asarray(x).astype(dtype) for x in (neurons.r, neurons.v_threshold, neurons.v_reset))
    leak = neurons.v_leak.astype(dtype) if leaky else None
    gain = gain_of(neurons, dt, discretization).astype(dtype)
    v = np.broadcast_to(reset, (spikes.shape[1], len(reset)))
    fired, potential = [], []
    for step in spikes:
        current = (step.astype(np.float64) @ weight.T.astype(np.float64) + bias).astype(dtype)
        v = v + gain * ((leak - v) + r * current) if leaky else v + gain * current
        fired.append(v > level)
        potential.append(v)
        v = np.where(fired[-1], reset, v)
    return np.stack(fired), np.stack(potential)


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
