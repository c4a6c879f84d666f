"""Reads the files that torch.save writes: torch's own safe loader, behind the checks that it does not make.

Such a file is a zip archive: `NAME/data.pkl`, a pickle, and `NAME/data/KEY`, the bytes of each tensor.
"""

from __future__ import annotations

import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any, cast

import torch

MAX_BYTES = 256 << 20  # of the file, and of all that is unpacked
MAX_PROGRAM = 4 << 20  # of data.pkl
ITEM_BYTES = {
    "torch DoubleStorage": 8, "torch FloatStorage": 4, "torch HalfStorage": 2, "torch BFloat16Storage": 2,
    "torch LongStorage": 8, "torch IntStorage": 4, "torch ShortStorage": 2, "torch CharStorage": 1,
    "torch ByteStorage": 1, "torch BoolStorage": 1,
}  # fmt: skip
NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", *ITEM_BYTES}


MAKERS = {"EMPTY_DICT", "EMPTY_LIST", "REDUCE", "BINPERSID"}  # make what may be held twice, as it can't be a key
MADE = object()


class Unreadable(ValueError):
    """The file is damaged, or holds something else than plain values and tensors."""


def read(path: Path) -> Any:
    """The value in a file of torch.save, its tensors on the CPU. Raises Unreadable, OSError.

    torch.load(weights_only=True) runs nothing of the file, but compares no checksums and unpacks what it is given.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise Unreadable(f"it has {size:,} bytes")
        with zipfile.ZipFile(path) as archive:
            if (size := sum(entry.file_size for entry in archive.infolist())) > MAX_BYTES:
                raise Unreadable(f"it unpacks to {size:,} bytes")
            if broken := archive.testzip():
                raise Unreadable(f"the checksum of {broken!r:.80} is wrong")
            _check(archive)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols other than torch.save's own
            return torch.load(path, map_location="cpu", weights_only=True)
    except (Unreadable, OSError):
        raise
    except pickle.UnpicklingError as error:
        raise Unreadable("it holds more than plain values and tensors") from error
    except zipfile.BadZipFile as error:
        raise Unreadable(f"it is no archive of torch.save, or was cut short: {error}") from error
    except Exception as error:  # bytes that mean nothing can fail anywhere in the unpickler
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _check(archive: zipfile.ZipFile) -> None:
    """Refuses what the safe loader would do for ever or wrongly, by a look at the pickle's operations.

    It lets a pickle call set() on a billion bytes, hash a tuple that holds another twice, 50 levels deep, and (some
    versions) make a tensor longer than its record, of whatever lies behind it in memory.
    """
    names = archive.namelist()
    programs = [name for name in names if name.endswith("/data.pkl")]
    if len(programs) != 1 or len({name.lower() for name in names}) != len(names):
        raise Unreadable("it has several entries of one name, or none that is data.pkl")
    folder, sizes = programs[0].removesuffix(".pkl"), {entry.filename: entry.file_size for entry in archive.infolist()}
    if sizes[programs[0]] > MAX_PROGRAM:
        raise Unreadable("its data.pkl is too long")
    memo: dict[int, Any] = {}
    since_mark: list[Any] = []  # text, numbers and names; None for anything else
    address: list[Any] = []  # of a storage: 'storage', its type, its key, its device, its length
    last = ""
    value: Any = None
    for opcode, operand, _ in pickletools.genops(archive.read(programs[0])):
        code, argument, before, value = opcode.name, cast(Any, operand), value, None
        if code in ("GLOBAL", "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"):
            value = argument
            if code == "GLOBAL" and argument not in NAMES:
                raise Unreadable(f"it holds {argument.replace(' ', '.')!r:.80}, no plain value or tensor")
        elif code in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = before if last in ("GLOBAL", "BINUNICODE") else MADE if last in MAKERS else None
            value = before
            continue
        elif code in ("BINGET", "LONG_BINGET"):
            value = memo.get(argument)
            if value is None:
                raise Unreadable("it holds a tuple twice, or what was not there before")
        elif code == "TUPLE":
            address = since_mark
        elif code == "BINPERSID":
            parts: list[Any] = address if last == "TUPLE" and len(address) == 5 else [None] * 5
            kind, name, key, path, n = parts
            if (kind, type(path), type(n)) != ("storage", str, int) or name not in ITEM_BYTES:
                raise Unreadable("it holds a storage without its address")
            if sizes.get(f"{folder}/{key}") != n * ITEM_BYTES[name]:
                raise Unreadable(f"its record {key!r:.20} has another length than the tensor's {n} numbers")
        since_mark = [] if code == "MARK" else [*since_mark, value][-6:]
        last = code
