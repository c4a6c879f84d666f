"""Checkpoints that are damaged or made to do harm: refused in one line, and nothing of theirs is run."""

import io
import os
import pickle
import re
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snn_mnist.cli import train as training
from snn_mnist.cli.main import main
from snn_mnist.errors import SNNError
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint
from snn_mnist.storage.position import Best
from snn_mnist.training import resume

WEIGHT, SHAPE = checkpoint.WEIGHT, checkpoint.SHAPE


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a small run."""
    out = tmp_path_factory.mktemp("run")
    small = Config(dataset="digits", T=4, b=16, limit_batches=4, figures=False, epochs=1, j=1, out_dir=str(out))
    assert training.run(small) == 0
    return next(out.iterdir()) / checkpoint.LATEST


@pytest.fixture
def state(file: Path) -> dict[str, Any]:
    return checkpoint.load(file)


def refused(path: Path) -> str:
    """The message of the refusal, which names the file and is one line; it comes soon."""
    began = time.process_time()
    with pytest.raises(SNNError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert caught.value.exit_code == 1 and message.startswith(str(path))
    assert "\n" not in message and len(message) < len(str(path)) + 400 and "; " in message
    assert time.process_time() - began < 10
    return message


# ---------------------------------------------------------------------------- damage


def test_cut_short_flipped_and_overwritten(file: Path, tmp_path: Path):
    found = torture.damage(file, tmp_path / "damaged.pth", 300)
    assert found.faults == []
    assert found.counts["flipped bits"] == 300 and found.counts["truncations"] > 400
    assert found.counts["refused"] > 600


def test_an_entry_marked_as_a_directory(file: Path, tmp_path: Path):
    """torch.load would take whatever lies in fresh memory for the content of such an entry."""
    whole, path = file.read_bytes(), tmp_path / "damaged.pth"
    entries = [found.start() for found in re.finditer(b"PK\x01\x02", whole)]
    assert len(entries) == len(zipfile.ZipFile(file).namelist())
    for entry in entries:
        damaged = bytearray(whole)
        damaged[entry + 38] ^= 0x10  # external attributes
        path.write_bytes(damaged)
        assert "it has a directory among its entries" in refused(path)


@pytest.mark.slow
def test_much_damage(file: Path, tmp_path: Path):
    assert torture.damage(file, tmp_path / "damaged.pth", 5000, seed=1).faults == []


def test_every_verb_refuses_alike(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(file.read_bytes()[:-1000])
    for verb in ("train", "eval", "trace", "export"):
        assert main([verb, "-resume", str(damaged)]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"snn_mnist {verb}: error: {damaged} is damaged or not a checkpoint (")
        assert err.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"x", b"PK\3\4", b"\x80\2}.", pickle.dumps({"net": {}}), bytes(100_000)])
def test_what_is_no_archive(tmp_path: Path, content: bytes):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    assert "is damaged or not a checkpoint (BadZipFile: File is not a zip file)" in refused(path)


def test_the_old_format_of_torch(tmp_path: Path, state: dict[str, Any]):
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert "BadZipFile" in refused(tmp_path / "old.pth")


# ---------------------------------------------------------------------------- contents that can't be


def changed(state: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at 'a.b.c', the keys of dictionaries and places of lists; `...` removes."""
    *above, last = path.split("/")
    copy = inner = dict(state)
    for name in above:
        key: Any = int(name) if name.isdigit() else name
        inner[key] = inner[key].copy()
        inner = inner[key]
    key = int(last) if last.isdigit() else last
    if value is ...:
        del inner[key]
    else:
        inner[key] = value
    return copy


NAN, INF = float("nan"), float("inf")
SCALER = {"scale": 1.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}
CHANGES: list[tuple[str, Any, str]] = [
    ("net", ..., "has no 'net'"),
    ("net", [1], "has no 'net'"),
    ("net", {}, "of another network (its 'net' has nothing"),
    ("net", {"layer.1.weight": torch.zeros(SHAPE), "layer.1.bias": torch.zeros(10)}, "another network"),
    ("net", {"conv": torch.zeros(3)}, "of another network (its 'net' has conv, not layer.1.weight)"),
    (f"net/{WEIGHT}", torch.zeros(784, 10), "weights of shape [784, 10], not [10, 784]"),
    (f"net/{WEIGHT}", torch.zeros(10, 784, 1), "weights of shape [10, 784, 1]"),
    (f"net/{WEIGHT}", torch.zeros(()), "weights of shape []"),
    (f"net/{WEIGHT}", torch.zeros(1, 1).expand(SHAPE).long(), "weights of type torch.int64"),
    (f"net/{WEIGHT}", torch.zeros(SHAPE, dtype=torch.bool), "weights of type torch.bool"),
    (f"net/{WEIGHT}", torch.full(SHAPE, NAN), "weights that are not finite"),
    (f"net/{WEIGHT}", torch.zeros(SHAPE).index_fill(1, torch.tensor([783]), INF), "weights that are not finite"),
    (f"net/{WEIGHT}", [[0.0] * 784] * 10, "weights that are not a tensor"),
    ("raw", torch.zeros(3), "weights (raw) of shape [3]"),
    ("version", 2, "has version 2, newer than this program reads (1); update snn_mnist"),
    ("version", 10**60, "newer than this program reads"),
    ("version", 0, "has the invalid version 0"),
    ("version", "1", "has the invalid version 1"),
    ("version", True, "has the invalid version True"),
    ("epoch", -2, "has epoch -2, not an integer from -1"),
    ("epoch", 1.5, "has epoch 1.5"),
    ("epoch", 2**40, "has epoch"),
    ("step", -1, "has step -1"),
    ("step", 3, "has a running without rates, seconds"),
    ("step", [[[[1]]]], "has step"),
    ("max_test_acc", NAN, "has max_test_acc nan, not a number from 0 to 1"),
    ("max_test_acc", 93, "has max_test_acc 93"),
    ("max_test_acc", None, "has max_test_acc (no value)"),
    ("best", [], "has a value of best that is not a dictionary"),
    ("best/epochs", "x", "has best epochs x"),
    ("best/score", NAN, "has best score nan"),
    ("best/more", 1, "has a best with the unknown more"),
    ("config", "T: 4", "has a value of config that is not a dictionary"),
    ("config/T", 0, "invalid settings (T 0 is not allowed"),
    ("config/T", [[[1]]], "has a setting T that is neither text nor a number"),
    ("config/tau", NAN, "invalid settings (tau nan is not allowed"),
    ("config/tua", 2.0, "invalid settings (unknown setting tua; did you mean tau?"),
    ("config/5", 1, "invalid settings (unknown setting 5"),
    ("config/surrogate", "__import__('os')", "invalid settings (surrogate __import__('os') is not allowed"),
    ("scaler", SCALER | {"scale": NAN}, "has scaler scale nan"),
    ("scaler", SCALER | {"scale": "x"}, "has scaler scale x"),
    ("scaler", SCALER | {5: 1}, "has a scaler with the unknown 5"),
    ("scaler", {"scale": 1.0}, "has a scaler without"),
    ("optimizer", 5, "has a value of optimizer that is not a dictionary"),
    ("optimizer/state", ..., "has an optimizer without state"),
    ("optimizer/param_groups", [], "something else than one group"),
    ("optimizer/param_groups", [{}, {}], "something else than one group"),
    ("optimizer/param_groups/0/lr", NAN, "has optimizer lr nan"),
    ("optimizer/param_groups/0/lr", [1], "has optimizer lr list"),
    ("optimizer/param_groups/0/betas", [[0.9]], "has an optimizer setting betas"),
    ("optimizer/state/1", {}, "has an optimizer state that is not of one parameter"),
    ("optimizer/state/0", [], "has an optimizer state that is not of one parameter"),
    ("optimizer/state/0/exp_avg", ..., "has an optimizer state without exp_avg"),
    ("optimizer/state/0/exp_avg", torch.zeros(1, 784), "optimizer state exp_avg of shape [1, 784], not [10, 784]"),
    ("optimizer/state/0/exp_avg_sq", torch.full(SHAPE, INF), "optimizer state exp_avg_sq that are not finite"),
    ("optimizer/state/0/exp_avg", torch.zeros(SHAPE, dtype=torch.int32), "exp_avg of type torch.int32"),
    ("optimizer/state/0/step", "many", "has optimizer step many"),
    ("optimizer/state/0/step", torch.zeros(SHAPE), "optimizer steps of shape"),
    ("optimizer/state/0/surprise", 1, "has an optimizer state with the unknown surprise"),
]


@pytest.mark.parametrize(("path", "value", "words"), CHANGES, ids=lambda value: value if type(value) is str else "")
def test_a_part_that_can_not_be(state: dict[str, Any], tmp_path: Path, path: str, value: Any, words: str):
    torch.save(changed(state, path, value), tmp_path / "x.pth")
    assert words in refused(tmp_path / "x.pth")


@pytest.mark.parametrize("path", sorted({path for path, _, _ in CHANGES}))
def test_a_list_that_takes_for_ever_to_print(state: dict[str, Any], tmp_path: Path, path: str):
    doubling: list[Any] = []
    for _ in range(60):
        doubling = [doubling, doubling]
    for content in (doubling, {"a": doubling}, {0: doubling}):
        torch.save(changed(state, path, content), tmp_path / "x.pth")
        refused(tmp_path / "x.pth")


PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
TENSORS = st.sampled_from([torch.zeros(SHAPE), torch.tensor(1.0), torch.full(SHAPE, NAN), torch.zeros(0)])
KEYS = st.text(max_size=5) | st.integers(0, 2)
VALUES = st.recursive(
    PLAIN | TENSORS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
PLACES = sorted({path for path, _, _ in CHANGES} | {"running", "config/b", "optimizer/param_groups/0/eps", "extra"})


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3))
def test_any_change_is_refused_or_can_be_resumed(state: dict[str, Any], tmp_path: Path, changes: list[tuple[str, Any]]):
    for path, value in changes:
        try:
            state = changed(state, path, value)
        except (KeyError, TypeError, AttributeError, IndexError):
            continue  # an earlier change has put something else there
    torch.save(state, tmp_path / "x.pth")
    try:
        start = resume.resume(Config(resume=str(tmp_path / "x.pth"), given=frozenset({"resume"})))
        config, loaded = start.config, start.state
        weight = torch.nn.Parameter(torch.zeros(SHAPE))
        optimizer = torch.optim.Adam([weight], lr=config.lr, fused=True)
        resume.restore_optimizer(optimizer, loaded, config)
        weight.grad = torch.ones(SHAPE)
        optimizer.step()
        torch.amp.GradScaler("cpu").load_state_dict(loaded.get("scaler") or torch.amp.GradScaler("cpu").state_dict())
        Best(**loaded.get("best", {}))
    except SNNError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


# ---------------------------------------------------------------------------- contents made to do harm


def packed(tmp_path: Path, program: bytes, records: dict[str, bytes] | None = None, **how: Any) -> Path:
    """An archive as torch.save makes it, with this pickle."""
    path = tmp_path / "made.pth"
    with zipfile.ZipFile(path, "w", **how) as made:
        made.writestr("archive/data.pkl", program)
        made.writestr("archive/version", "3\n")
        made.writestr("archive/byteorder", "little")
        for name, content in (records or {}).items():
            made.writestr(f"archive/{name}", content)
    return path


class Harm:
    """Unpickled the ordinary way, this makes a file."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_of_the_file_is_run(tmp_path: Path, file: Path, state: dict[str, Any], protocol: int):
    trace = tmp_path / "trace"
    script = f"open({str(trace)!r}, 'w')"
    attacks = [Harm(os.system, f"touch {trace}"), Harm(exec, script), Harm(eval, script), Harm(os.mkdir, str(trace))]
    attacks += [Harm(torch.load, str(file)), Harm(getattr, "text", "upper")]
    for attack in attacks:
        for content in (attack, {"net": attack}, changed(state, "extra", attack), {"net": {WEIGHT: attack}}):
            buffer = io.BytesIO()
            torch.save(content, buffer, pickle_protocol=protocol if protocol >= 2 else 2)
            path = tmp_path / "attack.pth"
            path.write_bytes(buffer.getvalue())
            assert "it holds " in refused(path)
            assert not trace.exists()
        path = packed(tmp_path, pickle.dumps(attack, protocol))
        refused(path)
        assert not trace.exists()
    trace.mkdir()  # the attacks are real: the ordinary way they would have run
    with pytest.raises(FileExistsError):
        pickle.loads(pickle.dumps(Harm(os.mkdir, str(trace)), protocol))


PROGRAMS = {
    "inst": b"(S'touch /tmp/x'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'true'\no.",
    "newobj": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x10\x85\x81.",
    "big tensor": b"\x80\x02ctorch\nFloatTensor\n\x8a\x05\0\0\0\0\x10\x85R.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent text": b"Pstorage\n.",
    "no stop": b"\x80\x02}",
    "empty stack": b"\x80\x02.",
    "no mark": b"\x80\x02t.",
    "get of nothing": b"\x80\x02h\x05.",
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuples": b"\x80\x02K\x01" + b"\x85" * 100_000 + b".",
    "deep keys": b"\x80\x02}K\x01" + b"\x85" * 100_000 + b"K\x01s.",
    # [l, l] of [l, l] of …: 60 levels in 300 bytes, 2^60 steps to print
    "doubling lists": b"\x80\x02X\3\0\0\0net]q\0" + b"".join(b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(60)) + b".",
    "a long number": b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"\xff" * 100 + b".",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_are_no_values(tmp_path: Path, name: str):
    refused(packed(tmp_path, PROGRAMS[name]))


CODES = [bytes([code]) for code in range(256)] + [b"K\1", b"q\0", b"h\0", b"X\1\0\0\0a", b"ctorch\nFloatStorage\n"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(CODES), max_size=40))
def test_any_program_is_a_value_or_refused(tmp_path: Path, codes: list[bytes]):
    refused(packed(tmp_path, b"\x80\x02" + b"".join(codes) + b"."))


def tensor_program(n: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A pickle of one tensor, as torch.save writes it."""

    class Storage:
        pass

    class Rebuilt:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", n) if isinstance(thing, Storage) else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(Rebuilt())
    return buffer.getvalue()


def test_a_tensor_beyond_its_record(tmp_path: Path):
    good = packed(tmp_path, tensor_program(6, 0, (2, 3), (3, 1)), {"data/0": struct.pack("<6f", *range(6))})
    assert torch.load(good, weights_only=True).tolist() == [[0, 1, 2], [3, 4, 5]]
    for n, offset, size, stride in [
        (7840, 0, (10, 784), (784, 1)), (6, 1, (2, 3), (3, 1)), (6, 0, (2, 3), (4, 1)), (6, 0, (3, 3), (3, 1)),
        (6, -1, (2,), (1,)), (6, 0, (2,), (-1,)), (6, 2**62, (2,), (1,)), (6, 0, (2**62, 4), (1, 1)),
        (-6, 0, (2,), (1,)), (2**62, 0, (2,), (1,)), (6, 0, (2, 3), (1,)),
    ]:  # fmt: skip
        refused(packed(tmp_path, tensor_program(n, offset, size, stride), {"data/0": struct.pack("<6f", *range(6))}))
    refused(packed(tmp_path, tensor_program(6, 0, (2, 3), (3, 1))))


def test_a_tensor_that_repeats_one_number_for_ever(tmp_path: Path):
    path = packed(tmp_path, tensor_program(1, 0, (10**9, 10**9), (0, 0)), {"data/0": bytes(4)})
    refused(path)


def test_archives_that_grow(tmp_path: Path):
    zeros = bytes(100 << 20)
    path = packed(tmp_path, b"\x80\x02}.", {f"data/{i}": zeros for i in range(3)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    assert "it unpacks to 314,572," in refused(path)
    # an archive that understates what it unpacks to
    honest = packed(tmp_path, b"\x80\x02}.", {"data/0": bytes(10 << 20)}, compression=zipfile.ZIP_DEFLATED)
    understated = honest.read_bytes().replace(struct.pack("<I", 10 << 20), struct.pack("<I", 10))
    honest.write_bytes(understated)
    refused(honest)
    with open(tmp_path / "sparse.pth", "wb") as file:
        file.truncate(1 << 40)
    assert "it has 1,099,511,627,776 bytes" in refused(tmp_path / "sparse.pth")
