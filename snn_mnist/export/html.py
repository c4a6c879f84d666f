"""One HTML page that holds the network and runs it on what the user draws. It needs no internet and no server.

page.html is the whole page; the weights, the settings and ten test images are inserted into its element `data`.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, replace
from importlib import resources
from typing import Any

import numpy as np

from snn_mnist import __version__
from snn_mnist.data import pictures
from snn_mnist.data.datasets import DIGITS, FASHION, load_test_images
from snn_mnist.network import scoring
from snn_mnist.network.network import CLASSES, SavedNetwork
from snn_mnist.network.poisson import Stream

MAX_STEPS = 2000  # the page keeps all input spikes as bytes


def render(saved: SavedNetwork) -> str:
    """Return the text of the page."""
    template = resources.files("snn_mnist.export").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("__DATA__", json.dumps(content(saved)).replace("<", "\\u003c"))  # no </script> can end it


def content(saved: SavedNetwork) -> dict[str, Any]:
    """Return the content of the element `data`; where the test images are here, with ten of them and the limits."""
    config, steps = saved.config, min(saved.config.T, MAX_STEPS)
    epochs = f" after {saved.epochs} epoch{'s' if saved.epochs > 1 else ''}" if saved.epochs else ""
    settings = ("neuron", "tau", "v_threshold", "v_reset", "seed", "votes", "encoding")
    found = {name: getattr(config, name) for name in settings}
    found |= {
        "about": f"Trained on {config.dataset}{epochs}, exported by snn_mnist {__version__}",
        "T": steps,
        "stream": int(Stream.PLAY),
        "box": pictures.BOXES[config.dataset],
        "names": FASHION if config.dataset == "fashion" else DIGITS,
        "weight": _base64(saved.net.weight.detach().cpu().numpy().astype("<f4")),
    }
    if test := load_test_images(config.dataset, config.data_dir):
        index = [int((test.labels == c).int().argmax()) for c in range(CLASSES)]
        found |= {"examples": _base64(test.images[index].numpy()), "example_labels": test.labels[index].tolist()}
        if limits := scoring.measure_reliability(saved.net, test, replace(config, T=steps)):
            found["limits"] = asdict(limits)
    return found


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
