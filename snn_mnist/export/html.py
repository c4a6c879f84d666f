"""One HTML page that holds the network and runs it on what the user draws. It needs no internet and no server.

page.html is the whole page; the weights, the settings and ten test images are inserted into its element `data`.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from snn_mnist import __version__
from snn_mnist.data import pictures as picture
from snn_mnist.data.datasets import DIGITS, FASHION, Split, load_test_images
from snn_mnist.network import reliability
from snn_mnist.network.network import CLASSES
from snn_mnist.network.poisson import Stream
from snn_mnist.network.saved_network import SavedNetwork
from snn_mnist.storage.atomic_files import make_directory, write_file

MAX_STEPS = 2000  # the page keeps all input spikes as bytes


def export_html(saved: SavedNetwork, out: Path, data_dir: str) -> int:
    """Writes the page; returns its size in bytes."""
    page = render(saved, data_dir).encode()
    make_directory(out.parent, "-out")
    write_file(out, page, "-out")
    return len(page)


def render(saved: SavedNetwork, data_dir: str) -> str:
    """The text of the page."""
    template = resources.files("snn_mnist.export").joinpath("page.html").read_text(encoding="utf-8")
    text = json.dumps(content(saved, data_dir)).replace("<", "\\u003c")  # no </script> can end it
    return template.replace("__DATA__", text)


def content(saved: SavedNetwork, data_dir: str) -> dict[str, Any]:
    """The content of the element `data`."""
    config = saved.config
    weight = saved.net.weight.detach().cpu().numpy()
    test = load_test_images(config.dataset, data_dir)
    epochs = f" after {saved.epochs} epoch{'s' if saved.epochs > 1 else ''}" if saved.epochs else ""
    return {
        "about": f"Trained on {config.dataset}{epochs}, exported by snn_mnist {__version__}",
        "T": min(config.T, MAX_STEPS),
        "neuron": config.neuron,
        "tau": config.tau,
        "v_threshold": config.v_threshold,
        "v_reset": config.v_reset,
        "seed": config.seed,
        "stream": int(Stream.PLAY),
        "box": picture.BOXES[config.dataset],
        "names": list(FASHION if config.dataset == "fashion" else DIGITS),
        "weight": _base64(weight.astype("<f4")),
    } | (examples(test) | limits(saved, test) if test else {})


def examples(test: Split) -> dict[str, Any]:
    """The first test image of each class."""
    labels = test.labels.numpy()
    index = [int((labels == c).argmax()) for c in range(CLASSES)]
    return {"examples": _base64(test.images[index].numpy()), "example_labels": labels[index].tolist()}


def limits(saved: SavedNetwork, test: Split) -> dict[str, Any]:
    """The margin and rate below which a prediction is doubtful."""
    found = reliability.measure(saved.net, test, min(saved.config.T, MAX_STEPS), saved.config.seed)
    return {"limits": asdict(found)} if found else {}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
