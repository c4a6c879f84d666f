"""The data sets, each split as one uint8 tensor: small enough to lie in memory (or on the GPU) as a whole.

MNIST and Fashion-MNIST lie as torchvision puts them, DATA_DIR/MNIST/raw/train-images-idx3-ubyte, uncompressed or as
.gz: a header of 16 bytes before images, 8 before labels, then a byte per pixel or label. torchvision is imported for a
download only: its import takes 1.2 s, reading and checking the four files 0.25 s.
"""

import contextlib
import gzip
import hashlib
import io
import os
import socket
import sys
import tempfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from snn_mnist.errors import SNNError, reason

DIGITS = tuple("0123456789")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FOLDERS = {"mnist": "MNIST", "fashion": "FashionMNIST"}  # also the names of torchvision's classes
MD5 = {  # of the uncompressed files
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
TIMEOUT = 20.0  # seconds without a byte from a mirror after which a download fails


class DataMissing(SNNError):
    """The files are not there and can't be downloaded."""


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
    """Return 'mnist' or 'fashion' from data_dir (downloaded when missing), or the bundled 'digits'.

    Raises DataMissing when files are missing and can't be downloaded, SNNError for a damaged file.
    """
    if name == "digits":
        return _digits()
    raw = Path(data_dir).expanduser() / FOLDERS[name] / "raw"
    if missing := [file for file in MD5[name] if not find_file(file, raw).is_file()]:
        if not download:
            raise DataMissing(f"{FOLDERS[name]} is not in {raw}; train downloads it, or take -dataset digits")
        if why := _download(name, missing, raw):
            raise DataMissing(
                f"{FOLDERS[name]} is not in {raw} (no {', '.join(missing)}) and can't be downloaded ({why}); "
                f"put the files there (.gz or not), or set SNN_MNIST_DATA or -data-dir to the directory above "
                f"{FOLDERS[name]}/raw, or take the bundled digits with -dataset digits"
            )
    contents = [read(find_file(file, raw), md5) for file, md5 in MD5[name].items()]
    arrays = [torch.frombuffer(content, dtype=torch.uint8) for content in contents]
    train, test = (Split(images.view(-1, 784), labels.long()) for images, labels in (arrays[:2], arrays[2:]))
    return Dataset(name, train, test, FASHION if name == "fashion" else DIGITS)


def load_test_images(name: str, data_dir: str) -> Split | None:
    """Return the test images of a data set without a download; None where they are not on this machine."""
    try:
        return load_dataset(name, data_dir, download=False).test
    except SNNError:
        return None


def find_file(file: str, raw: Path) -> Path:
    """Return the path of a file, or of its .gz where it is not uncompressed."""
    return raw / file if (raw / file).is_file() else raw / f"{file}.gz"


def read(path: Path, md5: str) -> bytearray:
    """Return the uncompressed bytes of a file without its header; SNNError that says what is wrong with the file."""
    remedy = "delete it, and the next run downloads it again"
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            data = bytearray(stream.read())
    except (EOFError, zlib.error, OSError) as error:
        raise SNNError(f"{path} can't be read ({reason(error)}); make it readable, or {remedy}") from None
    if (found := hashlib.md5(data, usedforsecurity=False).hexdigest()) != md5:
        raise SNNError(f"{path} is damaged: the md5 of its {len(data):,} bytes is {found} instead of {md5}; {remedy}")
    del data[: 16 if "images" in path.name else 8]
    return data


def _download(name: str, missing: list[str], raw: Path) -> str:
    """Let torchvision download, check and unpack a data set; return '' or the reason why it could not.

    It does so in a temporary directory, from which whole files are moved to `raw`: a failure leaves nothing behind.
    """
    existing = next(folder for folder in (raw, *raw.parents) if folder.exists())
    progress_bar = sys.stderr if sys.stderr.isatty() else io.StringIO()
    timeout = socket.getdefaulttimeout()
    try:
        with tempfile.TemporaryDirectory(prefix=".download-", dir=existing) as scratch:
            from torchvision import datasets

            print(f"downloading {FOLDERS[name]} to {raw}", file=sys.stderr, flush=True)
            socket.setdefaulttimeout(TIMEOUT)  # torchvision waits forever
            with contextlib.redirect_stderr(progress_bar):
                complete = getattr(datasets, FOLDERS[name])(scratch, download=True)
            raw.mkdir(parents=True, exist_ok=True)
            for file in missing:
                os.replace(Path(complete.raw_folder, file), raw / file)
    except (OSError, HTTPException, RuntimeError) as error:  # URLError and timeouts are OSErrors
        return reason(error)
    finally:
        socket.setdefaulttimeout(timeout)
    return ""


def _digits() -> Dataset:
    """Return the 1,797 handwritten digits of digits.md, 8×8 in 17 grey levels, enlarged to 28×28 in 256.

    Always split alike: of the images sorted by class, every fifth is for testing (360; 1,437 for training).
    Enlarged bilinearly in integer arithmetic, so that every machine gets the same pixels.
    """
    table = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.int64)  # 64 pixels, the label
    position = (2 * np.arange(28) + 1) * 8 - 28  # of each pixel among the 8 samples, times 56
    distance = np.abs(position.clip(0, 7 * 56)[:, None] - 56 * np.arange(8))
    weights = (56 - distance).clip(0)  # [28, 8]; rows sum to 56
    sums = weights @ table[:, :64].reshape(-1, 8, 8) @ weights.T  # 0 … 16 · 56²
    scale = 16 * 56**2
    pixels = ((sums * 510 + scale) // (2 * scale)).astype(np.uint8)  # round(255 · sums / scale)
    images, labels = torch.from_numpy(pixels.reshape(-1, 784)), torch.from_numpy(table[:, 64].copy())
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    is_test[labels.argsort(stable=True)[::5]] = True
    train, test = Split(images[~is_test], labels[~is_test]), Split(images[is_test], labels[is_test])
    return Dataset("digits", train, test, DIGITS)
