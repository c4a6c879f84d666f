"""Verb `import`: a NIR file as a checkpoint.

python -m snn_mnist import mnist.nir
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from snn_mnist.cli.export import DISCRETIZATIONS, refuse_directory
from snn_mnist.settings.config import MAX_T
from snn_mnist.settings.options import Options, option
from snn_mnist.terminal import wrapped


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


def run(options: ImportOptions) -> None:
    from snn_mnist.export import nir
    from snn_mnist.settings.options import show

    source = Path(options.file)
    out = Path(options.out) if options.out else source.with_suffix(".pth")
    refuse_directory(out)
    config, notes = nir.import_nir(source, out, options.dt, options.discretization, options.T)
    about = f"{out}: {config.neuron} neurons, tau {config.tau:g} steps, v_threshold {config.v_threshold:g}"
    print(wrapped("\n".join([*notes, f"{about}, v_reset {show(config.v_reset)}, T {config.T}"])))
