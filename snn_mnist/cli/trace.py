"""Verb `trace`: one image through a checkpoint, every step of it, as arrays and pictures.

    python -m snn_mnist trace -resume logs/T100_b64_adam_lr0.001 -index 0

Writes into a directory of its own:
    v_t_array.npy   [T, 10] float32  membrane potentials V[t], after the reset, as in the tutorial's file
    s_t_array.npy   [T, 10] float32  output spikes S[t], 0 or 1
    trace.npz       both, and: h_t_array [T, 10] potentials H[t] before the reset, x_t_array [T, 10] input
                    currents X[t], image [28, 28] uint8, input_spikes [28, 28] how often each pixel fired,
                    firing_rates [10], index, label, verdict, T, seed
    input.png       the image beside how often each pixel fired
    spikes.png      the raster of the ten neurons, with their firing rates
    voltages.png    V[t] of the ten neurons as colours
    winner.png      the potential of the neuron that fired most; of a wrong verdict, the label's neuron too
"""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snn_mnist.cli.verb_settings import TraceOptions
from snn_mnist.core import functional, layer, monitor, neuron
from snn_mnist.data.datasets import Dataset, load_dataset
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.model.engine import TorchEngine
from snn_mnist.model.network import SNN
from snn_mnist.model.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.model.saved_network import SavedNetwork, load_network
from snn_mnist.runs.config import Config
from snn_mnist.visualizing import run_figures as figures
from snn_mnist.visualizing import trace_figures

V_FILE, S_FILE, ALL_FILE = "v_t_array.npy", "s_t_array.npy", "trace.npz"
SPAN = 1024  # steps encoded at a time, a multiple of 16


@dataclass(frozen=True)
class Trace:
    """What the ten neurons did while one image was shown."""

    index: int
    label: int
    image: np.ndarray  # [28, 28] uint8
    input_spikes: np.ndarray  # [28, 28] int64, how often each pixel fired
    x: np.ndarray  # [T, 10] float32, input current
    h: np.ndarray  # [T, 10] float32, potential before the reset
    v: np.ndarray  # [T, 10] float32, potential after the reset
    s: np.ndarray  # [T, 10] float32, spikes

    @property
    def rates(self) -> np.ndarray:
        """[10]"""
        return self.s.mean(0)

    @property
    def prediction(self) -> int:
        """The class that fired most, of equals the lowest."""
        return int(np.argmax(self.rates))

    @property
    def tied(self) -> bool:
        return int((self.rates == self.rates.max()).sum()) > 1


def run(options: TraceOptions) -> int:
    if "index" in options.given and options.misclassified:
        raise UsageError("-index names images and -misclassified finds them; give one of the two")
    loaded = load_network(options.resume, T=options.T, tau=options.tau, seed=options.seed, dataset=options.dataset)
    config = loaded.config
    data = load_dataset(config.dataset, data_directory(options, config))
    print(f"{loaded.path} (epoch {loaded.epoch + 1}), {data.name} test images, T {config.T}, seed {config.seed}")
    if not loaded.has_settings:
        print(f"the checkpoint does not say T and tau: using {config.T} and {config.tau:g}")
    several = options.misclassified > 1 or len(options.index) > 1
    for trace in find_traces(options, loaded, data):
        print("\n" + describe(trace, data.class_names))
        folder = choose_directory(trace, loaded.path.parent, options.out, several)
        save(trace, config, data.class_names, folder)
        print(f"written to {folder}")
    return 0


def data_directory(options: TraceOptions, config: Config) -> str:
    """Where the user says, else where the checkpoint's run found its data."""
    asked = "data_dir" in options.given or os.environ.get("SNN_MNIST_DATA")
    return options.data_dir if asked else config.data_dir


# ---------------------------------------------------------------------------- the simulation


def find_traces(options: TraceOptions, loaded: SavedNetwork, data: Dataset) -> Iterator[Trace]:
    if not options.misclassified:
        for index in dict.fromkeys(options.index):
            if index >= len(data.test):
                raise UsageError(
                    f"-index {index}: {data.name} has {len(data.test):,} test images; "
                    f"give numbers from 0 to {len(data.test) - 1}"
                )
        yield from (trace_image(loaded.net, data, index, loaded.config) for index in dict.fromkeys(options.index))
        return
    found = 0
    for index in _suspects(loaded.net, data, loaded.config):
        trace = trace_image(loaded.net, data, index, loaded.config)
        if trace.prediction != trace.label:
            yield trace
            found += 1
        if found == options.misclassified:
            return
    if not found:
        raise SNNError(f"the network gets all {len(data.test):,} test images right; name some by -index")
    print(f"\nthe network gets no more than these {found} wrong")


def trace_image(net: SNN, data: Dataset, index: int, config: Config) -> Trace:
    """Shows the network test image `index` for T steps, with monitors on its two layers."""
    net, image = net.cpu(), data.test.images[index]
    functional.set_step_mode(net, "s")
    functional.reset_net(net)
    resting, input_spikes = net.spiking.v, torch.zeros(784)
    with (
        torch.no_grad(),
        monitor.OutputMonitor(net, layer.Linear) as currents,
        monitor.AttributeMonitor("v", False, net, neuron.BaseNode) as potentials,
        monitor.OutputMonitor(net, neuron.BaseNode) as fired,
    ):
        for start in range(0, config.T, SPAN):
            stop = min(start + SPAN, config.T)
            for spikes in poisson_encode(image[None], torch.tensor([index]), start, stop, _draw(config)):  # [1, 784]
                net(spikes)
                input_spikes += spikes[0]
    functional.reset_net(net)
    x, v, s = (torch.cat(recorded.records) for recorded in (currents, potentials, fired))  # [T, 10]
    return Trace(
        index, int(data.test.labels[index]), image.view(28, 28).numpy(),
        input_spikes.long().view(28, 28).numpy(),
        x.numpy(), charged(net.spiking, x, v, resting).numpy(), v.numpy(), s.numpy(),
    )  # fmt: skip


@torch.no_grad()
def charged(node: neuron.BaseNode, x: Tensor, v: Tensor, resting: float) -> Tensor:
    """H [T, 10], the potentials before the reset: the charge of V[t-1] and X[t] ([T, 10]), once more."""
    node = copy.deepcopy(node)
    node.v = torch.cat([torch.full_like(v[:1], resting), v[:-1]])
    node.neuronal_charge(x)
    return node.v


def _draw(config: Config) -> SpikeKey:
    return SpikeKey(config.seed, Stream.TRACE, 0)


def _suspects(net: SNN, data: Dataset, config: Config) -> Iterator[int]:
    """Indices of test images that the network gets wrong, from the first on.

    By a few hundred at a time. In another batch size sums round otherwise, so a neuron just at the threshold
    may fire here and not in the trace of the image, which therefore has the last word.
    """
    functional.set_step_mode(net, "m")
    engine = TorchEngine(net.cpu(), data.test.images)
    for index in torch.arange(len(data.test)).split(200):
        counts, _ = engine.firing_counts(index, [config.T], _draw(config))
        wrong = counts[:, 0].argmax(1) != data.test.labels[index]
        yield from index[wrong].tolist()
        functional.set_step_mode(net, "m")  # the trace of an image in between goes step by step


# ---------------------------------------------------------------------------- what is printed and written


def describe(trace: Trace, class_names: Sequence[str]) -> str:
    """The firing rate of each class, and the verdict."""
    width = max(5, *map(len, class_names))
    lines = [
        f"test image {trace.index}, label {class_names[trace.label]}",
        f"{'class':>{width}}  firing rate",
    ]
    for number, (name, rate) in enumerate(zip(class_names, trace.rates, strict=True)):
        bar = "#" * round(30 * float(rate))
        mark = "  <- verdict" if number == trace.prediction else ""
        lines.append(f"{name:>{width}}  {rate:.3f}  {bar}{mark}")
    correct = "right" if trace.prediction == trace.label else f"wrong, it is {class_names[trace.label]}"
    prediction = f"verdict: {class_names[trace.prediction]} ({correct})"
    if not trace.s.any():
        prediction += "; no neuron fired, which counts as the first class"
    elif trace.tied:
        prediction += "; several classes fired equally often, and the first of them counts"
    return "\n".join([*lines, prediction])


def save(trace: Trace, config: Config, class_names: Sequence[str], folder: Path) -> None:
    """All files of a trace into its directory, which is made."""
    files = {V_FILE: _npy(trace.v), S_FILE: _npy(trace.s), ALL_FILE: _npz(trace, config)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SNNError(f"{folder} can't be made ({error.strerror}); choose another -out") from error
    for name, content in files.items():
        figures.write_bytes(folder / name, content, "-out")
    threshold, reset = config.v_threshold, config.v_reset
    pictures = {
        "input.png": trace_figures.shown_image(trace, class_names),
        "spikes.png": trace_figures.raster(trace, class_names),
        "voltages.png": trace_figures.voltages(trace, class_names, threshold),
        "winner.png": trace_figures.winner(trace, class_names, threshold, reset),
    }
    for name, picture in pictures.items():
        figures.write(folder / name, picture, "-out")


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz(trace: Trace, config: Config) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, v_t_array=trace.v, s_t_array=trace.s, h_t_array=trace.h, x_t_array=trace.x, image=trace.image,
        input_spikes=trace.input_spikes, firing_rates=trace.rates, index=trace.index, label=trace.label,
        verdict=trace.prediction, T=len(trace.s), seed=config.seed,
    )  # fmt: skip
    return buffer.getvalue()


def choose_directory(trace: Trace, run: Path, out: str | None, several: bool) -> Path:
    """Where this trace goes: -out (with several images a directory in it for each), else RUN/trace_INDEX.

    A directory that holds another trace is left alone: -out is then refused, else -2, -3, … is appended.
    """
    name = f"trace_{trace.index}"
    if out is None:
        number = 1
        while _holds_another(run / name, trace):
            number += 1
            name = f"trace_{trace.index}-{number}"
        return run / name
    folder = Path(out) / name if several else Path(out)
    if _holds_another(folder, trace):
        raise UsageError(f"-out {folder} holds the trace of another image or setting; choose another directory")
    return folder


def _holds_another(folder: Path, trace: Trace) -> bool:
    """Whether a file there would be written over with another content."""
    for name, array in ((V_FILE, trace.v), (S_FILE, trace.s)):
        path = folder / name
        if path.exists() and (not path.is_file() or path.read_bytes() != _npy(array)):
            return True
    return False
