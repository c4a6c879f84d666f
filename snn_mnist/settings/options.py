"""Settings as records: a field of a frozen dataclass declares a setting once.

    tau: float = option(2.0, "Network", "membrane time constant", above=1)

The annotation says the type: int, float, bool, str; `| None` allows none, `tuple[int, ...]` several values. From this
one declaration come the flag (cli/parser.py), the key of a YAML file, the row of the README's table, and the check,
made once: when the record is made. Standard library only, so that `--help` is instant.
"""

import dataclasses
import os
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Self

from snn_mnist.errors import UsageError

SWITCH_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Option:
    """One setting: what `option` declares of it, and then what its field says."""

    group: str
    help: str
    low: float = -inf
    high: float = inf  # low ≤ x ≤ high
    above: float = -inf
    below: float = inf  # above < x < below
    choices: tuple[str, ...] = ()  # case, '_' and '-' do not matter
    read: Callable[[Any], Any] | None = None  # own conversion of a value; ValueError for one that is not allowed
    wanted: str = ""  # the allowed values in words, where `read` decides
    metavar: str = ""  # what stands for the value in the help, such as FILE
    shown: str = ""  # the default in words, where the value itself says little
    fixed: bool = False  # another value gives another result: a resumed run refuses it
    saved: bool = True  # belongs to config.yaml
    required: bool = False  # the default means "missing"
    positional: bool = False  # given without a flag
    name: str = ""
    default: Any = None
    type: Any = str  # of str, one with neither choices nor `read` is the path of a file or directory
    none: bool = False  # None is allowed
    several: bool = False  # a tuple of values

    @property
    def flag(self) -> str:
        """'-data-dir', which may also be written --data-dir; of a positional setting what stands for its value."""
        return self.value_name if self.positional else f"-{self.name.replace('_', '-')}"

    @property
    def is_switch(self) -> bool:
        """Whether the flag is -name or -no-name, without a value."""
        return self.type is bool and not self.read

    @property
    def value_name(self) -> str:
        return self.metavar or {int: "N", float: "X"}.get(self.type, "NAME")

    @property
    def meaning(self) -> str:
        """What the setting means, with the words to choose from."""
        return f"{self.help}: {', '.join(self.choices)}" if self.choices else self.help

    @property
    def default_text(self) -> str:
        return "required" if self.required else self.shown or show(self.default)

    @property
    def allowed(self) -> str:
        """The allowed values, for error messages."""
        limits = {"of at least": self.low, "at most": self.high, "above": self.above, "below": self.below}
        ends = " and ".join(f"{word} {limit:.10g}" for word, limit in limits.items() if abs(limit) < inf)
        kinds = {int: f"an integer {ends}", float: f"a number {ends}", bool: "true or false"}
        kind = kinds.get(self.type, "the name of a file or directory")
        words = self.wanted or (f"one of {', '.join(self.choices)}" if self.choices else kind.strip())
        none = " or none" if self.none and self.default is not None else ""
        return f"{'one or several, each ' if self.several else ''}{words}{none}"

    def check(self, label: str, value: Any) -> Any:
        """Return the value as the setting's type; UsageError that starts with `label` where it is not allowed."""
        try:
            return self.convert(value)
        except (ValueError, TypeError, KeyError, AttributeError):
            remedy = did_you_mean(value, self.choices, "") if isinstance(value, str) else ""
            words = [f"{label} {brief(value)} is not allowed", f"give {self.allowed}", remedy]
            raise UsageError("; ".join(filter(None, words))) from None

    def convert(self, value: Any) -> Any:
        """Return the value, given as text or as its type; ValueError, TypeError or such where it is not allowed."""
        if self.none and (value is None or str(value).lower() in ("none", "null")):
            return None
        if self.several:
            items = value.split(",") if isinstance(value, str) else value
            return tuple(self._convert_one(item.strip() if isinstance(item, str) else item) for item in items)
        return self._convert_one(value)

    def _convert_one(self, value: Any) -> Any:
        if self.read:
            return self.read(value)
        if self.type is bool:
            return SWITCH_WORDS[str(value).lower()]
        if self.type in (int, float):
            number = self.type(str(value))
            if not (self.low <= number <= self.high and self.above < number < self.below):
                raise ValueError
            return number
        if self.choices:
            return {fold(word): word for word in self.choices}[fold(value)]
        if not value.strip():
            raise ValueError
        return os.path.expanduser(value)


def option(default: Any, group: str, help: str, **rules: Any) -> Any:
    """Return a dataclass field that declares a setting; `rules` are fields of `Option`.

    A callable default is called for each record; `shown` says it in words.
    """
    return declared_as(Option(group, help, default=default, **rules))


def declared_as(option: Option) -> Any:
    """Return a dataclass field for this setting."""
    default: dict[str, Any] = {"default_factory" if callable(option.default) else "default": option.default}
    return dataclasses.field(**default, metadata={"option": option})


def options_of(record: type) -> tuple[Option, ...]:
    """Return the settings of a record in order of their declaration, those of the group Other last."""
    types, found = typing.get_type_hints(record), []
    for field in dataclasses.fields(record):
        if declared := field.metadata.get("option"):
            given = typing.get_args(types[field.name])
            none, several = type(None) in given, typing.get_origin(types[field.name]) is tuple
            single = given[0] if none or several else types[field.name]
            default = None if callable(declared.default) else declared.default
            found.append(replace(declared, name=field.name, default=default, type=single, none=none, several=several))
    return tuple(sorted(found, key=lambda each: each.group == "Other"))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the settings of a verb: every field is checked when the record is made."""

    debug: bool = option(False, "Other", "show the traceback of an error", saved=False)
    # Names of those that the user gave, those of them that were flags, and the file that the others come from.
    given: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)
    flags: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)
    source: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        for each in options_of(type(self)):
            value = getattr(self, each.name)
            if each.required and value == each.default:
                raise UsageError(f"{each.flag} is missing; give {each.help}")
            label = each.flag if each.name in self.flags else f"{self.source}: {each.name}".removeprefix(": ")
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
        values = {str(key).replace("-", "_"): value for key, value in mapping.items()}
        for key in values:
            if key not in names:
                remedy = did_you_mean(key, names, f"the known ones are {', '.join(names)}")
                raise UsageError(f"{source}: unknown setting {brief(key)}; {remedy}".removeprefix(": "))
        return values

    def to_mapping(self) -> dict[str, Any]:
        """Return the settings that belong to a run, as plain types."""
        return {each.name: getattr(self, each.name) for each in options_of(type(self)) if each.saved}

    def notes(self) -> list[str]:
        """Return what the user should know of these settings, one line each."""
        return []

    def without_effect(self, reasons: Mapping[str, str]) -> list[str]:
        """Return '-tau has no effect: …' for each of these settings that is given as a flag and has a reason."""
        return [
            f"{each.flag} has no effect: {reasons[each.name]}"
            for each in options_of(type(self))
            if each.name in self.flags and each.name in reasons
        ]


def fold(word: str) -> str:
    """Return what words that count as equal have in common: 'softsign' for 'SoftSign' and 'soft_sign'."""
    return re.sub("[-_]", "", word).lower()


def did_you_mean(word: str, words: Iterable[str], otherwise: str) -> str:
    """Return 'did you mean …?' with the most similar of `words`."""
    import difflib

    known = {fold(name): name for name in words}
    similar = difflib.get_close_matches(fold(word[:100]), known, n=1)
    return f"did you mean {known[similar[0]]}?" if similar else otherwise


def show(value: Any) -> str:
    """Return a value as one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(show, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def brief(value: Any) -> str:
    """Return a rejected value for an error message: one line, never long."""
    text = value if isinstance(value, str) and value.isprintable() and value.strip() else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
