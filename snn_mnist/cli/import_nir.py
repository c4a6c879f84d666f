"""Verb `import`: a NIR file as a checkpoint.

python -m snn_mnist import mnist.nir
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from snn_mnist.cli.export import DISCRETIZATIONS, refuse_directory
from snn_mnist.settings.config import MAX_T
from snn_mnist.settings.fields import Options, choice, integer, number, option, optional, path
from snn_mnist.terminal import fit


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """Settings of `import`. None means: as the file says."""

    file: str = option(None, path("FILE"), "Files", "the NIR file to read", required=True, positional=True)
    out: str | None = option(
        None, optional(path("FILE")), "Files", "the checkpoint to write", shown="the file with the ending .pth"
    )
    T: int | None = option(None, optional(integer(1, MAX_T)), "NIR", "time steps", shown="the file's, else 100")
    dt: float | None = option(
        None, optional(number(above=0)), "NIR", "seconds a time step stands for", shown="the file's, else 1e-4"
    )
    discretization: str | None = option(
        None,
        optional(choice(DISCRETIZATIONS)),
        "NIR",
        "how the file is meant to be stepped",
        shown="the file's, else euler",
    )


def run(options: ImportOptions) -> None:
    from snn_mnist.export import nir
    from snn_mnist.settings.words import show

    source = Path(options.file)
    out = Path(options.out) if options.out else source.with_suffix(".pth")
    refuse_directory(out)
    config, notes = nir.import_nir(source, out, options.dt, options.discretization, options.T)
    for note in notes:
        print(fit(note))
    print(
        fit(
            f"{out}: {config.neuron} neurons, tau {config.tau:g} steps, v_threshold {config.v_threshold:g}, "
            f"v_reset {show(config.v_reset)}, T {config.T}"
        )
    )
