"""The same training with other libraries beside ours, measured in turns on this machine.

    python scripts/compare_libraries.py            # loops of SpikingJelly, snnTorch and Norse beside our backends
    python scripts/compare_libraries.py -votes 40  # forty neurons per class, beside SpikingJelly with its VotingLayer
    python scripts/compare_libraries.py -default   # the default `train` run over SpikingJelly's own script

The work is that of SpikingJelly's example `lif_fc_mnist`: images through a DataLoader, Poisson spikes from the
library's own encoder, a layer 784 → 10 of its LIF neurons step by step, MSE of the rates, Adam. A library that is not
installed in the environment of -python is left out.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
TAU = 2.0  # H[t] = V[t-1] + (X[t] - V[t-1]) / TAU
Rates = Callable[[Tensor], Tensor]  # images [N, 1, 28, 28] in [0, 1] to rates [N, 10] over T steps from a state of zero


def spikingjelly(T: int, votes: int = 1) -> tuple[nn.Module, Rates]:
    from spikingjelly.activation_based import encoding, functional, layer, neuron, surrogate

    lif = neuron.LIFNode(tau=TAU, surrogate_function=surrogate.ATan())
    net = nn.Sequential(layer.Flatten(), layer.Linear(784, 10 * votes, bias=False), lif)
    encoder = encoding.PoissonEncoder()
    if votes > 1:
        net.append(layer.VotingLayer(votes))

    def rates(images: Tensor) -> Tensor:
        functional.reset_net(net)
        return sum(net(encoder(images)) for _ in range(T)) / T

    return net, rates


def with_state(net: Callable[[Tensor, Any], tuple[Tensor, Any]], encoder: Callable[[Tensor], Tensor]) -> Rates:
    """Return the rates of a network that takes and returns its state; `encoder` gives spikes [T, N, 1, 28, 28]."""

    def rates(images: Tensor) -> Tensor:
        state, fired = None, []
        for spikes in encoder(images):
            out, state = net(spikes, state)
            fired.append(out)
        return sum(fired) / len(fired)

    return rates


def snntorch(T: int) -> tuple[nn.Module, Rates]:
    """U[t] = β U[t-1] + X[t] is our H[t] times τ for β = 1 - 1/τ, so the threshold is τ and the surrogate's α 2/τ."""
    import snntorch
    from snntorch import spikegen, surrogate

    atan = surrogate.atan(alpha=2 / TAU)
    lif = snntorch.Leaky(beta=1 - 1 / TAU, threshold=TAU, reset_mechanism="zero", spike_grad=atan)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False), lif)

    def step(spikes: Tensor, membrane: Tensor | None) -> tuple[Tensor, Tensor]:
        current = net[:2](spikes)
        return lif(current, torch.zeros_like(current) if membrane is None else membrane)

    return net, with_state(step, lambda images: spikegen.rate(images, num_steps=T))


def norse(T: int) -> tuple[nn.Module, Rates]:
    """LIF without a synaptic current, v + dt/τ_mem (X - v), with its SuperSpike surrogate."""
    import norse.torch as norse

    dt = 1e-3
    lif = norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=torch.tensor(1 / (TAU * dt))), dt=dt)
    net = norse.SequentialState(nn.Flatten(), nn.Linear(784, 10, bias=False), lif)
    return net, with_state(net, norse.PoissonEncoder(T, f_max=1 / dt, dt=dt))


LIBRARIES = {"spikingjelly": spikingjelly, "snntorch": snntorch, "norse": norse}


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Images/s of one library in training and testing; each batch is waited for, as in the example."""
    from torchvision import datasets, transforms

    net, rates = spikingjelly(args.T, args.votes) if args.votes > 1 else LIBRARIES[name](args.T)
    net.to(args.device)
    adam, speeds = torch.optim.Adam(net.parameters(), lr=1e-3), {}
    for train in (True, False):
        mnist = datasets.MNIST(args.data_dir, train=train, transform=transforms.ToTensor())
        loader = torch.utils.data.DataLoader(
            mnist, batch_size=args.b, shuffle=train, drop_last=train, num_workers=4, pin_memory=args.device != "cpu"
        )
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        next(batches)  # the workers have started
        images, began = 0, time.perf_counter()
        with torch.set_grad_enabled(train):
            while not images or time.perf_counter() - began < args.seconds:
                image, label = (each.to(args.device) for each in next(batches))
                result = rates(image)
                if train:
                    adam.zero_grad()
                    loss = nn.functional.mse_loss(result, nn.functional.one_hot(label, 10).float())
                    loss.backward()
                    adam.step()
                    loss.item()
                (result.argmax(1) == label).float().sum().item()
                images += len(label)
        speeds["train" if train else "test"] = images / (time.perf_counter() - began)
    return speeds


def program(*command: str, folder: str | None = None) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment).stdout


def compare_loops(args: argparse.Namespace) -> Any:
    """Print the median [lowest, highest] speeds of our backends and of each library that is installed; return all."""
    shared = ["-T", str(args.T), "-b", str(args.b), "-votes", str(args.votes)]
    shared += ["-device", args.device, "-data-dir", args.data_dir]
    has = "from importlib.util import find_spec; import sys; sys.exit(find_spec(sys.argv[1]) is None)"
    libraries = ["spikingjelly"] if args.votes > 1 else LIBRARIES
    names = [name for name in libraries if not subprocess.run([args.python, "-c", has, name]).returncode]
    samples: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.repeats):
        ours = json.loads(program(sys.executable, "-m", "snn_mnist", "bench", *shared, "-repeats", "1", "-json", "-"))
        found = {row["backend"]: {what: row[what]["median"] for what in ("train", "test")} for row in ours["results"]}
        for name in names:
            seconds = ["-seconds", str(args.seconds)]
            found[name] = json.loads(program(args.python, __file__, *shared, *seconds, "-measure", name))
        for name, speeds in found.items():
            samples.setdefault(name, []).append(speeds)
    print("| | training images/s | testing images/s |\n|---|---|---|")
    for name, each in samples.items():
        columns = ([speeds[what] for speeds in each] for what in ("train", "test"))
        cells = (f"{statistics.median(column):,.0f} [{min(column):,.0f}, {max(column):,.0f}]" for column in columns)
        print(f"| {name} | {' | '.join(cells)} |")
    return samples


def compare_default_run(args: argparse.Namespace) -> Any:
    """Print and return the mean speeds of default `train` runs, and those of an epoch of SpikingJelly's script."""
    found, script = [], "spikingjelly.activation_based.examples.lif_fc_mnist"
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            shared = ["-device", args.device, "-data-dir", os.path.abspath(args.data_dir), "-out-dir", folder]
            program(sys.executable, "-m", "snn_mnist", "train", *shared, folder=folder)
            rows = [*csv.DictReader(next(Path(folder).glob("*/metrics.csv")).read_text().splitlines())]
            columns = (f"{what}_images_per_s" for what in ("train", "test"))
            ours = [statistics.harmonic_mean(float(row[column]) for row in rows) for column in columns]
            printed = program(args.python, "-m", script, *shared, "-epochs", "1", folder=folder)
            theirs = [float(each) for each in re.findall(r"speed =\s*([\d.]+)", printed)]
        found.append({"ours": ours, "theirs": theirs})
        print(f"training {ours[0]:,.0f} / {theirs[0]:,.0f} images/s: {ours[0] / theirs[0]:.0f} times", flush=True)
    ratio = statistics.median(each["ours"][0] / each["theirs"][0] for each in found)
    print(f"median of {args.repeats}: {ratio:.0f} times")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-default", action="store_true", help="compare the default run with SpikingJelly's own script")
    parser.add_argument("-T", type=int, default=100)
    parser.add_argument("-b", type=int, default=64)
    parser.add_argument("-votes", type=int, default=1, help="neurons per class; above 1 only beside SpikingJelly")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("-seconds", type=float, default=2.0, help="length of a measurement of a library")
    parser.add_argument("-repeats", type=int, default=3)
    parser.add_argument("-data-dir", default=os.environ.get("SNN_MNIST_DATA") or "./data")
    python = os.environ.get("SNN_MNIST_SPIKINGJELLY_PYTHON") or sys.executable
    parser.add_argument("-python", default=python, help="has the other libraries (SNN_MNIST_SPIKINGJELLY_PYTHON)")
    parser.add_argument("-json", type=Path, help="write every measurement there")
    parser.add_argument("-measure", choices=LIBRARIES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args)))
    else:
        found = (compare_default_run if args.default else compare_loops)(args)
        if args.json:
            args.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
