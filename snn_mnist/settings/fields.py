"""Settings as records: a field of a frozen dataclass declares a setting once, with its default, range and help.

From that one declaration come the flag (cli/parser.py), the key of a YAML file (settings/config_file.py), the line of
config.yaml, the row of the README's table, and the check when a record is made. Standard library only, so that
`--help` is instant.
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from snn_mnist.errors import UsageError
from snn_mnist.settings.words import brief, closest, fold, show

# ---------------------------------------------------------------------------- kinds of value

WRONG = (ValueError, TypeError, KeyError, OverflowError)  # what `Kind.read` raises for a value that is not allowed


@dataclass(frozen=True)
class Kind:
    """The values a setting may have, given as text or as one of `types`."""

    wanted: str  # completes "give …": 'an integer from 1 to 10'
    metavar: str  # '' for a switch, which takes no value
    types: tuple[type, ...]
    convert: Callable[[Any], Any]
    allowed: Callable[[Any], Any] = lambda value: True
    names: Callable[[], Iterable[str]] = tuple  # the words of a choice
    none: bool = False  # None is allowed
    many: bool = False  # a tuple of at least one value

    def read(self, value: Any) -> Any:
        """The value as the setting's type; one of WRONG where it is not allowed."""
        if self.none and (value is None or (isinstance(value, str) and value.lower() in ("none", "null"))):
            return None
        if not self.many:
            return self._read_one(value)
        items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        if not items:
            raise ValueError
        return tuple(self._read_one(item.strip() if isinstance(item, str) else item) for item in items)

    def _read_one(self, value: Any) -> Any:
        if not isinstance(value, (str, *self.types)) or (isinstance(value, bool) and bool not in self.types):
            raise TypeError
        converted = self.convert(value)
        if not self.allowed(converted):
            raise ValueError
        return converted


def integer(low: int, high: int | None = None) -> Kind:
    """A whole number in [low, high]; text such as '64' counts, 64.5 and True do not."""
    wanted = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    return Kind(wanted, "N", (int,), int, lambda x: low <= x and (high is None or x <= high))


def number(low: float | None = None, *, above: float | None = None, below: float | None = None) -> Kind:
    """A finite float with low ≤ x, above < x and x < below where given; integers and '1e-3' count."""

    def allowed(x: float) -> bool:
        inside = (low is None or low <= x) and (above is None or above < x) and (below is None or x < below)
        return inside and math.isfinite(x)

    limits = (("of at least", low), ("above", above), ("below", below))
    words = [f"{word} {limit:g}" for word, limit in limits if limit is not None]
    return Kind(f"a number {' and '.join(words)}" if words else "a finite number", "X", (int, float), float, allowed)


def choice(names: tuple[str, ...] | Callable[[], Iterable[str]]) -> Kind:
    """One of some words; case, '_' and '-' do not matter, so 'SoftSign' is 'soft_sign'."""
    words = names if callable(names) else lambda: names
    return Kind("one of", "NAME", (), lambda text: {fold(name): name for name in words()}[fold(text)], names=words)


def matching(pattern: str, wanted: str) -> Kind:
    """Text that matches a regular expression as a whole."""
    return Kind(wanted, "NAME", (), str, re.compile(pattern).fullmatch)


def path(metavar: str = "PATH") -> Kind:
    """The name of a file or directory; a leading ~ is the home directory."""
    wanted = "the name of a file or directory"
    return Kind(wanted, metavar, (os.PathLike,), os.path.expanduser, lambda name: name.strip() and "\0" not in name)


def file_name() -> Kind:
    """The name of a new file or directory within another: nothing that a shell or another system would misread."""
    wanted = "a plain file name: letters, digits and marks such as _ - . within it, no / and not the word last"

    def allowed(name: str) -> bool:
        plain = name.isprintable() and not set(name) & set('/\\:*?"<>|') and name == name.strip()
        return plain and name[:1] not in ("", ".", "-") and name != "last" and len(name.encode()) <= 200

    return Kind(wanted, "NAME", (), str, allowed)


SWITCH_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def switch() -> Kind:
    """On or off: `-name` and `-no-name` as flags, true or false in a file."""
    return Kind("true or false", "", (bool,), lambda value: SWITCH_WORDS[str(value).lower()])


def optional(kind: Kind) -> Kind:
    """As `kind`, or nothing: None, written 'none' on the command line and none or null in a file."""
    return replace(kind, wanted=f"{kind.wanted} or none", none=True)


def several(kind: Kind) -> Kind:
    """A tuple of values of `kind`, at least one; as text, with commas between them."""
    wanted = "some of" if kind.wanted == "one of" else f"one or several, each {kind.wanted}"
    return replace(kind, wanted=wanted, many=True)


@dataclass(frozen=True)
class Option:
    """One setting: what its field declares, with the field's name and default."""

    kind: Kind
    group: str
    help: str
    shown: str | None = None  # the default in words, where the value itself says little
    fixed: bool = False  # another value gives another result: a resumed run refuses it
    saved: bool = True  # belongs to config.yaml
    required: bool = False  # the default stands for "missing"
    positional: bool = False  # given without a flag
    name: str = ""
    default: Any = None

    @property
    def flag(self) -> str:
        """'data-dir', which is written -data-dir or --data-dir."""
        return self.name.replace("_", "-")

    @property
    def wanted(self) -> str:
        """Completes "give …"."""
        return f"{self.kind.wanted} {', '.join(self.kind.names())}".rstrip()

    @property
    def default_text(self) -> str:
        """'100', or the default in words."""
        return "required" if self.required else self.shown or show(self.default)

    def check(self, label: str, value: Any) -> Any:
        """The value as the field's type; UsageError that starts with `label` where it is not allowed."""
        try:
            return self.kind.read(value)
        except WRONG:
            pass
        guess = closest(value, self.kind.names()) if isinstance(value, str) else None
        remedy = f"{self.wanted} (did you mean {guess}?)" if guess else self.wanted
        if self.kind.metavar and self.default is not None:
            remedy = f"{remedy}; the default is {self.default_text}"
        raise UsageError(f"{label} {brief(value)} is not allowed; give {remedy}")


def option(default: Any, kind: Kind, group: str, help: str, **extra: Any) -> Any:
    """A dataclass field that declares a setting; a callable default is called for each record."""
    factory = default if callable(default) else lambda: default
    return dataclasses.field(default_factory=factory, metadata={"option": Option(kind, group, help, **extra)})


def like(record: type, name: str, **changes: Any) -> Any:
    """The same setting in another record; `changes` replace what is declared of it, such as its group."""
    source: Any = {field.name: field for field in dataclasses.fields(record)}[name]
    default = changes.pop("default", source.default_factory)
    declared = replace(source.metadata["option"], **changes)
    return dataclasses.field(default_factory=default, metadata={"option": declared})


def options_of(record: type) -> list[Option]:
    """The settings of a record in order of their declaration."""
    fields: list[Any] = [field for field in dataclasses.fields(record) if "option" in field.metadata]
    return [replace(each.metadata["option"], name=each.name, default=each.default_factory()) for each in fields]


def sorted_by_group(record: type) -> list[Option]:
    """The settings group by group, in order of first appearance, 'Other' last."""
    listed = options_of(record)
    groups = [*dict.fromkeys(each.group for each in listed if each.group != "Other"), "Other"]
    return sorted(listed, key=lambda each: groups.index(each.group))


def markdown_table(record: type) -> str:
    """The flags as a table for the README."""
    lines = ["| flag | default | meaning |", "|---|---|---|"]
    for each in sorted_by_group(record):
        words = ", ".join(each.kind.names())
        lines.append(f"| `-{each.flag}` | {each.default_text} | {each.help}{': ' if words else ''}{words} |")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------- a record


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the settings of a verb: every field is checked when the record is made."""

    debug: bool = option(False, switch(), "Other", "show the traceback of an error", saved=False)
    given: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)
    """Names of the settings the user gave, by flag or file; the others have their defaults."""
    flags: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)
    """Those of them that were given as flags."""

    def __post_init__(self) -> None:
        for each in options_of(type(self)):
            value = getattr(self, each.name)
            if each.required and value == each.default:
                name = each.kind.metavar if each.positional else f"-{each.flag}"
                raise UsageError(f"{name} is missing; give {each.help}")
            object.__setattr__(self, each.name, each.check(each.name, value))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], source: str = "") -> Self:
        """The record with these values, which count as given; `source` names their file in an error."""
        values = cls.check_mapping(mapping, source)
        return cls(**values, given=frozenset(values))

    @classmethod
    def check_mapping(cls, mapping: Mapping[str, Any], source: str = "") -> dict[str, Any]:
        """The same values, checked and typed; an unknown name is an error. 'data-dir' is 'data_dir'."""
        known = {each.name: each for each in options_of(cls)}
        where = f"{source}: " if source else ""
        values = {}
        for key, value in mapping.items():
            name = key.replace("-", "_") if isinstance(key, str) else key
            if name not in known:
                guess = closest(str(name), known)
                remedy = f"did you mean {guess}?" if guess else f"the known ones are {', '.join(known)}"
                raise UsageError(f"{where}unknown setting {brief(key)}; {remedy}")
            if name in values:
                raise UsageError(f"{where}{name} is set twice; keep one of the two")
            values[name] = known[name].check(f"{where}{name}", value)
        return values

    def to_mapping(self) -> dict[str, Any]:
        """The settings that belong to a run, as plain types."""
        return {each.name: getattr(self, each.name) for each in options_of(type(self)) if each.saved}

    def notes(self) -> list[str]:
        """What the user should know of these settings, one line each."""
        return []

    def without_effect(self, reasons: Mapping[str, str]) -> list[str]:
        """'-tau 3.0 has no effect: …' for each of these settings that is given as a flag and has a reason."""
        found = []
        for each in options_of(type(self)):
            if each.name in self.flags and (reason := reasons.get(each.name)):
                value = f" {show(getattr(self, each.name))}" if each.kind.metavar else ""
                found.append(f"-{each.flag}{value} has no effect: {reason}")
        return found
