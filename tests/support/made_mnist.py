"""Four files in MNIST's format and sizes where MNIST is not there: the bundled digits, shifted at random."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from snn_mnist.data.datasets import Split, load_dataset


def write(folder: Path) -> dict[str, str]:
    """Writes folder/MNIST/raw/…; returns the md5 of each file."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    data, sums = load_dataset("digits"), {}
    for name, split, count in (("train", data.train, 60_000), ("t10k", data.test, 10_000)):
        images, labels = shifted(split, count)
        header = (0x803, count, 28, 28), (0x801, count)
        contents = {f"{name}-images-idx3-ubyte": (header[0], images), f"{name}-labels-idx1-ubyte": (header[1], labels)}
        for file, (numbers, values) in contents.items():
            content = np.array(numbers, ">u4").tobytes() + values.tobytes()
            (raw / file).write_bytes(content)
            sums[file] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return sums


def shifted(split: Split, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [count, 28, 28] and labels [count], both uint8: those of the split again and again, by up to a pixel."""
    random = np.random.default_rng(0)
    chosen = np.arange(count) % len(split)
    images = split.images.numpy().reshape(-1, 28, 28)[chosen]
    down, right = random.integers(-1, 2, (2, count))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            moved = (down == dy) & (right == dx)
            images[moved] = np.roll(images[moved], (dy, dx), (1, 2))
    return images, split.labels.numpy()[chosen].astype(np.uint8)
