"""Verb `export`: a checkpoint in the formats of other programs, hardware and the browser.

    python -m snn_mnist export -resume logs/T100_b64_adam_lr0.001 -format nir -out mnist.nir -verify

docs/interop.md explains the formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snn_mnist.cli.shared_options import checkpoint_option, saved_option, seed_option, tau_option
from snn_mnist.runs.config import Config
from snn_mnist.runs.fields import Options, choice, integer, like, number, option, optional, path, switch

if TYPE_CHECKING:
    from snn_mnist.model.saved_network import SavedNetwork

DISCRETIZATIONS = ("euler", "exact")
ENDINGS = {"nir": ".nir", "hardware": "_hardware", "html": ".html"}  # of the default name, by format


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Settings of `export`. None means: as in the checkpoint."""

    resume: str = checkpoint_option()
    format: str = option(
        "nir",
        choice(tuple(ENDINGS)),
        "Files",
        "a NIR graph, integer weights with C and Verilog files, or a page to play with",
    )
    out: str | None = option(
        None, optional(path()), "Files", "the file (hardware: directory) to write", shown="beside the checkpoint"
    )
    T: int | None = saved_option("T", "Network")
    tau: float | None = tau_option("Network")
    dt: float = option(1e-4, number(above=0), "NIR", "seconds a time step stands for")
    discretization: str = option(
        "euler",
        choice(DISCRETIZATIONS),
        "NIR",
        "how the importer steps: forward Euler, or exact for one that uses the exponential",
    )
    threshold: str = option(
        "below",
        choice(("below", "same")),
        "NIR",
        "NIR fires above its threshold, we at ours: write the next float32 below, or the same number",
    )
    allow_lossy: bool = option(False, switch(), "NIR", "write even what the format cannot say: soft reset")
    verify: bool = option(
        False, switch(), "NIR", "read the file back and compare its spikes, also in the simulators found here"
    )
    verify_images: int = option(100, integer(1), "NIR", "how many test images -verify compares")
    bits: int = option(8, integer(4, 16), "Hardware", "bits of an integer weight")
    scale: str = option(
        "tensor", choice(("tensor", "neuron")), "Hardware", "one scale for all weights or one for each neuron"
    )
    fraction: int | None = option(
        None,
        optional(integer(0, 16)),
        "Hardware",
        "fraction bits of a membrane potential",
        shown="as many as give the threshold 12 bits",
    )
    report: bool = option(
        True, switch(), "Hardware", "measure the accuracy at 16, 8, 6 and 4 bits on the whole test set"
    )
    seed: int | None = seed_option("Data")
    data_dir: str = like(Config, "data_dir")


def run(options: ExportOptions) -> None:
    from snn_mnist.model.saved_network import load_network

    loaded = load_network(options.resume, T=options.T, tau=options.tau, seed=options.seed)
    if not loaded.has_settings and (options.T is None or options.tau is None):
        print(
            f"{loaded.path} says nothing of tau and T: using {loaded.config.tau:g} and {loaded.config.T}; "
            "-tau and -T change them"
        )
    beside = loaded.path.with_name(loaded.path.stem + ENDINGS[options.format])
    out = Path(options.out) if options.out else beside
    WRITERS[options.format](loaded, out, options)


def _nir(loaded: SavedNetwork, out: Path, options: ExportOptions) -> None:
    from snn_mnist.export import nir, verify

    nir.export(loaded, out, options.dt, options.discretization, options.threshold, options.allow_lossy)
    if options.verify:
        steps = (options.dt, options.discretization)
        verify.run(out, loaded, options.data_dir, options.verify_images, *steps, options.allow_lossy)


def _hardware(loaded: SavedNetwork, out: Path, options: ExportOptions) -> None:
    from snn_mnist.export import hardware

    per_neuron = options.scale == "neuron"
    hardware.export(loaded, out, options.data_dir, options.bits, per_neuron, options.fraction, options.report)


def _html(loaded: SavedNetwork, out: Path, options: ExportOptions) -> None:
    from snn_mnist.export import html

    html.export(loaded, out, options.data_dir)


WRITERS = {"nir": _nir, "hardware": _hardware, "html": _html}
