"""Checkpoints: what is saved comes back and others can read it; what is damaged or none is refused in one line."""

import contextlib
import itertools
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torture

from snn_mnist.errors import SNNError
from snn_mnist.storage import checkpoint
from snn_mnist.storage.checkpoint import WEIGHT, Best, Position, load_plain
from tests.support.runs import train_run

SHAPE, NAN, INF = (10, 784), float("nan"), float("inf")


@pytest.fixture(scope="module", params=["adam", "sgd"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a small run."""
    small = {"T": 4, "b": 16, "limit_batches": 4, "epochs": 1, "j": 1}
    return train_run(tmp_path_factory.mktemp("run"), **small, opt=request.param) / checkpoint.LATEST


@pytest.fixture
def state(file: Path) -> dict[str, Any]:
    return checkpoint.load(file)


def refused(path: Path) -> str:
    """The message of the refusal, which is one short line that names the file and a remedy."""
    with pytest.raises(SNNError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert caught.value.exit_code == 1 and message.startswith(str(path))
    assert "\n" not in message and len(message) < len(str(path)) + 400 and "; " in message
    return message


# ---------------------------------------------------------------------------- what is read


def test_torch_reads_what_we_write_and_we_read_the_same(file: Path):
    for path in (file, file.with_name(checkpoint.BEST)):
        assert torture.same(checkpoint.load(path), torch.load(path, weights_only=True))


def test_a_position_is_the_same_read_with_pytorch_and_without(state: dict[str, Any], tmp_path: Path):
    position = Position(7, 3, 1.5, 0.9, Best(5, 0.8, 0.7))
    running = {"rates": torch.zeros(48, 10), "seconds": 1.5, "skipped": 0}
    checkpoint.save(tmp_path / "c.pth", state | position.entries() | {"running": running})
    assert Position.of(checkpoint.load(tmp_path / "c.pth")) == Position.of(load_plain(tmp_path / "c.pth")) == position
    assert Position.of({}) == Position() and Position().entries()["epoch"] == -1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_alone_of_any_floating_point_type_are_a_checkpoint(tmp_path: Path, dtype: torch.dtype):
    torch.save({"net": {WEIGHT: torch.ones(SHAPE, dtype=dtype)}}, tmp_path / "w.pth")
    assert checkpoint.load(tmp_path / "w.pth")["net"][WEIGHT].dtype == dtype


# ---------------------------------------------------------------------------- what is no checkpoint


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no checkpoint "),
        (lambda path: path.mkdir(), "there is no checkpoint .*checkpoint_latest.pth"),
        (lambda path: path.symlink_to("/dev/zero"), "there is no checkpoint "),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="devices and pipes of POSIX")
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], Any], words: str):
    make(tmp_path / "x")
    with pytest.raises(SNNError, match=words) as caught:
        checkpoint.load(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value) and caught.value.exit_code == 2
    with pytest.raises(SNNError):
        checkpoint.load("x" * 5000)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", pickle.dumps({"net": {}}), bytes(100_000)])
def test_what_is_no_archive(tmp_path: Path, content: bytes):
    """As torch's old format is none."""
    (tmp_path / "x.pth").write_bytes(content)
    assert "is damaged or not a checkpoint (File is not a zip file)" in refused(tmp_path / "x.pth")
    with pytest.raises(SNNError, match=r"x.pth is damaged"):
        load_plain(tmp_path / "x.pth")


# ---------------------------------------------------------------------------- damage


@pytest.mark.parametrize("n", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_cut_short_flipped_and_overwritten(file: Path, tmp_path: Path, n: int):
    counts = torture.damage(file, tmp_path / "damaged.pth", n)
    assert counts["flipped bits"] == n and counts["truncations"] > n
    assert counts["refused"] > 1.9 * n  # the others hit bytes that nobody reads: the contents were compared


def test_an_entry_marked_as_a_directory(file: Path, tmp_path: Path):
    """torch.load would take whatever lies in fresh memory for the content of such an entry."""
    whole = file.read_bytes()
    for entry in re.finditer(b"PK\x01\x02", whole):
        damaged = bytearray(whole)
        damaged[entry.start() + 38] ^= 0x10  # external attributes
        (tmp_path / "damaged.pth").write_bytes(damaged)
        assert "directory" in refused(tmp_path / "damaged.pth")


# ---------------------------------------------------------------------------- contents that can't be


def changed(state: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at 'a/b/c'; `...` removes."""
    *above, last = path.split("/")
    copy = inner = dict(state)
    for name in above:
        inner[name] = inner = dict(inner[name])
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("net", ..., "KeyError: 'net'"),
        ("net", {}, "has nothing, not layer.1.weight"),
        ("net", {WEIGHT: torch.zeros(SHAPE), "layer.1.bias": torch.zeros(10)}, "layer.1.bias, not layer.1.weight"),
        (f"net/{WEIGHT}", torch.zeros(784, 10), "shape [784, 10], not [10, 784]"),
        (f"net/{WEIGHT}", torch.zeros(SHAPE, dtype=torch.int64), "floating-point"),
        (f"net/{WEIGHT}", torch.full(SHAPE, NAN), "finite"),
        (f"net/{WEIGHT}", [[0.0] * 784] * 10, "AttributeError"),
        ("raw", {"layer.1.weight": torch.zeros(3)}, "raw layer.1.weight has the shape [3]"),
        ("ann", {"weight": torch.zeros(3)}, "ann has the shape [3]"),
        ("version", 2, "version 2 is newer than this program reads, 1: update snn_mnist"),
        ("version", "1", "TypeError"),
        ("epoch", -2, "epochs=-1"),
        ("step", -1, "step=-1"),
        ("step", 3, "KeyError: 'running'"),
        ("max_test_acc", NAN, "max_test_acc=nan"),
        ("best/more", 1, "TypeError"),
        ("config/T", 0, "T 0 is not allowed"),
        ("config/tua", 2.0, "did you mean tau?"),
        ("optimizer/state", {0: {"exp_avg": torch.zeros(1, 784)}}, "exp_avg has the shape [1, 784], not [10, 784]"),
        ("optimizer/state", {0: {"momentum_buffer": torch.full(SHAPE, INF)}}, "momentum_buffer is not of finite"),
    ],
    ids=lambda value: value if type(value) is str else "",
)
def test_a_part_that_can_not_be(state: dict[str, Any], tmp_path: Path, path: str, value: Any, words: str):
    torch.save(changed(state, path, value), tmp_path / "x.pth")
    message = refused(tmp_path / "x.pth")
    assert "is damaged or not a checkpoint (" in message and words in message


def test_the_rates_of_a_begun_epoch_are_those_of_its_steps(state: dict[str, Any], tmp_path: Path):
    running = {"rates": torch.zeros(31, 10), "seconds": 1.0, "skipped": 0}
    torch.save(state | {"step": 2, "running": running}, tmp_path / "x.pth")
    assert "running has the shape [31, 10], not [32, 10]" in refused(tmp_path / "x.pth")


class Harm:
    """Unpickled the ordinary way, this makes a file."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def test_nothing_of_the_file_is_run(tmp_path: Path, state: dict[str, Any]):
    trace, path = tmp_path / "trace", tmp_path / "attack.pth"
    script = f"open({str(trace)!r}, 'w')"
    attacks = Harm(os.system, f"touch {trace}"), Harm(exec, script), Harm(os.mkdir, str(trace))
    for attack, where in itertools.product(attacks, ("", "net", "extra", f"net/{WEIGHT}")):
        torch.save(changed(state, where, attack) if where else attack, path)
        assert "more than plain values and tensors" in refused(path)
        with contextlib.suppress(SNNError):
            load_plain(path)
        assert not trace.exists()
    trace.mkdir()  # the attacks are real: the ordinary way they would have run
    with pytest.raises(FileExistsError):
        pickle.loads(pickle.dumps(attacks[-1]))
