"""A network for the tests of export: ridge regression on the bundled digits, no training, no download.

With votes, the neurons of a class are its weights with noise.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snn_mnist.data.datasets import Dataset, load_dataset
from snn_mnist.network.network import SNN, SavedNetwork
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint


@functools.cache
def digits() -> Dataset:
    return load_dataset("digits")


@functools.cache
def weights() -> np.ndarray:
    """[10, 784] float32: least squares from pixels to one-hot labels, scaled so that the neurons fire."""
    data = digits().train
    x = data.images.numpy() / 255
    y = np.eye(10)[data.labels.numpy()]
    w = np.linalg.solve(x.T @ x + 30 * np.eye(784), x.T @ y).T
    return (3 * w).astype(np.float32)


def network(T: int = 30, **settings: Any) -> SavedNetwork:
    config = Config(T=T, dataset="digits", **settings)
    net, random = SNN(config), np.random.default_rng(0)
    weight = np.repeat(weights(), config.votes, 0)
    if config.votes > 1:  # those of a class differ
        weight += random.normal(0, 0.02, weight.shape).astype(np.float32)
    net.load_state_dict({checkpoint.WEIGHT: torch.from_numpy(weight)})
    return SavedNetwork(Path("unsaved.pth"), config, net, True, 0)


def saved(folder: Path, **settings: Any) -> SavedNetwork:
    """The network with a checkpoint in `folder`."""
    loaded = network(**settings)
    path = folder / "checkpoint.pth"
    checkpoint.save(path, {"net": loaded.net.state_dict(), "epoch": 0, "config": loaded.config.to_mapping()})
    return replace(loaded, path=path)
