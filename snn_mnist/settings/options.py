"""Settings as records: a field of a frozen dataclass declares a setting once.

    tau: float = option(2.0, "Network", "membrane time constant", above=1)

The annotation says the type: int, float, bool, str; `| None` allows none, `tuple[int, ...]` several values. From this
one declaration come the flag (cli/parser.py), the key of a YAML file (settings/yaml_file.py), the row of the README's
table, and the check, made once: when the record is made. Standard library only, so that `--help` is instant.
"""

import dataclasses
import functools
import math
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Self

from snn_mnist.errors import UsageError
from snn_mnist.settings.words import brief, closest, fold, show

SWITCH_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Option:
    """One setting: what `option` declares of it, and then what its field says."""

    group: str
    help: str
    low: float | None = None
    high: float | None = None  # low ≤ x ≤ high
    above: float | None = None
    below: float | None = None  # above < x < below
    choices: tuple[str, ...] | Callable[[], Iterable[str]] = ()  # case, '_' and '-' do not matter
    path: str = ""  # FILE, DIR or PATH, for the name of one; a leading ~ is the home directory
    read: Callable[[Any], Any] | None = None  # own conversion of a value; ValueError for one that is not allowed
    wanted: str = ""  # the allowed values in words, where `read` decides
    metavar: str = ""
    shown: str = ""  # the default in words, where the value itself says little
    fixed: bool = False  # another value gives another result: a resumed run refuses it
    saved: bool = True  # belongs to config.yaml
    required: bool = False  # the default means "missing"
    positional: bool = False  # given without a flag
    name: str = ""
    default: Any = None
    type: Any = str
    none: bool = False  # None is allowed
    several: bool = False  # a tuple of at least one value

    @property
    def flag(self) -> str:
        """'data-dir', which is written -data-dir or --data-dir."""
        return self.name.replace("_", "-")

    @property
    def words(self) -> tuple[str, ...]:
        """The words to choose from."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    @property
    def is_switch(self) -> bool:
        """Whether the flag is -name or -no-name, without a value."""
        return self.type is bool and not self.read

    @property
    def value_name(self) -> str:
        """The placeholder of the value in the help; '' for a switch."""
        return self.metavar or self.path or {int: "N", float: "X", bool: ""}.get(self.type, "NAME")

    @property
    def allowed(self) -> str:
        """The allowed values, for error messages."""
        between = "from" if None not in (self.low, self.high) else "of at least"
        limits = {between: self.low, "to": self.high, "above": self.above, "below": self.below}
        ends = " and ".join(f"{word} {limit:.10g}" for word, limit in limits.items() if limit is not None)
        number = f"a number {ends}" if ends else "a finite number"
        kinds = {int: f"an integer {ends}".replace(" and to", " to"), float: number, bool: "true or false"}
        words = self.wanted or kinds.get(self.type, "the name of a file or directory")
        if self.choices and not self.wanted:
            words = f"{'some' if self.several else 'one'} of"
        if self.several and not self.choices:
            words = f"one or several, each {words}"
        return " ".join([f"{words}{' or none' if self.none else ''}", ", ".join(self.words)]).rstrip()

    @property
    def default_text(self) -> str:
        """'100', or the default in words."""
        return "required" if self.required else self.shown or show(self.default)

    def check(self, label: str, value: Any) -> Any:
        """Return the value as the setting's type; UsageError that starts with `label` where it is not allowed."""
        try:
            return self.convert(value)
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
            pass
        guess = closest(value, self.words) if isinstance(value, str) else None
        remedy = f"{self.allowed} (did you mean {guess}?)" if guess else self.allowed
        if not self.is_switch and self.default is not None:
            remedy = f"{remedy}; the default is {self.default_text}"
        raise UsageError(f"{label} {brief(value)} is not allowed; give {remedy}")

    def convert(self, value: Any) -> Any:
        """Return the value, given as text or as its type; ValueError, TypeError or such where it is not allowed."""
        if self.none and (value is None or (isinstance(value, str) and value.lower() in ("none", "null"))):
            return None
        if not self.several:
            return self._convert_one(value)
        items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        if not items:
            raise ValueError
        return tuple(self._convert_one(item.strip() if isinstance(item, str) else item) for item in items)

    def _convert_one(self, value: Any) -> Any:
        if self.read:
            return self.read(value)
        if self.type is bool:
            return value if isinstance(value, bool) else SWITCH_WORDS[str(value).lower()]
        if self.type in (int, float):
            if isinstance(value, bool) or not isinstance(value, str | (Integral if self.type is int else Real)):
                raise TypeError
            number = self.type(value)
            inclusive = (self.low is None or self.low <= number) and (self.high is None or number <= self.high)
            exclusive = (self.above is None or self.above < number) and (self.below is None or number < self.below)
            if not (inclusive and exclusive and math.isfinite(number)):
                raise ValueError
            return number
        if self.path:
            name = os.path.expanduser(value)
            if not name.strip() or "\0" in name:
                raise ValueError
            return name
        return {fold(word): word for word in self.words}[fold(value)]


def option(default: Any, group: str, help: str, **rules: Any) -> Any:
    """Return a dataclass field that declares a setting; `rules` are fields of `Option`.

    A callable default is called for each record; `shown` says it in words.
    """
    return declared_as(Option(group, help, **rules), default)


def declared_as(option: Option, default: Any) -> Any:
    """Return a dataclass field for this setting."""
    settings: dict[str, Any] = {"default_factory": default} if callable(default) else {"default": default}
    return dataclasses.field(**settings, metadata={"option": option})


def _options_of(record: type) -> tuple[Option, ...]:
    """Return the settings of a record in order of their declaration."""
    types, found = typing.get_type_hints(record), []
    for field in dataclasses.fields(record):
        if declared := field.metadata.get("option"):
            given = typing.get_args(types[field.name])
            none, several = type(None) in given, typing.get_origin(types[field.name]) is tuple
            single = given[0] if none or several else types[field.name]
            default = None if field.default is dataclasses.MISSING else field.default
            found.append(replace(declared, name=field.name, default=default, type=single, none=none, several=several))
    return tuple(found)


options_of: Callable[[type], tuple[Option, ...]] = functools.cache(_options_of)


def by_group(record: type) -> list[Option]:
    """Return the settings group by group, in order of first appearance, 'Other' last."""
    groups = [*dict.fromkeys(each.group for each in options_of(record) if each.group != "Other"), "Other"]
    return sorted(options_of(record), key=lambda each: groups.index(each.group))


def markdown_table(record: type) -> str:
    """Return the flags as a table for the README."""
    lines = ["| flag | default | meaning |", "|---|---|---|"]
    for each in by_group(record):
        words = f": {', '.join(each.words)}" if each.choices else ""
        lines.append(f"| `-{each.flag}` | {each.default_text} | {each.help}{words} |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the settings of a verb: every field is checked when the record is made."""

    debug: bool = option(False, "Other", "show the traceback of an error", saved=False)
    given: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)
    """Names of the settings that the user gave, by flag or file; the others have their defaults."""
    flags: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)
    """Those of them that were given as flags."""
    source: str = dataclasses.field(default="", compare=False, repr=False)
    """The file that the others of them come from, for error messages."""

    def __post_init__(self) -> None:
        for each in options_of(type(self)):
            value = getattr(self, each.name)
            if each.required and value == each.default:
                name = each.value_name if each.positional else f"-{each.flag}"
                raise UsageError(f"{name} is missing; give {each.help}")
            label = f"{self.source}: {each.name}" if self.source else each.name
            if each.name in self.flags:
                label = each.value_name if each.positional else f"-{each.flag}"
            object.__setattr__(self, each.name, each.check(label, value))

    @classmethod
    def from_mapping(cls, mapping: Mapping[Any, Any], source: str = "") -> Self:
        """Return the record with these values, which count as given; `source` names their file in an error."""
        values = cls.known(mapping, source)
        return cls(**values, given=frozenset(values), source=source)

    @classmethod
    def known(cls, mapping: Mapping[Any, Any], source: str = "") -> dict[str, Any]:
        """Return the values of a file by the names of the settings, 'data-dir' as 'data_dir'; UsageError for others."""
        names = [each.name for each in options_of(cls)]
        where = f"{source}: " if source else ""
        values = {}
        for key, value in mapping.items():
            name = key.replace("-", "_") if isinstance(key, str) else key
            if name not in names:
                guess = closest(str(name), names)
                remedy = f"did you mean {guess}?" if guess else f"the known ones are {', '.join(names)}"
                raise UsageError(f"{where}unknown setting {brief(key)}; {remedy}")
            if name in values:
                raise UsageError(f"{where}{name} is set twice; keep one of the two")
            values[name] = value
        return values

    def to_mapping(self) -> dict[str, Any]:
        """Return the settings that belong to a run, as plain types."""
        return {each.name: getattr(self, each.name) for each in options_of(type(self)) if each.saved}

    def notes(self) -> list[str]:
        """Return what the user should know of these settings, one line each."""
        return []

    def without_effect(self, reasons: Mapping[str, str]) -> list[str]:
        """Return '-tau 3.0 has no effect: …' for each of these settings that is given as a flag and has a reason."""
        return [
            f"-{each.flag}{'' if each.is_switch else f' {show(getattr(self, each.name))}'} has no effect: "
            + reasons[each.name]
            for each in options_of(type(self))
            if each.name in self.flags and each.name in reasons
        ]
