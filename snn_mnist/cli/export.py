"""Verbs `export` and `import`: a checkpoint in the formats of other programs, hardware and the browser.

python -m snn_mnist export -resume logs/T100_b64_adam_lr0.001 -format nir -out mnist.nir -verify
python -m snn_mnist import mnist.nir
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from snn_mnist.cli.verb_settings import ExportOptions, ImportOptions
from snn_mnist.errors import SNNError, UsageError

if TYPE_CHECKING:
    from snn_mnist.model.saved_network import SavedNetwork

ENDINGS = {"nir": ".nir", "hardware": "_hardware", "html": ".html"}  # of the default name, by format


def run(options: ExportOptions) -> None:
    """Verb `export`."""
    from snn_mnist.export import hardware, html
    from snn_mnist.model.saved_network import load_network

    saved = load_network(options.resume, T=options.T, tau=options.tau, seed=options.seed)
    if not saved.has_settings and (options.T is None or options.tau is None):
        print(
            f"{saved.path} does not hold tau and T: using {saved.config.tau:g} and {saved.config.T}; "
            "-tau and -T change them"
        )
    out = Path(options.out) if options.out else saved.path.with_name(saved.path.stem + ENDINGS[options.format])
    if options.format == "hardware":
        if out.is_file():
            raise UsageError(f"-out {out} is a file; name a directory")
        settings = (options.bits, options.scale, options.fraction, options.report)
        print(hardware.export_hardware(saved, out, options.data_dir, *settings).rstrip())
        print(f"\nwritten to {out}; the C reference: cc -std=c99 -O2 -o snn_infer snn_infer.c")
        return
    _refuse_directory(out)
    if options.format == "nir":
        _export_nir(saved, out, options)
    else:
        size = html.export_html(saved, out, options.data_dir)
        print(f"{out}: {size / 1024:,.0f} kB; open it in a browser")


def _export_nir(saved: SavedNetwork, out: Path, options: ExportOptions) -> None:
    from snn_mnist.data.datasets import load_dataset
    from snn_mnist.export import nir, verify

    dt, discretization = options.dt, options.discretization
    graph = nir.export_nir(saved, out, dt, discretization, options.threshold, options.allow_lossy)
    print(f"{out}: {nir.describe(graph)}")
    if not options.verify:
        return
    images = load_dataset(saved.config.dataset, options.data_dir).test.images[: options.verify_images]
    found = verify.compare(out, saved, images, dt, discretization)
    print(f"verified on {len(images):,} test images x {saved.config.T} steps:\n{found}")
    if found.loop.different and not options.allow_lossy:
        raise SNNError(
            f"{out} does not give this network's spikes: {found.loop}; {found.first_difference}; please report this"
        )


def run_import(options: ImportOptions) -> None:
    """Verb `import`."""
    from snn_mnist.export import nir
    from snn_mnist.runs.fields import show

    source = Path(options.file)
    out = Path(options.out) if options.out else source.with_suffix(".pth")
    _refuse_directory(out)
    config, notes = nir.import_nir(source, out, options.dt, options.discretization, options.T)
    for note in notes:
        print(note)
    print(
        f"{out}: {config.neuron} neurons, tau {config.tau:g} steps, v_threshold {config.v_threshold:g}, "
        f"v_reset {show(config.v_reset)}, T {config.T}"
    )


def _refuse_directory(out: Path) -> None:
    if out.is_dir():
        raise UsageError(f"-out {out} is a directory; name a file")
