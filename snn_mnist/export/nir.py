"""NIR, the neuromorphic intermediate representation (Pedersen et al. 2024), both ways.

NIR's neuron is an equation in seconds, ours a step:

    NIR LIF   tau dv/dt = (v_leak - v) + r I,  fires at v > v_threshold, then v = v_reset
    Euler     v += dt / tau ((v_leak - v) + r I)
    ours      V += (X - (V - V_reset)) / τ,    fires at V >= V_threshold, then V = V_reset

With v = V - V_reset, v_leak = v_reset = 0, r = 1 and tau = τ dt both give the same numbers. Importers that step by the
exponential, v += (1 - e^(-dt/tau)) (r I - v), need tau = -dt / ln(1 - 1/τ) instead (`-discretization exact`). IF is
dv/dt = r I, so r = 1/dt. NIR fires above its threshold, ours at or above: the next float32 below is written. NIR has no
soft reset.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from snn_mnist import __version__
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.network.network import CLASSES, PIXELS
from snn_mnist.network.saved_network import SavedNetwork
from snn_mnist.settings.config import DATASETS, Config
from snn_mnist.storage import checkpoint
from snn_mnist.storage.atomic_files import make_directory, write_file

MAX_BYTES = 64 << 20  # of a file and of what it unpacks to; this network needs 63 kB
DEFAULT_DT = 1e-4
ENCODER = "Poisson: at every step pixel k of 0..255 fires with probability k/255"
READOUT = "argmax over the neurons of the spike count in T steps; the lower neuron wins a tie"


def package() -> Any:
    """The module `nir`; SNNError with the install line if it can't be imported."""
    try:
        import nir
    except ImportError as error:
        remedy = "SNN_MNIST_EXTRAS=nir bash scripts/setup.sh, or pip install nir"
        raise SNNError(f"the package nir can't be imported ({error}); install it: {remedy}") from error
    return nir


# ---------------------------------------------------------------------------- export


def export_nir(
    saved: SavedNetwork, out: Path, dt: float = DEFAULT_DT, discretization: str = "euler", allow_lossy: bool = False
) -> Any:
    """Writes a NIR file; returns its graph. The arguments are those of `build`."""
    graph = build(saved, dt, discretization, allow_lossy)
    buffer = io.BytesIO()
    package().write(buffer, graph)
    make_directory(out.parent, "-out")
    write_file(out, buffer.getvalue(), "-out")
    return graph


def describe(graph: Any) -> str:
    """One line about a graph of `build`."""
    neurons, about = graph.nodes["neurons"], graph.metadata
    return (
        f"Input({PIXELS}) → Affine → {type(neurons).__name__}({CLASSES}) → Output, dt {about['dt']:g} s, "
        f"{about['discretization']}, tau {about['tau']:g} steps, "
        f"threshold {float(neurons.v_threshold[0])!r}"
    )


def build(saved: SavedNetwork, dt: float = DEFAULT_DT, discretization: str = "euler", allow_lossy: bool = False) -> Any:
    """The network as a nir.NIRGraph. UsageError for what NIR can't express, unless allow_lossy."""
    nir, config = package(), saved.config
    if config.v_reset is None and not allow_lossy:
        raise UsageError(
            "NIR has no soft reset (v_reset none): its neurons are reset to 0 instead of by the threshold; "
            "train with -v-reset 0, or accept other spikes with -allow-lossy"
        )
    weight = saved.net.weight.detach().cpu().float().numpy()
    reset = np.zeros(CLASSES)
    each = np.ones(CLASSES)
    level = firing_level(config) * each
    if config.neuron == "if":
        neurons = nir.IF(r=each / dt, v_threshold=level, v_reset=reset)
    else:
        tau = nir_tau(config.tau, dt, discretization) * each
        neurons = nir.LIF(tau=tau, r=each, v_leak=np.zeros(CLASSES), v_threshold=level, v_reset=reset)
    return nir.NIRGraph(
        nodes={
            "input": nir.Input(input_type={"input": np.array([PIXELS])}),
            "affine": nir.Affine(weight=weight, bias=np.zeros(CLASSES, np.float32)),
            "neurons": neurons,
            "output": nir.Output(output_type={"output": np.array([CLASSES])}),
        },
        edges=[("input", "affine"), ("affine", "neurons"), ("neurons", "output")],
        metadata={
            "program": f"snn_mnist {__version__}",
            "nir_version": str(nir.__version__),
            "T": config.T,
            "dt": dt,
            "discretization": discretization,
            "neuron": config.neuron,
            "tau": config.tau,
            "v_threshold": config.v_threshold,
            "v_reset": "none" if config.v_reset is None else config.v_reset,
            "encoder": ENCODER,
            "readout": READOUT,
            "dataset": config.dataset,
            "seed": config.seed,
            "epochs": saved.epochs,
            "weight_sha256": checksum(weight),
        },
    )


def checksum(weight: np.ndarray) -> str:
    """SHA-256 of the weights [10, 784] as little-endian float32, row after row."""
    return hashlib.sha256(np.ascontiguousarray(weight, "<f4").tobytes()).hexdigest()


def nir_tau(tau: float, dt: float, discretization: str) -> float:
    """The time constant in seconds with which one step of `dt` decays by 1 - 1/tau."""
    return tau * dt if discretization == "euler" else -dt / math.log1p(-1 / tau)


def steps_tau(seconds: float, dt: float, discretization: str) -> float:
    """The inverse of `nir_tau`, to the 15 digits that survive it."""
    ratio = dt / seconds
    tau = 1 / (ratio if discretization == "euler" else -math.expm1(-ratio))
    return float(f"{tau:.15g}")


def firing_level(config: Config) -> float:
    """The float32 for which v > firing_level(…) exactly when v >= V_threshold - V_reset, for every float32 v."""
    threshold_32, reset_32 = np.float32(config.v_threshold), np.float32(config.v_reset or 0.0)
    exact = Fraction(float(threshold_32)) - Fraction(float(reset_32))
    level = np.float32(float(exact))
    if Fraction(float(level)) < exact:
        level = np.nextafter(level, np.float32(np.inf))
    return float(np.nextafter(level, np.float32(-np.inf)))


# ---------------------------------------------------------------------------- reading and simulating


def read(path: Path) -> Any:
    """The graph of a file; SNNError names the file and what is wrong."""
    nir = package()
    import h5py

    def refuse(what: str) -> SNNError:
        return SNNError(f"{path} {what}; name a NIR file")

    if not path.is_file():
        raise UsageError(f"there is no file {path}; name a NIR file")
    if path.stat().st_size > MAX_BYTES:
        raise refuse(f"has {path.stat().st_size} bytes, too many for this network")
    try:
        with h5py.File(path, "r") as file:
            if sum(size for size in _sizes(file)) > MAX_BYTES:
                raise refuse("unpacks to more than this network holds")
        return nir.read(str(path), type_check=False)  # `parts` checks the shapes; a parameter may be one number
    except SNNError:
        raise
    except Exception as error:  # h5py and nir raise almost anything for a damaged or foreign file
        reason = " ".join(str(error).split())[:100]
        raise refuse(f"can't be read as NIR ({type(error).__name__}: {reason})") from error


def _sizes(group: Any) -> Iterator[int]:
    for key in group:
        item = group[key]
        if hasattr(item, "nbytes"):
            yield int(item.nbytes)
        else:
            yield from _sizes(item)


def parts(graph: Any, source: Any = "the graph") -> tuple[np.ndarray, np.ndarray, Any]:
    """Weights [10, 784], bias [10] and the neurons of Input → [Flatten →] Affine|Linear → LIF|IF → Output."""
    nir = package()
    nodes = dict(getattr(graph, "nodes", {}))
    following = dict(graph.edges) if nodes else {}
    chain = [name for name, node in nodes.items() if isinstance(node, nir.Input)][:1]
    while chain and chain[-1] in following and len(chain) <= len(nodes):
        chain.append(following[chain[-1]])
    kinds = [type(nodes[name]).__name__ for name in chain if name in nodes]
    essential = [kind for kind in kinds if kind != "Flatten"]
    shapes = [["Input", first, then, "Output"] for first in ("Affine", "Linear") for then in ("LIF", "IF")]
    if essential not in shapes or len(chain) != len(nodes) or len(graph.edges) != len(nodes) - 1:
        found = " → ".join(kinds) or "no chain of nodes"
        raise SNNError(f"{source} holds {found}, not Input → Affine → LIF → Output; import such a network")
    by_kind = {type(nodes[name]).__name__: nodes[name] for name in chain}
    linear, neurons = by_kind.get("Affine") or by_kind["Linear"], by_kind.get("LIF") or by_kind["IF"]
    weight = np.asarray(linear.weight)
    bias = np.asarray(getattr(linear, "bias", np.zeros(CLASSES)))
    if weight.shape != (CLASSES, PIXELS) or bias.shape != (CLASSES,):
        raise SNNError(
            f"{source} has weights {list(weight.shape)} and biases {list(bias.shape)}, "
            "not [10, 784] and [10]; import a network of this size"
        )
    for name in ("r", "v_threshold", "v_reset", *(("tau", "v_leak") if hasattr(neurons, "tau") else ())):
        values = np.asarray(getattr(neurons, name), np.float64)
        if values.shape not in ((CLASSES,), (1,), ()) or not np.isfinite(values).all():
            raise SNNError(f"{source} has {name} of shape {list(values.shape)}, not ten finite numbers")
        setattr(neurons, name, np.broadcast_to(values, (CLASSES,)))
    return weight, bias, neurons


def simulate(
    graph: Any, spikes: np.ndarray, dt: float, discretization: str = "euler", dtype: Any = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """The graph by its equations in plain numpy: spikes [T, N, 784] to output spikes and v before the reset,
    both [T, N, 10].

    Nothing of our own neurons is used. The weighted sums are float64, rounded to `dtype`, in which v is kept.
    """
    weight, bias, neurons = parts(graph)
    leaky = hasattr(neurons, "tau")
    r, level, reset = (np.asarray(x).astype(dtype) for x in (neurons.r, neurons.v_threshold, neurons.v_reset))
    leak = neurons.v_leak.astype(dtype) if leaky else None
    ratio = dt / neurons.tau if leaky else dt
    gain = np.asarray(ratio if discretization == "euler" or not leaky else -np.expm1(-ratio)).astype(dtype)
    if not leaky:  # dv/dt = r I has the same step either way
        gain = (neurons.r * dt).astype(dtype)
    v = np.broadcast_to(reset, (spikes.shape[1], CLASSES))
    fired, potential = [], []
    for step in spikes:
        current = (step.astype(np.float64) @ weight.T.astype(np.float64) + bias).astype(dtype)
        v = v + gain * ((leak - v) + r * current) if leaky else v + gain * current
        spike = v > level
        fired.append(spike)
        potential.append(v)
        v = np.where(spike, reset, v)
    return np.stack(fired), np.stack(potential)


# ---------------------------------------------------------------------------- import


def import_nir(
    source: Path, out: Path, dt: float | None = None, discretization: str | None = None, steps: int | None = None
) -> tuple[Config, list[str]]:
    """Makes a checkpoint of a NIR file of this network's shape; returns its settings and notes for the user."""
    import torch

    config, weight, notes = network(read(source), source, dt, discretization, steps)
    make_directory(out.parent, "-out")
    state = {
        "net": {checkpoint.WEIGHT: torch.from_numpy(weight)},
        "epoch": -1,
        "max_test_acc": 0.0,
        "config": config.to_mapping(),
    }
    checkpoint.save(out, state, "-out")
    return config, notes


def network(
    graph: Any, source: Any = "the graph", dt: float | None = None, discretization: str | None = None,
    steps: int | None = None,
) -> tuple[Config, np.ndarray, list[str]]:  # fmt: skip
    """Settings and weights [10, 784] float32 of the network that a graph describes, and notes for the user."""
    weight, bias, neurons = parts(graph, source)
    metadata = graph.metadata if isinstance(graph.metadata, dict) else {}
    dt = dt or _number(metadata, "dt", DEFAULT_DT)
    discretization = discretization or _word(metadata, "discretization", "euler")
    steps = steps or int(_number(metadata, "T", 100))
    notes = [] if "dt" in metadata else [f"{source} does not hold its time step: using dt {dt:g} s and T {steps}"]
    if np.any(bias):
        raise SNNError(f"{source} has biases, this program's network has none; import a network without")
    leaky = hasattr(neurons, "tau")
    reset = _same(neurons.v_reset, "v_reset", source)
    if leaky and _same(neurons.v_leak, "v_leak", source) != reset:
        raise SNNError(f"{source} has v_leak {neurons.v_leak[0]:g} but v_reset {reset:g}; import one with both equal")
    tau = steps_tau(_same(neurons.tau, "tau", source), dt, discretization) if leaky else 2.0
    if leaky and not (math.isfinite(tau) and tau > 1):
        raise SNNError(
            f"{source} has tau {neurons.tau[0]:g} s, which is {tau:g} steps of dt {dt:g} s, not above 1; "
            "give the -dt it was made for"
        )
    # r I = (r W) S: r goes into the weights. With r = τ the input does not decay: H = V - V / τ + X.
    gain = neurons.r if leaky else neurons.r * dt
    if leaky and np.allclose(gain, tau, rtol=1e-6):
        gain = np.full(CLASSES, tau)
    elif np.allclose(gain, 1, rtol=1e-6):
        gain = np.ones(CLASSES)
    level = np.nextafter(neurons.v_threshold.astype(np.float32), np.float32(np.inf)).astype(np.float64)  # v > is v >=
    if np.any(level <= reset):
        raise SNNError(f"{source} has a v_threshold that is not above its v_reset {reset:g}; import another network")
    if np.ptp(level):  # different thresholds: v - v_reset of each neuron is scaled so that they become one
        gain = gain / (level - reset)
        level = np.full(CLASSES, 1.0 + reset)
        notes.append("its neurons have different thresholds: their weights are scaled so that all have one")
    scaled = (weight.astype(np.float64) * gain[:, None]).astype(np.float32)
    if not np.isfinite(scaled).all():
        raise SNNError(f"{source} has weights that are not finite numbers; import another network")
    if "weight_sha256" in metadata and _word(metadata, "weight_sha256", "") != checksum(weight):
        notes.append(f"{source}: the weights are not those that were exported (their checksum differs)")
    v_threshold: float = float(f"{level[0]:.9g}")
    v_reset: float | None = reset
    original = _original(metadata)
    if original and firing_level(Config(v_threshold=v_threshold, v_reset=reset)) == firing_level(original):
        v_threshold, v_reset = original.v_threshold, original.v_reset  # before V_reset was shifted to 0
    dataset = _word(metadata, "dataset", "mnist")
    config = Config.from_mapping(
        {"T": steps, "neuron": "lif" if leaky else "if", "tau": tau}
        | {"v_threshold": v_threshold, "v_reset": v_reset}
        | ({"dataset": dataset} if dataset in DATASETS else {}),
        str(source),
    )
    return config, scaled, notes


def _original(metadata: dict[str, Any]) -> Config | None:
    """Threshold and reset of the exported network, if the metadata holds them."""
    if "v_threshold" not in metadata or "v_reset" not in metadata:
        return None
    v_reset = None if _word(metadata, "v_reset", "") == "none" else _number(metadata, "v_reset", 0.0)
    try:
        return Config(v_threshold=_number(metadata, "v_threshold", 1.0), v_reset=v_reset)
    except SNNError:
        return None


def _same(values: np.ndarray, name: str, source: Any) -> float:
    if not np.allclose(values, values[0], rtol=1e-6, atol=0):
        raise SNNError(f"{source} has a different {name} in each neuron; import a network where it is one number")
    return float(values[0])


def _number(metadata: dict[str, Any], name: str, default: float) -> float:
    try:
        value = float(np.asarray(metadata.get(name, default)).item())
    except (TypeError, ValueError):
        return default
    return value if math.isfinite(value) else default


def _word(metadata: dict[str, Any], name: str, default: str) -> str:
    value = metadata.get(name, default)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
