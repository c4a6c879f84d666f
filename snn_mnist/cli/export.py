"""Verb `export`: a checkpoint in the formats of other programs, hardware and the browser.

    python -m snn_mnist export -resume last -format nir -out mnist.nir -verify

docs/interop.md explains the formats.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snn_mnist.cli.shared_options import (
    checkpoint_option,
    open_checkpoint,
    out_dir_option,
    saved_option,
    seed_option,
    tau_option,
)
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import train_option
from snn_mnist.settings.options import Options, option, options_of
from snn_mnist.terminal import fit, say

if TYPE_CHECKING:
    from snn_mnist.network.saved_network import SavedNetwork

DISCRETIZATIONS = ("euler", "exact")
VERIFIED = 100  # test images that -verify compares
ENDINGS = {"nir": ".nir", "hardware": "_hardware", "html": ".html"}  # of the default name, by format


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Settings of `export`. None means: as in the checkpoint."""

    resume: str = checkpoint_option()
    out_dir: str = out_dir_option()
    format: str = option(
        "nir",
        "Files",
        "a NIR graph, integer weights with C and Verilog files, or a page to play with",
        choices=tuple(ENDINGS),
    )
    out: str | None = option(
        None, "Files", "the file (hardware: directory) to write", path="PATH", shown="next to the checkpoint"
    )
    T: int | None = saved_option("T", "Network")
    tau: float | None = tau_option("Network")
    dt: float = option(1e-4, "NIR", "duration of a time step in seconds", above=0)
    discretization: str = option(
        "euler",
        "NIR",
        "how the importer integrates: by forward Euler, or exact, by the exponential",
        choices=DISCRETIZATIONS,
    )
    allow_lossy: bool = option(False, "NIR", "write a soft reset as a reset to 0, because NIR has none")
    verify: bool = option(False, "NIR", "read the file back and compare its spikes, also in the simulators found here")
    bits: int = option(8, "Hardware", "bits of an integer weight", low=4, high=16)
    scale: str = option(
        "tensor", "Hardware", "one scale for all weights or one for each neuron", choices=("tensor", "neuron")
    )
    fraction: int | None = option(
        None,
        "Hardware",
        "fraction bits of a membrane potential",
        low=0,
        high=16,
        shown="as many as give the threshold 12 bits",
    )
    report: bool = option(True, "Hardware", "measure the accuracy at 16, 8, 6 and 4 bits on the whole test set")
    seed: int | None = seed_option("Data")
    data_dir: str = train_option("data_dir")

    def notes(self) -> list[str]:
        reasons = {
            each.name: f"it is for -format {each.group.lower()}"
            for each in options_of(ExportOptions)
            if each.group in ("NIR", "Hardware") and each.group.lower() != self.format
        }
        if self.format == "nir" and not self.verify:
            reasons |= dict.fromkeys(("seed", "data_dir"), "it is for -verify")
        return super().notes() + self.without_effect(reasons)


def run(options: ExportOptions) -> None:
    from snn_mnist.export import hardware, html

    saved = open_checkpoint(options)
    out = Path(options.out) if options.out else saved.path.with_name(saved.path.stem + ENDINGS[options.format])
    if options.format == "hardware":
        if out.is_file():
            raise UsageError(f"-out {out} is a file; name a directory")
        settings = (options.bits, options.scale, options.fraction, options.report)
        if options.report:
            say("measuring the accuracy of each weight width on all test images")
        print(fit(hardware.export_hardware(saved, out, *settings).rstrip(), indent=""))
        print(f"\nwritten to {out}\nthe C reference: cd {shlex.quote(str(out))} && "
              "cc -std=c99 -O2 -o snn_infer snn_infer.c")  # fmt: skip
        return
    refuse_directory(out)
    if options.format == "nir":
        _export_nir(saved, out, options)
    else:
        size = html.export_html(saved, out)
        print(f"{out}: {size / 1024:,.0f} kB; open it in a browser")


def _export_nir(saved: SavedNetwork, out: Path, options: ExportOptions) -> None:
    from snn_mnist.data.datasets import load_dataset
    from snn_mnist.export import nir, verify

    dt, discretization = options.dt, options.discretization
    graph = nir.export_nir(saved, out, dt, discretization, options.allow_lossy)
    print(fit(f"{out}: {nir.describe(graph)}"))
    if not options.verify:
        return
    images = load_dataset(saved.config.dataset, saved.config.data_dir).test.images[:VERIFIED]
    say("comparing its spikes with those of the network, also in the simulators found here")
    found = verify.compare(out, saved, images, dt, discretization)
    print(f"verified on {len(images):,} test images x {saved.config.T} steps:\n{fit(str(found), indent='    ')}")
    if found.loop.different and not options.allow_lossy:
        raise SNNError(
            f"{out} does not give this network's spikes: {found.loop}; {found.first_difference}; please report this"
        )


def refuse_directory(out: Path) -> None:
    if out.is_dir():
        raise UsageError(f"-out {out} is a directory; name a file")
