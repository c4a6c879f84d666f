"""Settings as records: each field of a frozen dataclass declares its flag, default, range and help once.

From that one declaration come the flags (cli.py), the keys of a YAML file, `--help`, the dump to config.yaml,
the table in the README, and the check when the record is made. Stdlib only, so that `--help` is instant.
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from snn_mnist.errors import UsageError

MAX_YAML_BYTES = 1 << 20  # a settings file has a few hundred bytes


# ---------------------------------------------------------------------------- kinds of value


@dataclass(frozen=True)
class Kind:
    """How one setting is read: `read` takes text or a typed value, and raises ValueError for a wrong one."""

    wanted: str  # completes "give …": 'an integer from 1 to 10'
    read: Callable[[Any], Any]
    metavar: str = ""  # '' for a switch, which takes no value
    many: bool = False  # takes one value or more
    names: Callable[[], Iterable[str]] = tuple  # the words to choose from, for --help and "did you mean"

    def words(self) -> list[str]:
        return list(self.names())


def integer(low: int, high: int | None = None) -> Kind:
    """A whole number in [low, high]; text such as '64' counts, 64.5 and True do not."""

    def read(value: Any) -> int:
        if isinstance(value, str):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError
        if high is not None and value > high:
            raise ValueError
        return int(value)

    return Kind(f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}", read, "N")


def number(low: float | None = None, *, above: float | None = None, below: float | None = None) -> Kind:
    """A finite float with low ≤ x, above < x and x < below where given; integers and '1e-3' count."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        try:
            x = float(value)
        except OverflowError:  # an integer beyond 1e308
            raise ValueError from None
        outside = (low is not None and x < low) or (above is not None and x <= above)
        if not math.isfinite(x) or outside or (below is not None and x >= below):
            raise ValueError
        return x

    limits = [
        f"{word} {limit:g}"
        for word, limit in (("of at least", low), ("above", above), ("below", below))
        if limit is not None
    ]
    return Kind(f"a number {' and '.join(limits)}" if limits else "a finite number", read, "X")


def choice(names: Iterable[str] | Callable[[], Iterable[str]]) -> Kind:
    """One of some words; case, '_' and '-' do not matter, so 'SoftSign' is 'soft_sign'."""
    if not callable(names):
        fixed = tuple(names)
        names = lambda: fixed  # noqa: E731

    def fold(word: str) -> str:
        return re.sub("[-_]", "", word).lower()

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError
        for name in names():
            if fold(name) == fold(value):
                return name
        raise ValueError

    return Kind("one of", read, "NAME", names=names)


def matching(pattern: str, wanted: str) -> Kind:
    """Text that matches a regular expression as a whole."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return Kind(wanted, read, "NAME")


def path(metavar: str = "PATH") -> Kind:
    """The name of a file or directory; a leading ~ is the home directory."""

    def read(value: Any) -> str:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError
        return os.path.expanduser(value)

    return Kind("the name of a file or directory", read, metavar)


SWITCH_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def switch() -> Kind:
    """On or off: `-name` and `-no-name` as flags, true or false in a file."""

    def read(value: Any) -> bool:
        if isinstance(value, str):
            value = SWITCH_WORDS.get(value.lower())
        if not isinstance(value, bool):
            raise ValueError
        return value

    return Kind("true or false", read)


def optional(kind: Kind) -> Kind:
    """As `kind`, or nothing: None, written 'none' on the command line and none or null in a file."""

    def read(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return kind.read(value)

    return dataclasses.replace(kind, wanted=f"{kind.wanted} or none", read=read)


def several(kind: Kind) -> Kind:
    """A tuple of values of `kind`, at least one; as text, with commas between them."""

    def read(value: Any) -> tuple:
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, list | tuple):
            value = (value,)
        if not value:
            raise ValueError
        return tuple(kind.read(item.strip() if isinstance(item, str) else item) for item in value)

    wanted = "some of" if kind.words() else f"one or several, each {kind.wanted}"
    return dataclasses.replace(kind, wanted=wanted, read=read, metavar=f"{kind.metavar} …", many=True)


# ---------------------------------------------------------------------------- one setting


@dataclass(frozen=True)
class Option:
    """What is declared of one setting besides its name and its default."""

    kind: Kind
    group: str
    help: str
    shown: str | None = None  # the default in words, where the value itself says little
    fixed: bool = False  # a change alters the mathematics: a resumed run refuses it
    saved: bool = True  # belongs to config.yaml
    required: bool = False  # the default stands for "missing"
    positional: bool = False  # given without a flag

    def check(self, label: str, value: Any, default: Any = None) -> Any:
        """The value as the field's type; UsageError that starts with `label` when it is out of range."""
        try:
            return self.kind.read(value)
        except (ValueError, TypeError):
            pass
        wanted, words = self.kind.wanted, self.kind.words()
        if words:
            wanted = f"{wanted} {', '.join(words)}"
            if isinstance(value, str) and (guess := closest(value, words)):
                wanted = f"{wanted} (did you mean {guess}?)"
        if self.kind.metavar and default is not None:
            wanted = f"{wanted}; the default is {self.shown or show(default)}"
        raise UsageError(f"{label} {brief(value)} is not allowed; give {wanted}")


def option(default: Any, kind: Kind, group: str, help: str, **extra: Any) -> Any:
    """A dataclass field that declares a setting; a callable default is asked anew for each record."""
    metadata = {"option": Option(kind, group, help, **extra)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of(record: type) -> Iterator[tuple[dataclasses.Field, Option]]:
    for field in dataclasses.fields(record):
        if "option" in field.metadata:
            yield field, field.metadata["option"]


def default_of(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def flag_of(field: dataclasses.Field) -> str:
    return field.name.replace("_", "-")


def show(value: Any) -> str:
    """A value as one would type it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(show(item) for item in value)
    return str(value)


def brief(value: Any) -> str:
    """A rejected value for an error message: one line, never long, whatever it is."""
    if value is None:
        return "(no value)"
    if not isinstance(value, bool | int | float | str | list | tuple):
        return f"of type {type(value).__name__}"
    try:
        text = value if isinstance(value, str) and value.isprintable() and value.strip() else repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits has no repr
        return f"of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def closest(word: str, words: Iterable[str]) -> str | None:
    import difflib

    by_fold = {known.lower(): known for known in words}
    found = difflib.get_close_matches(word.lower()[:100], by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


# ---------------------------------------------------------------------------- a record


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the settings of a verb: every field is checked when the record is made."""

    debug: bool = option(False, switch(), "Other", "show the traceback of an error", saved=False)
    given: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)
    """Names of the settings the user gave, by flag or file; the others stand at their defaults."""

    def __post_init__(self) -> None:
        for field, declared in options_of(type(self)):
            value, default = getattr(self, field.name), default_of(field)
            if not declared.required or value != default:
                object.__setattr__(self, field.name, declared.check(field.name, value, default))
            else:
                name = declared.kind.metavar.removesuffix(" …") if declared.positional else f"-{flag_of(field)}"
                raise UsageError(f"{name} is missing; give {declared.help}")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], source: str = "") -> Self:
        """The record with these values, which count as given; `source` names their file in an error."""
        values = cls.check_mapping(mapping, source)
        return cls(**values, given=frozenset(values))

    @classmethod
    def check_mapping(cls, mapping: Mapping[str, Any], source: str = "") -> dict[str, Any]:
        """The same values, checked and typed; an unknown name is an error. 'data-dir' is 'data_dir'."""
        known = {field.name: (field, declared) for field, declared in options_of(cls)}
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
            field, declared = known[name]
            values[name] = declared.check(f"{where}{name}", value, default_of(field))
        return values

    def to_mapping(self) -> dict[str, Any]:
        """The settings that belong to a run, as plain types."""
        return {field.name: getattr(self, field.name) for field, declared in options_of(type(self)) if declared.saved}

    def notes(self) -> list[str]:
        """What the user should know of these settings, one line each."""
        return []


# ---------------------------------------------------------------------------- a YAML file


def read_yaml(file: str | os.PathLike[str]) -> dict[str, str | None]:
    """The flat mapping in a YAML file, each value as its text (None for null), for `from_mapping`.

    Settings need no more of YAML than `name: value`, so no tags, aliases or nesting are read.
    The parser's events are used as they come, which takes neither recursion nor a constructor.
    """
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_YAML_BYTES + 1)
        if len(data) > MAX_YAML_BYTES:
            raise UsageError(f"{file}: larger than {MAX_YAML_BYTES:,} bytes; that is no settings file")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{file}: {(error.strerror or str(error)).lower()}; name a YAML file of settings") from None
    import yaml

    try:
        return _flat_mapping(yaml, text, str(file))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "malformed"
        raise UsageError(f"{file}:{line} not valid YAML ({what}); write one `name: value` a line") from None


def _flat_mapping(yaml: Any, text: str, file: str) -> dict[str, str | None]:
    def refuse(what: str) -> UsageError:
        return UsageError(f"{file}: line {event.start_mark.line + 1}: {what}; write one `name: value` a line")

    values: dict[str, str | None] = {}
    key: str | None = None
    inside = False
    documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise refuse("a second document")
        if not isinstance(event, yaml.NodeEvent):
            continue
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise refuse("anchors and aliases are not read")
        if event.tag:
            raise refuse(f"the tag {brief(event.tag)} is not read")
        if not inside and isinstance(event, yaml.MappingStartEvent):
            inside = True
        elif not inside and isinstance(event, yaml.ScalarEvent) and not event.value and event.implicit[0]:
            continue  # an empty document: no settings
        elif not inside or not isinstance(event, yaml.ScalarEvent):
            raise refuse(f"{key} has a nested value" if key else "not a mapping of names to values")
        elif key is None:
            key = event.value
            if key in values:
                raise refuse(f"{brief(key)} is set twice")
        else:
            plain_null = event.implicit[0] and event.value in ("", "~", "null", "Null", "NULL")
            values[key] = None if plain_null else event.value
            key = None
    return values


# ---------------------------------------------------------------------------- texts


def default_text(field: dataclasses.Field, declared: Option) -> str:
    """'default: 100' or 'required', for the help."""
    return "required" if declared.required else f"default: {declared.shown or show(default_of(field))}"


def markdown_table(record: type[Options]) -> str:
    """The flags as a table for the README."""
    lines = ["| flag | default | meaning |", "|---|---|---|"]
    for field, declared in sorted_by_group(record):
        meaning = declared.help
        if words := declared.kind.words():
            meaning = f"{meaning}: {', '.join(words)}"
        lines.append(f"| `-{flag_of(field)}` | {default_text(field, declared)} | {meaning} |".replace("||", r"\|\|"))
    return "\n".join(lines) + "\n"


def sorted_by_group(record: type[Options]) -> list[tuple[dataclasses.Field, Option]]:
    """The settings group by group, in order of first appearance, 'Other' last."""
    listed = list(options_of(record))
    groups = [*dict.fromkeys(declared.group for _, declared in listed if declared.group != "Other"), "Other"]
    return sorted(listed, key=lambda item: groups.index(item[1].group))
