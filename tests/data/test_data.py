"""Data: the right bytes, or an error that names the file; nothing in between."""

import functools
import gzip
import hashlib
import http.server
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_mnist.data import datasets
from snn_mnist.data.datasets import DataMissing, load_dataset
from snn_mnist.errors import SNNError
from tests.conftest import no_network


def idx_bytes(*shape: int, seed: int = 0, high: int = 256) -> bytes:
    header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
    return header + np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8).tobytes()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


CONTENTS = {
    "train-images-idx3-ubyte": idx_bytes(20, 28, 28),
    "train-labels-idx1-ubyte": idx_bytes(20, seed=1, high=10),
    "t10k-images-idx3-ubyte": idx_bytes(10, 28, 28, seed=2),
    "t10k-labels-idx1-ubyte": idx_bytes(10, seed=3, high=10),
}
ZIPPED = {name: gzip.compress(data, mtime=0) for name, data in CONTENTS.items()}
SMALL = {name: md5(data) for name, data in CONTENTS.items()}
IMAGES = "t10k-images-idx3-ubyte"


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of MNIST, a set of thirty random images with their own md5s, for torchvision too."""
    from torchvision.datasets import MNIST

    monkeypatch.setitem(datasets.MD5, "mnist", SMALL)
    monkeypatch.setattr(MNIST, "resources", [(f"{name}.gz", md5(data)) for name, data in ZIPPED.items()])
    for name, value in no_network().items():
        monkeypatch.setenv(name, value)


def write(folder: Path, zipped: tuple[str, ...] = ()) -> Path:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, data in CONTENTS.items():
        if name in zipped:
            (raw / f"{name}.gz").write_bytes(ZIPPED[name])
        else:
            (raw / name).write_bytes(data)
    return raw


# ---------------------------------------------------------------------------- what is loaded


def test_real_mnist(real_mnist: Path):
    data = load_dataset("mnist", real_mnist, download=False)
    assert data.train.images.shape == (60_000, 784) and data.test.images.shape == (10_000, 784)
    assert data.train.images.dtype == torch.uint8 and data.train.labels.dtype == torch.int64
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert round(data.train.images.double().mean().item() / 255, 4) == 0.1307  # as torchvision's examples normalise


def test_the_same_as_torchvision_reads(mnist_dir: Path):
    from torchvision.datasets import MNIST

    ours, theirs = load_dataset("mnist", mnist_dir).test, MNIST(str(mnist_dir), train=False)
    assert [f"{file}.gz" for file in datasets.MD5["mnist"]] == [file for file, _ in MNIST.resources]
    assert torch.equal(ours.images, theirs.data.view(-1, 784)) and torch.equal(ours.labels, theirs.targets)


@pytest.mark.usefixtures("small_mnist")
@pytest.mark.parametrize("zipped", [(), tuple(CONTENTS), ("t10k-images-idx3-ubyte",)])
def test_raw_and_zipped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: tuple[str, ...]):
    """In a directory that can't be written, with an odd name, in the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    raw = write(tmp_path / "数据 and spaces", zipped)
    raw.chmod(stat.S_IRUSR | stat.S_IXUSR)
    data = load_dataset("mnist", "~/数据 and spaces")
    raw.chmod(0o700)
    for split, part in ((data.train, "train"), (data.test, "t10k")):
        assert split.images.numpy().tobytes() == CONTENTS[f"{part}-images-idx3-ubyte"][16:]
        assert split.labels.tolist() == list(CONTENTS[f"{part}-labels-idx1-ubyte"][8:])
        assert len(split) == len(split.labels)
    assert len(os.listdir(raw)) == 4, "reading writes nothing"
    data.train.images[0] = 7  # its own memory, writable


def test_digits_are_enlarged_bilinearly():
    """Against torch's bilinear interpolation of the table; class counts as published with the data set."""
    table = torch.from_numpy(np.loadtxt(Path(datasets.__file__).with_name("digits.csv.gz"), np.int64, delimiter=","))
    small, target = table[:, :64].double().view(-1, 8, 8), table[:, 64]
    big = torch.nn.functional.interpolate(small[:, None], size=(28, 28), mode="bilinear", align_corners=False)
    expected = big[:, 0].flatten(1) * 255 / 16
    assert target.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    data = load_dataset("digits", "/nowhere")
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.test.labels.bincount().tolist() == [36, 36, 36, 36, 37, 36, 36, 36, 35, 36]
    tests = target.argsort(stable=True)[::5].sort().values
    is_train = torch.ones(1797, dtype=torch.bool).index_fill(0, tests, False)
    for split, chosen in ((data.test, tests), (data.train, is_train)):
        assert (split.images.double() - expected[chosen]).abs().max() <= 0.5 + 1e-9
        assert torch.equal(split.labels, target[chosen])
    assert data.train.images.max() == 255 and data.train.images.min() == 0


# ---------------------------------------------------------------------------- damaged files


GOOD, GOOD_GZ = CONTENTS[IMAGES], ZIPPED[IMAGES]


def refused(path: Path) -> str:
    with pytest.raises(SNNError) as caught:
        datasets.read(path, SMALL[IMAGES])
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


@pytest.mark.parametrize("data", [b"", GOOD[:-1], GOOD + b"\0", b"\0\0\x08\x01" + GOOD[4:]])
def test_a_damaged_file(tmp_path: Path, data: bytes):
    raw, zipped = tmp_path / IMAGES, tmp_path / f"{IMAGES}.gz"
    raw.write_bytes(data)
    zipped.write_bytes(gzip.compress(data))
    for path in (raw, zipped):
        message = refused(path)
        assert f"the md5 of its {len(data):,} bytes is {md5(data)} instead of {md5(GOOD)}" in message
        assert "delete it, and the next run downloads it" in message
    assert "can't be read" in refused(tmp_path / "missing") and "can't be read" in refused(tmp_path)


@given(st.data(), st.binary(max_size=9), st.booleans())
def test_any_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, draw, new: bytes, zipped: bool):
    """A header of gzip may change without changing what is in it; pixels never come out different."""
    whole = GOOD_GZ if zipped else GOOD
    start = draw.draw(st.integers(0, len(whole)))
    end = draw.draw(st.one_of(st.integers(start, min(start + 9, len(whole))), st.just(len(whole))))
    path = tmp_path_factory.getbasetemp() / (IMAGES + ".gz" * zipped)
    path.write_bytes(whole[:start] + new + whole[end:])
    try:
        body = datasets.read(path, SMALL[IMAGES])
    except SNNError as error:
        assert str(path) in str(error)
    else:
        assert body == GOOD[16:]


# ---------------------------------------------------------------------------- downloads


@pytest.fixture
def use_mirrors(monkeypatch: pytest.MonkeyPatch, small_mnist: None) -> Callable[..., None]:
    from torchvision.datasets import MNIST

    for name in no_network():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets, "TIMEOUT", 0.5)
    return lambda *ports: monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{port}/" for port in ports])


@pytest.fixture
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A directory with the four .gz, and the port where it is served."""
    folder = tmp_path_factory.mktemp("mirror")
    for name, data in ZIPPED.items():
        (folder / f"{name}.gz").write_bytes(data)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, server.server_port
        server.shutdown()


CLOSED = 9


def test_missing_files_are_downloaded_once(tmp_path: Path, mirror, use_mirrors, capsys: pytest.CaptureFixture):
    use_mirrors(CLOSED, mirror[1])
    data_dir, raw = tmp_path / "new" / "data", tmp_path / "new" / "data" / "MNIST" / "raw"
    data = load_dataset("mnist", data_dir)
    assert data.train.images.numpy().tobytes() == CONTENTS["train-images-idx3-ubyte"][16:]
    assert sorted(os.listdir(raw)) == sorted(CONTENTS) and os.listdir(data_dir) == ["MNIST"]
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"downloading MNIST to {raw}\n")
    use_mirrors(CLOSED)
    load_dataset("mnist", data_dir)


def test_only_what_is_missing_is_written(tmp_path: Path, mirror, use_mirrors):
    use_mirrors(mirror[1])
    raw = write(tmp_path, ("t10k-images-idx3-ubyte",))
    (raw / "t10k-labels-idx1-ubyte").unlink()
    before = {path: path.stat().st_mtime_ns for path in raw.iterdir()}
    load_dataset("mnist", tmp_path)
    after = {path: path.stat().st_mtime_ns for path in raw.iterdir()}
    assert set(after) - set(before) == {raw / "t10k-labels-idx1-ubyte"} and before.items() <= after.items()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("mode", "words"), [("missing", "404"), ("wrong", "corrupted"), ("cut", "corrupted"), ("silent", "timed out")]
)
def test_a_download_that_fails_leaves_nothing_and_names_the_ways_on(
    tmp_path: Path, mirror, use_mirrors, mode: str, words: str
):
    folder, port = mirror
    for file in folder.iterdir():
        data = file.read_bytes()
        file.unlink()
        if mode != "missing":
            file.write_bytes(data[::-1] if mode == "wrong" else data[: len(data) // 2])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_mirrors(silent.getsockname()[1] if mode == "silent" else port)
        socket.setdefaulttimeout(7.5)
        with pytest.raises(DataMissing) as caught:
            load_dataset("mnist", tmp_path / "mistyped" / "data")
    assert socket.getdefaulttimeout() == 7.5, "that of all sockets of the process is what it was"
    socket.setdefaulttimeout(None)
    message = str(caught.value)
    assert words in message.lower() and "\n" not in message
    assert str(tmp_path / "mistyped" / "data" / "MNIST" / "raw") in message
    assert all(way in message for way in ("put the files there", "SNN_MNIST_DATA", "-dataset digits"))
    assert os.listdir(tmp_path) == []


def test_without_a_network_and_where_nothing_can_be_written(tmp_path: Path, small_mnist: None):
    (tmp_path / "file").write_text("")
    for place, why in (("", "Error downloading"), ("file", "Not a")):
        with pytest.raises(DataMissing, match=rf"no train-images.*can't be downloaded \({why}"):
            load_dataset("mnist", tmp_path / place)
    with pytest.raises(DataMissing, match="train downloads it"):
        load_dataset("mnist", tmp_path, download=False)
