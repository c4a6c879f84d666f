"""Verbs `export` and `import`: a checkpoint in the formats of other programs, hardware and the browser, and back.

    python -m snn_mnist export -resume last -format nir -out mnist.nir -verify

docs/interop.md explains the formats.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snn_mnist.cli.shared import SavedNetworkOptions, open_checkpoint
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import MAX_T
from snn_mnist.settings.options import Options, option, options_of, show
from snn_mnist.storage.atomic_files import make_directory, write_file
from snn_mnist.terminal import say, wrapped

if TYPE_CHECKING:
    from snn_mnist.network.network import SavedNetwork

DISCRETIZATIONS, SCALES = ("euler", "exact"), ("tensor", "neuron")
VERIFIED = 100  # test images that -verify compares
ENDINGS = {"nir": ".nir", "hardware": "_hardware", "html": ".html"}  # of the default name, by format
FORMATS = "a NIR graph, integer weights with C and Verilog files, or a page to play with"
STEPPING = "how the importer integrates: by forward Euler, or exact, by the exponential"


@dataclass(frozen=True, kw_only=True)
class ExportOptions(SavedNetworkOptions):
    """Settings of `export`."""

    format: str = option("nir", "Files", FORMATS, choices=tuple(ENDINGS))
    out: str | None = option(
        None, "Files", "the file (hardware: directory) to write", metavar="PATH", shown="next to the checkpoint"
    )
    dt: float = option(1e-4, "NIR", "duration of a time step in seconds", above=0)
    discretization: str = option("euler", "NIR", STEPPING, choices=DISCRETIZATIONS)
    allow_lossy: bool = option(False, "NIR", "write a soft reset as a reset to 0, because NIR has none")
    verify: bool = option(False, "NIR", "read the file back and compare its spikes, also in the simulators found here")
    bits: int = option(8, "Hardware", "bits of an integer weight", low=4, high=16)
    scale: str = option("tensor", "Hardware", "one scale for all weights or for each neuron", choices=SCALES)
    fraction: int | None = option(
        None, "Hardware", "fraction bits of a potential", low=0, high=16, shown="as many as give the threshold 12 bits"
    )
    report: bool = option(True, "Hardware", "measure the accuracy at 16, 8, 6 and 4 bits on the whole test set")

    def notes(self) -> list[str]:
        reasons = {
            each.name: f"it is for -format {each.group.lower()}"
            for each in options_of(ExportOptions)
            if each.group in ("NIR", "Hardware") and each.group.lower() != self.format
        }
        if self.format == "nir" and not self.verify:
            reasons |= dict.fromkeys(("seed", "data_dir"), "it is for -verify")
        return super().notes() + self.without_effect(reasons)


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """Settings of `import`. None means: as the file says."""

    file: str = option(None, "Files", "the NIR file to read", metavar="FILE", required=True, positional=True)
    out: str | None = option(
        None, "Files", "the checkpoint to write", metavar="FILE", shown="the file with the ending .pth"
    )
    T: int | None = option(None, "NIR", "time steps", low=1, high=MAX_T, shown="the file's, else 100")
    dt: float | None = option(None, "NIR", "duration of a time step in seconds", above=0, shown="the file's, else 1e-4")
    discretization: str | None = option(
        None, "NIR", "how the file is meant to be integrated", choices=DISCRETIZATIONS, shown="the file's, else euler"
    )


def run(options: ExportOptions) -> None:
    from snn_mnist.export import hardware, html

    saved = open_checkpoint(options)
    if saved.config.net and options.format != "nir":
        raise UsageError(f"-format {options.format} takes the single layer, not {saved.config.net}; give -format nir")
    out = Path(options.out) if options.out else saved.path.with_name(saved.path.stem + ENDINGS[options.format])
    if options.format == "hardware":
        if options.report:
            say("measuring the accuracy of each weight width on all test images")
        report = hardware.export_hardware(saved, out, options.bits, options.scale, options.fraction, options.report)
        print(f"{wrapped(report.rstrip(), indent='')}\n\nwritten to {out}")
        print(f"the C reference: cd {shlex.quote(str(out))} && cc -std=c99 -O2 -o snn_infer snn_infer.c")
    elif options.format == "nir":
        _export_nir(saved, out, options)
    else:
        page = html.render(saved).encode()
        make_directory(out.parent, "-out")
        write_file(out, page, "-out")
        print(f"{out}: {len(page) / 1024:,.0f} kB; open it in a browser")


def _export_nir(saved: SavedNetwork, out: Path, options: ExportOptions) -> None:
    from snn_mnist.data.datasets import load_dataset
    from snn_mnist.export import nir, verify

    about = nir.export_nir(saved, out, options.dt, options.discretization, options.allow_lossy)
    print(wrapped(f"{out}: {about}"))
    if not options.verify:
        return
    images = load_dataset(saved.config.dataset, saved.config.data_dir).test.images[:VERIFIED]
    say("comparing its spikes with those of the network, also in the simulators found here")
    found = verify.compare(out, saved, images, options.dt, options.discretization)
    lines = "\n".join(f"  {name}: {result}" for name, result in found.items())
    print(f"verified on {len(images):,} test images x {saved.config.T} steps:\n{wrapped(lines, indent='    ')}")
    loop = next(iter(found.values()))
    if isinstance(loop, verify.Agreement) and loop.different and not options.allow_lossy:
        raise SNNError(f"{out} does not give this network's spikes: {loop}; please report this")


def run_import(options: ImportOptions) -> None:
    from snn_mnist.export import nir

    source = Path(options.file)
    out = Path(options.out) if options.out else source.with_suffix(".pth")
    config, notes = nir.import_nir(source, out, options.dt, options.discretization, options.T)
    about = f"{out}: {config.neuron} neurons, tau {config.tau:g} steps, v_threshold {config.v_threshold:g}"
    print(wrapped("\n".join([*notes, f"{about}, v_reset {show(config.v_reset)}, T {config.T}"])))
