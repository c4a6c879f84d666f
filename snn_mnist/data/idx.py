"""The files of MNIST and Fashion-MNIST: read and checked, and downloaded by torchvision where they are missing.

They lie as torchvision puts them, DATA_DIR/MNIST/raw/train-images-idx3-ubyte, uncompressed or as .gz: a header of 16
bytes before images, 8 before labels, then a byte per pixel or label. torchvision is imported for a download only: its
import takes 1.2 s, reading and checking the four files 0.25 s.
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
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from snn_mnist.errors import SNNError

TIMEOUT = 20.0  # seconds without a byte from a mirror after which a download fails
MAX_BYTES = 47_040_016  # of the largest file, uncompressed


class DataMissing(SNNError):
    """The files are not there and can't be downloaded."""


@dataclass(frozen=True)
class FileSet:
    """A data set in four files."""

    title: str
    folder: str  # also the name of torchvision's class
    md5: dict[str, str]  # of each uncompressed file: images and labels for training, images and labels for testing


FILE_SETS = {
    "mnist": FileSet(
        "MNIST",
        "MNIST",
        {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
    ),
    "fashion": FileSet(
        "Fashion-MNIST",
        "FashionMNIST",
        {
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
    ),
}


def raw_directory(name: str, data_dir: str | os.PathLike[str]) -> Path:
    return Path(data_dir).expanduser() / FILE_SETS[name].folder / "raw"


def find(file: str, raw: Path) -> Path | None:
    """The path of a file, else of its .gz, else None."""
    return next((path for path in (raw / file, raw / f"{file}.gz") if path.is_file()), None)


def read(path: Path, md5: str) -> bytearray:
    """The uncompressed bytes of a file without its header; SNNError that names the path and what is wrong."""
    try:
        zipped = path.suffix == ".gz"
        with gzip.open(path) if zipped else path.open("rb") as stream:
            data = bytearray(1 + (MAX_BYTES if zipped else min(path.stat().st_size, MAX_BYTES)))
            del data[stream.readinto(data) :]
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        damage = "" if found == md5 else f"the md5 of its {len(data):,} bytes is {found} instead of {md5}"
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        damage = f"a broken .gz ({error})"
    except OSError as error:
        raise SNNError(f"{path}: {(error.strerror or str(error)).lower()}; make the file readable") from None
    if damage:
        raise SNNError(f"{path} is damaged: {damage}; delete it, and the next run downloads it again")
    del data[: 16 if "images" in path.name else 8]
    return data


# ---------------------------------------------------------------------------- downloading


def ensure(name: str, data_dir: str | os.PathLike[str], download: bool = True) -> list[Path]:
    """The paths of the four files, downloaded where missing; DataMissing says what else the user can do."""
    files, raw = FILE_SETS[name], raw_directory(name, data_dir)
    missing = [file for file in files.md5 if find(file, raw) is None]
    if missing:
        reason = _download(files, missing, raw) if download else "not downloaded"
        if reason:
            raise DataMissing(
                f"{files.title} is not in {raw} (no {', '.join(missing)}) and can't be downloaded ({reason}); "
                f"put the files there (.gz or not), or set SNN_MNIST_DATA or -data-dir to the directory above "
                f"{files.folder}/raw, or take the bundled digits with -dataset digits"
            )
    return [path for file in files.md5 if (path := find(file, raw))]


def _download(files: FileSet, missing: list[str], raw: Path) -> str:
    """torchvision downloads, checks and unpacks the data set; '' or the reason why it could not.

    It does so in a temporary directory, from which whole files are moved to `raw`: a failure leaves nothing behind.
    """
    existing = next(folder for folder in (raw, *raw.parents) if folder.exists())
    progress_bar = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with tempfile.TemporaryDirectory(prefix=".download-", dir=existing) as scratch:
            from torchvision import datasets

            print(f"downloading {files.title} to {raw}", file=sys.stderr, flush=True)
            with _socket_timeout(TIMEOUT), contextlib.redirect_stderr(progress_bar):
                complete = getattr(datasets, files.folder)(scratch, download=True)
            raw.mkdir(parents=True, exist_ok=True)
            for file in missing:
                os.replace(Path(complete.raw_folder, file), raw / file)
    except (OSError, HTTPException, RuntimeError) as error:  # URLError and timeouts are OSErrors
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return " ".join(text.split())
    return ""


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision opens URLs without a timeout: a network that loses packets would block it for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
