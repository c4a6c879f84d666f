"""Reads the files that torch.save writes, and runs nothing that stands in them.

Such a file is a zip archive: `NAME/data.pkl`, a pickle, and `NAME/data/KEY`, the bytes of each tensor. A pickle is a
program for a stack machine; the machine below knows dictionaries, lists, tuples, text, numbers and tensors, and stops
at anything else. torch.load(weights_only=True) is meant to do the same, but before 2.6 it could be made to run code
(CVE-2025-32434), earlier ones read beyond the end of short records, and none checks the archive's checksums.
"""

from __future__ import annotations

import math
import pickletools
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_BYTES = 256 << 20  # of all that is unpacked
MAX_PROGRAM = 4 << 20  # of data.pkl
DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
DICT, TENSOR, PARAMETER = "an ordered dictionary", "a tensor", "a parameter"
NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): DICT,
    ("torch._utils", "_rebuild_tensor_v2"): TENSOR,
    ("torch._utils", "_rebuild_parameter"): PARAMETER,
} | {("torch", name): dtype for name, dtype in DTYPES.items()}


class Unreadable(ValueError):
    """The file is damaged, or holds something else than plain values and tensors."""


class _Name:
    """A name of NAMES on the machine's stack."""

    def __init__(self, path: tuple[str, str]) -> None:
        if path not in NAMES:
            raise Unreadable(f"it holds {'.'.join(path)!r:.80}, which is no plain value or tensor")
        self.meaning = NAMES[path]


def read(path: Path) -> Any:
    """The value in a file of torch.save, its tensors on the CPU. Raises Unreadable, OSError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Unreadable(f"it has {path.stat().st_size:,} bytes")
        with zipfile.ZipFile(path) as archive:
            if (size := sum(entry.file_size for entry in archive.infolist())) > MAX_BYTES:
                raise Unreadable(f"it unpacks to {size:,} bytes")
            if broken := archive.testzip():
                raise Unreadable(f"the checksum of {broken!r:.80} is wrong")
            return _Machine(_Records(archive)).run()
    except (Unreadable, OSError):
        raise
    except zipfile.BadZipFile as fault:
        raise Unreadable(f"it is no archive of torch.save, or was cut short: {fault}") from fault
    except RecursionError as fault:
        raise Unreadable("it is nested too deeply") from fault
    except Exception as fault:  # bytes that mean nothing can fail anywhere in zipfile, struct and the machine
        raise Unreadable(f"{type(fault).__name__}: {fault}") from fault


class _Records:
    """The entries of the archive, by their names without the leading `NAME/`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        programs = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise Unreadable(f"it has {len(programs)} entries data.pkl")
        self.archive, self.prefix = archive, programs[0].removesuffix("data.pkl")
        if archive.getinfo(programs[0]).file_size > MAX_PROGRAM:
            raise Unreadable("its data.pkl is too long")
        self.program = archive.read(programs[0])
        order = f"{self.prefix}byteorder"
        if order in archive.namelist() and archive.read(order) != sys.byteorder.encode():
            raise Unreadable("it was written on a machine with another byte order")
        self.known: dict[str, Tensor] = {}

    def tensor(self, dtype: torch.dtype, key: str, n: int) -> Tensor:
        """All n numbers of a record."""
        if key not in self.known:
            data = self.archive.read(f"{self.prefix}data/{key}")
            self.known[key] = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
        found = self.known[key]
        if found.dtype != dtype or len(found) != n:
            raise Unreadable(f"its record {key!r:.20} has {len(found)} {found.dtype}, not {n} {dtype}")
        return found


class _Machine:
    """Carries out a pickle, one opcode after the other."""

    def __init__(self, records: _Records) -> None:
        self.records = records
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks that MARK set aside
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self.records.program):
            self.step(opcode.name, argument)
        return self.stack.pop()

    def step(self, code: str, argument: Any) -> None:
        stack = self.stack
        match code:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[code])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "TUPLE":
                self.push(tuple(self.since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(code[-1])
                stack[-n:] = [tuple(self.top(n))]
            case "APPEND":
                self.fill_list([stack.pop()])
            case "APPENDS":
                self.fill_list(self.since_mark())
            case "SETITEM":
                items = self.top(2)
                del stack[-2:]
                self.fill_dict(items)
            case "SETITEMS":
                self.fill_dict(self.since_mark())
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                stack.append(_Name((module, name)))
            case "STACK_GLOBAL":
                module, name = self.top(2)
                stack[-2:] = [_Name((_text(module), _text(name)))]
            case "BINPERSID":
                stack.append(self.storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self.made(function, arguments))
            case "BUILD":  # the attributes of an OrderedDict, such as a state_dict's versions of its modules
                stack.pop()
                _demand(isinstance(stack[-1], dict), "attributes of something else than a dictionary")
            case _:
                raise Unreadable(f"it uses {code}, which no plain value or tensor needs")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self, n: int) -> list[Any]:
        _demand(len(self.stack) >= n, "an operation without its operands")
        return self.stack[-n:]

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def fill_list(self, items: list[Any]) -> None:
        _demand(type(self.stack[-1]) is list, "items of something else than a list")
        self.stack[-1].extend(items)

    def fill_dict(self, items: list[Any]) -> None:
        _demand(type(self.stack[-1]) is dict and len(items) % 2 == 0, "items of something else than a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # text and numbers: the hash of a tuple that holds another twice, 50 levels deep, takes for ever
            _demand(type(key) in (str, int), "a key that is neither text nor a number")
            self.stack[-1][key] = value

    def storage(self, address: Any) -> Tensor:
        _demand(isinstance(address, tuple) and len(address) == 5, "a storage without its address")
        kind, name, key, _place, n = address
        _demand(kind == "storage" and isinstance(name, _Name), "a storage of an unknown kind")
        _demand(isinstance(name.meaning, torch.dtype) and type(n) is int, "a storage of an unknown type")
        return self.records.tensor(name.meaning, _text(key), n)

    def made(self, function: Any, arguments: Any) -> Any:
        _demand(isinstance(function, _Name) and isinstance(arguments, tuple), "a call of something that is no type")
        if function.meaning is DICT:
            _demand(arguments == (), "an ordered dictionary that is not empty at first")
            return {}
        if function.meaning is PARAMETER:
            _demand(len(arguments) == 3 and isinstance(arguments[0], Tensor), "a parameter without a tensor")
            return arguments[0]
        _demand(function.meaning is TENSOR and len(arguments) in (6, 7), "a tensor without its parts")
        return _view(*arguments[:4])


def _view(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """The tensor at this place of a storage, as a copy of its own."""
    _demand(isinstance(storage, Tensor) and storage.dim() == 1, "a tensor without a storage")
    shapes = [size, stride]
    _demand(all(isinstance(shape, tuple) and len(shape) <= 8 for shape in shapes), "a tensor without a shape")
    _demand(len(size) == len(stride), "a tensor of contradictory shape")
    numbers = [offset, *size, *stride]
    _demand(all(type(number) is int and 0 <= number < 1 << 40 for number in numbers), "a tensor of impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    n = math.prod(size)
    _demand(n == 0 or (last < len(storage) and n <= len(storage)), "a tensor beyond the end of its record")
    return storage.as_strided(size, stride, offset).clone() if n else storage.new_empty(size)


def _text(value: Any) -> str:
    _demand(type(value) is str, "a name that is no text")
    return value


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Unreadable(f"it has {otherwise}")
