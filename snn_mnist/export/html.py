"""`export -format html`: one page with the network in it, to draw on and watch. It needs no network and no server.

page.html is the whole page; the weights, the settings and ten test images are put into its element `data`.
"""

from __future__ import annotations

import base64
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from snn_mnist import __version__
from snn_mnist.data import pictures as picture
from snn_mnist.data.datasets import DIGITS, FASHION, load_dataset
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.export import files
from snn_mnist.model.network import CLASSES
from snn_mnist.model.poisson import Stream
from snn_mnist.model.saved_network import SavedNetwork

MAX_STEPS = 2000  # the page keeps all input spikes as bytes


def export(loaded: SavedNetwork, out: Path, data_dir: str) -> None:
    """Writes the page `out`."""
    if out.is_dir():
        raise UsageError(f"-out {out} is a directory; name a file")
    page = render(loaded, data_dir)
    files.write(out, page)
    print(f"{out}: {len(page.encode()) / 1024:,.0f} kB; open it in a browser")


def render(loaded: SavedNetwork, data_dir: str) -> str:
    """The page's text."""
    template = resources.files("snn_mnist.export").joinpath("page.html").read_text(encoding="utf-8")
    text = json.dumps(content(loaded, data_dir)).replace("<", "\\u003c")  # no </script> can end it
    return template.replace("__DATA__", text)


def content(loaded: SavedNetwork, data_dir: str) -> dict[str, Any]:
    """What the page is told."""
    config = loaded.config
    weight = loaded.net.weight.detach().cpu().numpy()
    epochs = f" after {loaded.epoch + 1} epochs" if loaded.epoch >= 0 else ""
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
    } | examples(config.dataset, data_dir)


def examples(dataset: str, data_dir: str) -> dict[str, Any]:
    """The first test image of each class, where the data are at hand."""
    try:
        test = load_dataset(dataset, data_dir, download=False).test
    except SNNError:
        return {}
    labels = test.labels.numpy()
    index = [int((labels == c).argmax()) for c in range(CLASSES)]
    return {"examples": _base64(test.images[index].numpy()), "example_labels": labels[index].tolist()}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
