"""The C reference against the integer simulator on the whole test set: a table of docs/interop.md.

    python scripts/interop_hardware.py CHECKPOINT [IMAGES]

Exports the network in several widths and neuron models, compiles snn_infer.c with -Wall -Wextra -Werror and
-std=c99, lets it draw its own Poisson spikes for every test image, and compares predictions and spike counts;
the golden vectors must come out bit for bit too. Exit code 1 when anything differs. Needs a C compiler, cc.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from snn_mnist.data.datasets import load_dataset
from snn_mnist.export import hardware
from snn_mnist.export.fixed_point import quantise, spike_counts
from snn_mnist.network.network import SNN, SavedNetwork, load_network
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.settings.config import Config

VARIANTS: list[tuple[str, dict, dict]] = [  # (name, settings of the network, settings of the export)
    ("16 bits", {}, {"bits": 16}),
    ("8 bits", {}, {"bits": 8}),
    ("6 bits", {}, {"bits": 6}),
    ("4 bits", {}, {"bits": 4}),
    ("8 bits, one scale per neuron", {}, {"bits": 8, "scale": "neuron"}),
    ("8 bits, τ 3", {"tau": 3.0}, {"bits": 8}),
    ("8 bits, IF", {"neuron": "if"}, {"bits": 8}),
    ("8 bits, soft reset", {"v_reset": None}, {"bits": 8}),
    ("8 bits, constant current", {"encoding": "constant"}, {"bits": 8}),
    ("8 bits, latency", {"encoding": "latency"}, {"bits": 8}),
]


def main(place: str, count: int) -> int:
    trained = load_network(place, data_dir=Config().data_dir)
    data = load_dataset(trained.config.dataset, trained.config.data_dir)
    images, labels = data.test.images[:count], data.test.labels[:count].numpy()
    key = SpikeKey(trained.config.seed, Stream.EVAL, 0)
    print(f"{len(images):,} test images, T {trained.config.T}, seed {key.seed}\n")
    print(
        "| network | accuracy | images with equal counts and prediction | golden vectors | C, images/s |\n"
        + "|---" * 5
        + "|"
    )
    bad = 0
    for name, settings, flags in VARIANTS:
        config = replace(trained.config, **settings)
        net = SNN(config)
        net.load_state_dict(trained.net.state_dict())
        loaded: SavedNetwork = replace(trained, config=config, net=net)
        with tempfile.TemporaryDirectory() as folder:
            equal, golden, rate, accuracy = compare(loaded, Path(folder), images, labels, key, flags)
        bad += equal != len(images) or not golden
        print(
            f"| {name} | {accuracy:.2%} | {equal:,} of {len(images):,} | "
            f"{'equal' if golden else 'DIFFER'} | {rate:,.0f} |"
        )
        sys.stdout.flush()
    return int(bad > 0)


def compare(loaded, folder, images, labels, key, flags):  # type: ignore[no-untyped-def]
    """(images with equal counts and prediction, whether the golden vectors are, images/s of C, accuracy)."""
    hardware.export_hardware(loaded, folder, report=False, **flags)
    program = folder / "snn_infer"
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *strict, "-o", str(program), str(folder / "snn_infer.c")], check=True)
    raw = images.numpy().tobytes()
    words = [str(int(word)) for word in (key.seed, key.stream, key.epoch, 0)]
    started = time.perf_counter()
    done = subprocess.run([str(program), "images", *words], input=raw, capture_output=True, check=True)
    seconds = time.perf_counter() - started
    theirs = np.array([[int(x) for x in line.split()] for line in done.stdout.splitlines()])
    fixed = quantise(loaded.net, loaded.config, flags["bits"], flags.get("scale") == "neuron")
    counts = spike_counts([fixed], images, key)[0][0]
    equal = (theirs == np.column_stack([counts.argmax(1), counts])).all(1).sum()
    text = (folder / "golden_input.mem").read_bytes()
    got = subprocess.run([str(program), "spikes"], input=text, capture_output=True, check=True).stdout.decode()
    columns = [(folder / f"golden_{name}.mem").read_text().splitlines()[1:] for name in ("spikes", "v")]
    golden = got.splitlines() == [" ".join(pair) for pair in zip(*columns, strict=True)]
    return int(equal), golden, len(images) / seconds, float((theirs[:, 0] == labels).mean())


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 10_000))
