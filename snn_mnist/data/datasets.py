"""The data sets, each split as one uint8 tensor: small enough to lie in memory (or on the GPU) as a whole."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from snn_mnist.data import idx
from snn_mnist.errors import SNNError

FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Split:
    """Images and labels. The index of an image in its split is one of the coordinates of its spikes."""

    images: torch.Tensor  # [N, 784] uint8
    labels: torch.Tensor  # [N] int64

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    def to(self, device: torch.device | str) -> "Dataset":
        return Dataset(self.name, self.train.to(device), self.test.to(device), self.class_names)


def load_dataset(name: str, data_dir: str | os.PathLike[str] = "./data", download: bool = True) -> Dataset:
    """'mnist' or 'fashion' from data_dir (downloaded when missing), or the bundled 'digits'.

    Raises DataMissing when files are missing and can't be downloaded, SNNError for a damaged file.
    """
    if name == "digits":
        return _digits()
    if name not in idx.FILE_SETS:
        raise ValueError(f"data set {name!r} is unknown; give one of {', '.join((*idx.FILE_SETS, 'digits'))}")
    paths = idx.ensure(name, data_dir, download)
    contents = map(idx.read, paths, idx.FILE_SETS[name].md5.values())
    arrays = [torch.frombuffer(content, dtype=torch.uint8) for content in contents]
    train, test = (Split(images.view(-1, 784), labels.long()) for images, labels in (arrays[:2], arrays[2:]))
    return Dataset(name, train, test, FASHION if name == "fashion" else DIGITS)


def _digits() -> Dataset:
    """The 1,797 handwritten digits of scikit-learn, 8×8 in 17 grey levels, enlarged to 28×28 in 256.

    Always split alike: of the images sorted by class, every fifth is for testing (360; 1,437 for training).
    Enlarged bilinearly in integer arithmetic, so that every machine gets the same pixels.
    """
    table = digits_table()  # a row: 64 pixels 0 … 16, the label
    small = table[:, :64].reshape(-1, 8, 8)
    weights = _bilinear_weights(28, 8)  # rows sum to 2·28
    sums = weights @ small @ weights.T  # 0 … 16 · 56²
    scale = 16 * int(weights[0].sum()) ** 2
    pixels = ((sums * 510 + scale) // (2 * scale)).astype(np.uint8)  # round(255 · sums / scale)
    images = torch.from_numpy(pixels.reshape(-1, 784))
    labels = torch.from_numpy(table[:, 64].copy())
    by_class = labels.argsort(stable=True)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    is_test[by_class[::5]] = True
    train, test = Split(images[~is_test], labels[~is_test]), Split(images[is_test], labels[is_test])
    return Dataset("digits", train, test, DIGITS)


def digits_table() -> np.ndarray:
    """[1797, 65] int64, from the table beside this file; its source and licence are in digits.md."""
    return np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.int64)


def _bilinear_weights(n: int, m: int) -> np.ndarray:
    """W [n, m] int64: row i interpolates m samples at (i + ½) m/n − ½, times 2n; the edges are repeated outwards."""
    position = (2 * np.arange(n) + 1) * m - n  # times 2n
    low, part = position // (2 * n), position % (2 * n)
    weights = np.zeros((n, m), dtype=np.int64)
    rows = np.arange(n)
    np.add.at(weights, (rows, low.clip(0, m - 1)), 2 * n - part)
    np.add.at(weights, (rows, (low + 1).clip(0, m - 1)), part)
    return weights


def load_test_images(name: str, data_dir: str) -> Split | None:
    """The test images of a data set without a download; None where they are not on this machine."""
    try:
        return load_dataset(name, data_dir, download=False).test
    except SNNError:
        return None
