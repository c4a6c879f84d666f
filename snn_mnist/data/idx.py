"""The files of MNIST and Fashion-MNIST: found, checked, downloaded. Stdlib only, torchvision for a download.

They lie in torchvision's layout, DATA_DIR/MNIST/raw/train-images-idx3-ubyte, with or without .gz. An idx file
is big-endian: 0, 0, 8 (unsigned bytes), number of dimensions, each dimension as 4 bytes, then the bytes.
"""

import contextlib
import gzip
import hashlib
import os
import socket
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from io import BufferedReader
from pathlib import Path

from snn_mnist.errors import SNNError

TIMEOUT = 20.0  # seconds without a byte from a mirror before it counts as out of reach


class DataMissing(SNNError):
    """The files are not there and can't be downloaded."""


@dataclass(frozen=True)
class File:
    """One idx file: its name, its dimensions, the md5 of its bytes and of the published .gz."""

    name: str
    shape: tuple[int, ...]
    md5: str | None  # of the uncompressed file; None where the publisher states none
    gz_md5: str

    @property
    def header(self) -> bytes:
        return struct.pack(f">4B{len(self.shape)}I", 0, 0, 8, len(self.shape), *self.shape)

    @property
    def size(self) -> int:
        size = 1
        for n in self.shape:
            size *= n
        return len(self.header) + size


@dataclass(frozen=True)
class FileSet:
    """A data set of four files, in the order train images, train labels, test images, test labels."""

    title: str
    folder: str  # torchvision's class of this name knows the mirrors
    files: tuple[File, File, File, File]


def _file_set(title: str, folder: str, md5: list[str | None], gz_md5: list[str]) -> FileSet:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    shapes: list[tuple[int, ...]] = [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)]
    a, b, c, d = (File(f"{names[i]}-ubyte", shapes[i], md5[i], gz_md5[i]) for i in range(4))
    return FileSet(title, folder, (a, b, c, d))


FILE_SETS = {
    "mnist": _file_set(
        "MNIST",
        "MNIST",
        [
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ],
        [
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ],
    ),
    "fashion": _file_set(
        "Fashion-MNIST",
        "FashionMNIST",
        [None] * 4,
        [
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ],
    ),
}


def raw_directory(name: str, data_dir: str | os.PathLike[str]) -> Path:
    return Path(data_dir) / FILE_SETS[name].folder / "raw"


def find(file: File, raw: Path) -> Path | None:
    """The file, else its .gz, else None."""
    for path in (raw / file.name, raw / f"{file.name}.gz"):
        if path.is_file():
            return path
    return None


# ---------------------------------------------------------------------------- reading


def read(file: File, path: Path) -> memoryview:
    """The bytes behind the header of an idx file, checked; SNNError that names the path and the fault."""
    zipped = path.suffix == ".gz"
    try:
        with path.open("rb") as stream:
            if zipped and file.md5 is None:
                _demand(path, hashlib.file_digest(stream, _md5).hexdigest(), file.gz_md5)
                stream.seek(0)
            data = _read_bounded(stream, file.size + 1, zipped)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"a broken .gz ({error})") from None
    except OSError as error:
        raise SNNError(f"{path}: {(error.strerror or str(error)).lower()}; make the file readable") from None
    if len(data) != file.size:
        found = "more" if len(data) > file.size else f"{len(data):,}"
        raise _damaged(path, f"{found} bytes{' unpacked' if zipped else ''} instead of {file.size:,}")
    if data[: len(file.header)] != file.header:
        wanted, found = file.header.hex(" ", 4), data[: len(file.header)].hex(" ", 4)
        raise _damaged(path, f"its header is {found} instead of {wanted}")
    body = memoryview(data)[len(file.header) :]
    if file.md5 is not None:
        _demand(path, _md5(data).hexdigest(), file.md5)
    elif len(file.shape) == 1:  # no md5, but it is known that the ten classes are equally large
        counts = [bytes(body).count(label) for label in range(10)]
        if counts != [len(body) // 10] * 10:
            raise _damaged(path, f"its classes have {counts} images instead of {len(body) // 10} each")
    return body


def _read_bounded(stream: BufferedReader, limit: int, zipped: bool) -> bytearray:
    """At most `limit` bytes, unpacked where zipped, however many there are."""
    data = bytearray(limit)
    view, n = memoryview(data), 0
    with gzip.GzipFile(fileobj=stream) if zipped else contextlib.nullcontext(stream) as source:
        while n < limit and (got := source.readinto(view[n:])):
            n += got
    view.release()
    del data[n:]
    return data


def _md5(data: bytes | bytearray = b"") -> "hashlib._Hash":
    return hashlib.md5(data, usedforsecurity=False)


def _demand(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise _damaged(path, f"its md5 is {found} instead of {wanted}")


def _damaged(path: Path, error: str) -> SNNError:
    return SNNError(f"{path} is damaged: {error}; delete it, and the next run downloads it again")


# ---------------------------------------------------------------------------- downloading


def ensure(name: str, data_dir: str | os.PathLike[str], download: bool = True) -> list[Path]:
    """The paths of the four files, downloaded where missing; DataMissing names the ways on."""
    files = FILE_SETS[name]
    raw = raw_directory(name, data_dir)
    missing = [file for file in files.files if find(file, raw) is None]
    if missing:
        reason = _download(files, missing, raw) if download else "not downloaded"
        if reason:
            raise DataMissing(
                f"{files.title} is not in {raw} (no {', '.join(file.name for file in missing)}) and can't be "
                f"downloaded ({reason}); put the files there (.gz or not), or set SNN_MNIST_DATA or "
                f"-data-dir to the directory above {files.folder}/raw, or take the bundled digits with "
                "-dataset digits"
            )
    return [path for file in files.files if (path := find(file, raw))]


def _download(files: FileSet, missing: list[File], raw: Path) -> str:
    """Fetch what is missing; '' or the reason why not. A file gets its name when it is complete."""
    try:
        with _directory(raw), tempfile.TemporaryDirectory(prefix=".download-", dir=raw) as scratch:
            from torchvision import datasets

            mirrors = getattr(datasets, files.folder).mirrors
            print(f"downloading {files.title} to {raw}", file=sys.stderr, flush=True)
            for file in missing:
                if reason := _fetch(file, mirrors, Path(scratch)):
                    return reason
                os.replace(Path(scratch) / f"{file.name}.gz", raw / f"{file.name}.gz")
    except OSError as error:
        return f"{error.filename or raw}: {(error.strerror or str(error)).lower()}"
    return ""


@contextlib.contextmanager
def _directory(folder: Path) -> Iterator[None]:
    """Makes it, and removes what was made when nothing has come into it, as after a mistyped -data-dir."""
    absent = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for one in absent:
            with contextlib.suppress(OSError):  # it is not empty
                one.rmdir()


def _fetch(file: File, mirrors: list[str], folder: Path) -> str:
    """One .gz from the first mirror that has it whole; '' or why the last one failed."""
    from urllib.error import HTTPError

    from torchvision.datasets.utils import download_url

    reason = "no mirror"
    for mirror in mirrors:
        try:
            with _patience(TIMEOUT), _quiet():
                download_url(f"{mirror}{file.name}.gz", str(folder), f"{file.name}.gz", file.gz_md5)
            return ""
        except (OSError, HTTPException, RuntimeError) as error:  # URLError and timeouts are OSErrors
            inner = error if isinstance(error, HTTPError) else getattr(error, "reason", error)
            lines = str(inner).strip().splitlines()
            reason = f"{mirror}: {lines[0] if lines else type(error).__name__}"
            (folder / f"{file.name}.gz").unlink(missing_ok=True)
    return reason


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """torchvision opens URLs without a timeout; a network that loses packets would hang it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar where nobody watches it."""
    if sys.stderr.isatty():
        yield
    else:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
