"""Output spikes of other simulators that import our NIR files, against ours: the tables of docs/interop.md.

    uv venv .venv-oracle
    uv pip install --python .venv-oracle/bin/python -e '.[nir]' nirtorch spikingjelly snntorch norse
    .venv-oracle/bin/python scripts/interop_agreement.py CHECKPOINT [IMAGES]

CHECKPOINT is a file or run directory, IMAGES defaults to 1000 test images, the data are found as in training.
Each row exports the network with one setting changed; every simulator runs the file on the same spikes.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from snn_mnist.data.datasets import load_dataset
from snn_mnist.export import nir, verify
from snn_mnist.network.network import SNN, SavedNetwork, load_network
from snn_mnist.network.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.settings.config import Config

VARIANTS: list[tuple[str, dict, dict]] = [  # (name, settings of the network, settings of the file)
    ("as trained (τ 2)", {}, {}),
    ("dt 1e-3", {}, {"dt": 1e-3}),
    ("for exact importers", {}, {"discretization": "exact"}),
    ("τ 3", {"tau": 3.0}, {}),
    ("V_reset −0.5, V_threshold 0.7", {"v_reset": -0.5, "v_threshold": 0.7}, {}),
    ("IF", {"neuron": "if"}, {}),
    ("soft reset (lossy)", {"v_reset": None}, {"allow_lossy": True}),
    ("constant current", {"encoding": "constant"}, {}),
    ("latency", {"encoding": "latency"}, {}),
]


def changed(loaded: SavedNetwork, settings: dict) -> SavedNetwork:
    config = replace(loaded.config, **settings)
    net = SNN(config)
    net.load_state_dict(loaded.net.state_dict())
    return replace(loaded, config=config, net=net)


def cell(result: object) -> str:
    if isinstance(result, verify.Agreement):
        return f"{result.identical:,}; {result.different:,} of {result.spikes:,}"
    return str(result)


def main(place: str, count: int) -> None:
    loaded = load_network(place)
    images = load_dataset(loaded.config.dataset, Config().data_dir).test.images[:count]
    print(f"{len(images):,} test images, T {loaded.config.T}. A cell: images with identical output spikes;")
    print("output spikes that differ, of all of ours.\n")
    header: list[str] = []
    for name, network, file in VARIANTS:
        variant = changed(loaded, network)
        settings = {"dt": 1e-4, "discretization": "euler"} | file
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.nir"
            nir.package().write(str(path), nir.build(variant, **settings))
            found = verify.compare(path, variant, images, settings["dt"], settings["discretization"])
        if not header:
            header = ["file", "plain numpy loop", *list(found)[1:]]
            print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
        cells = [name, *map(cell, found.values())]
        cells[1] += f" ({next(iter(found))})"
        print("| " + " | ".join(cells) + " |", flush=True)
    if loaded.config.votes == 1:
        print("\nWith the importers' own defaults instead, on the network as trained:\n")
        traps(loaded, images[:100])


def traps(loaded: SavedNetwork, images: torch.Tensor) -> None:
    """What the importers give without the handling of export/verify.py."""
    key = SpikeKey(loaded.config.seed, Stream.EVAL, 0)
    spikes = poisson_encode(images, torch.arange(len(images)), 0, loaded.config.T, key).numpy()
    ours = verify.reference(loaded, spikes, np.float32)
    for label, dt, make in (
        ("Norse, from_nir without dt (its 1e-3)", 1e-4, lambda graph: verify.from_norse(graph, 1e-3)),
        ("snnTorch, a file with dt 1e-3 as it is", 1e-3, lambda graph: verify.from_snntorch(graph, 1e-4)),
        ("SpikingJelly, the same with its dt 1e-4", 1e-3, lambda graph: verify.from_spikingjelly(graph, 1e-4)),
    ):
        try:
            with verify.quiet():
                agreement = verify.Agreement.of(ours, make(nir.build(loaded, dt))(spikes))
        except Exception as error:
            print(f"- {label}: {type(error).__name__}: {error}")
            continue
        print(f"- {label}: {agreement}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 1000)
