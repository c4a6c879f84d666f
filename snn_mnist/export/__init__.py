"""Verbs `export` and `import`: a checkpoint in the formats of other programs, hardware and the browser.

    python -m snn_mnist export -resume logs/T100_b64_adam_lr0.001 -format nir -out mnist.nir -verify
    python -m snn_mnist import mnist.nir

Each format is one module of this package with `export(loaded, out, options)`; docs/interop.md explains them.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from snn_mnist.cli.verb_settings import ExportOptions, ImportOptions
from snn_mnist.model.saved_network import SavedNetwork, load_network

FORMATS = {"nir": ("nir", ".nir"), "hardware": ("hardware", "_hardware"), "html": ("html", ".html")}
"""Format -> its module here and the ending of its default name."""


def run(options: ExportOptions) -> None:
    """Verb `export`."""
    loaded = load_network(options.resume, T=options.T, tau=options.tau, seed=options.seed)
    if not loaded.has_settings and (options.T is None or options.tau is None):
        print(
            f"{loaded.path} says nothing of tau and T: using {loaded.config.tau:g} and {loaded.config.T}; "
            "-tau and -T change them"
        )
    module, ending = FORMATS[options.format]
    out = Path(options.out) if options.out else default_out(loaded, ending)
    importlib.import_module(f"{__name__}.{module}").export(loaded, out, options)


def default_out(loaded: SavedNetwork, ending: str) -> Path:
    """logs/run/checkpoint_max.pth as logs/run/checkpoint_max.nir"""
    return loaded.path.with_name(loaded.path.stem + ending)


def run_import(options: ImportOptions) -> None:
    """Verb `import`."""
    from snn_mnist.export import nir

    nir.import_file(options)
