"""The command line as an argparse parser: a subparser for each verb, an argument for each setting of its record."""

import argparse
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

from snn_mnist import __version__
from snn_mnist.cli.verbs import PROGRAM, VERBS, usage
from snn_mnist.errors import UsageError
from snn_mnist.settings.fields import SWITCH_WORDS, Option, Options, options_of, sorted_by_group
from snn_mnist.settings.words import brief, closest

ABOUT = "A spiking neural network learns MNIST: one layer of LIF neurons,\ntrained by surrogate gradients."
HINT = f"`{PROGRAM} VERB --help` shows a verb's flags with their defaults.\nA flag may be written with one dash or two."
HELP = ("-h", "-help", "--help")
VERSION = ("-version", "--version")

Record = TypeVar("Record", bound=Options)


class Parser(argparse.ArgumentParser):
    """argparse for which -1e-1 is a value, as it is for Python's from 3.14 on, and which knows no abbreviations."""

    def __init__(self, **settings: Any) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(add_help=False, allow_abbrev=False, formatter_class=layout, **settings)
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def _get_option_tuples(self, option_string: str) -> list:
        """None. Python before 3.14 abbreviates flags with one dash whatever allow_abbrev says; -b64 is no -b 64."""
        return []


class VerbParser(Parser):
    """The flags of one record. The namespace holds the settings that were given, checked; a mistake is a UsageError."""

    def __init__(self, record: type[Options], **settings: Any) -> None:
        super().__init__(argument_default=argparse.SUPPRESS, exit_on_error=False, **settings)
        self.options = {each.flag: each for each in sorted_by_group(record)}
        groups: dict[str, Any] = {}
        for each in self.options.values():
            if each.group not in groups:
                groups[each.group] = self.add_argument_group(each.group)
            self._add_option(groups[each.group], each)
        groups["Other"].add_argument(*HELP, action="help", help="show this help")

    def _add_option(self, group: Any, each: Option) -> None:
        kind, words = each.kind, list(each.kind.names())
        listed = f": {', '.join(words)}" if len(words) > 5 else ""
        default = each.default_text if each.required else f"default: {each.default_text}"
        help = f"{each.help}{listed} ({default})".replace("%", "%%")
        metavar = f"{{{','.join(words)}}}" if 0 < len(words) <= 5 else kind.metavar
        if each.positional:
            group.add_argument(each.name, nargs="*", metavar=metavar, help=help)
        elif not metavar:
            _add_flag(group, each, action="store_true", help=help)
            _add_flag(group, each, "no-", action="store_false", help=argparse.SUPPRESS)
        elif kind.many:
            _add_flag(group, each, nargs="+", metavar=metavar, help=help)
        else:
            _add_flag(group, each, type=partial(each.check, f"-{each.flag}"), metavar=metavar, help=help)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        tokens = [self._without_value(token) for token in args or ()]
        try:
            found, rest = super().parse_known_args(tokens, namespace)
        except argparse.ArgumentError as error:  # a value is missing: argparse finds no other mistake here
            each = self.options.get(_name(str(error.argument_name).partition("/")[0]))
            if each is None:  # -h=3
                raise UsageError(f"{error.argument_name} takes no value") from None
            raise UsageError(f"-{each.flag} needs a value; give {each.wanted}") from None
        for token in rest:
            if token.startswith("-") and token != "-":
                raise UsageError(self._unknown(token))
        if loose := self._check_words(found.__dict__, rest):
            at = len(tokens) - 1 - tokens[::-1].index(loose[-1])
            raise UsageError(self._loose(loose[-1], before=tokens[at - 1] if at else ""))
        return found, []

    def _unknown(self, token: str) -> str:
        flag = token.partition("=")[0]
        guess = closest(_name(flag), [each.flag for each in self.options.values() if not each.positional])
        return f"unknown flag {brief(flag)}; {f'did you mean -{guess}?' if guess else '--help lists the flags'}"

    def _loose(self, word: str, before: str) -> str:
        name = _name(before).removeprefix("no-")
        each = self.options.get(name)
        if word.lower() in SWITCH_WORDS and before.startswith("-") and each and not each.kind.metavar:
            return f"{before} {word}: a switch takes no value; give -{name} or -no-{name}"
        return f"{brief(word)} is an unexpected argument; give settings as -name value (--help lists them)"

    def _check_words(self, given: dict[str, Any], rest: list[str]) -> list[str]:
        """Checks the settings that take several words, in place; returns the words that belong to none."""
        for each in self.options.values():
            if each.positional:
                words = given.pop(each.name, []) + rest  # argparse leaves those after a flag in the rest
                fits = each.kind.many or len(words) == 1
                if words and fits:
                    given[each.name] = each.check(each.kind.metavar, words if each.kind.many else words[0])
                rest = [] if fits else words
            elif isinstance(given.get(each.name), list):
                given[each.name] = each.check(f"-{each.flag}", ",".join(given[each.name]))
        return rest

    def _without_value(self, token: str) -> str:
        """`-amp=off` as `-no-amp`: argparse has no switch that may have a value."""
        flag, equals, text = token.partition("=")
        name = _name(flag)
        each = self.options.get(name.removeprefix("no-"))
        if not flag.startswith("-") or not equals or each is None or each.kind.metavar:
            return token
        return f"-{each.flag}" if each.check(flag, text) != name.startswith("no-") else f"-no-{each.flag}"


def _name(flag: str) -> str:
    """'data-dir' of '--data_dir=x'."""
    return flag.partition("=")[0].lstrip("-").replace("_", "-")


def _add_flag(group: Any, each: Option, prefix: str = "", *, help: str, **settings: Any) -> None:
    """A flag in every spelling; the help shows the first, -data-dir, and not --data-dir, --data_dir and -data_dir."""
    words = (f"{prefix}{each.flag}", f"{prefix}{each.name}", f"{prefix}{each.name}".replace("-", "_"))
    first, *others = dict.fromkeys(f"{dashes}{word}" for dashes in ("-", "--") for word in words)
    group.add_argument(first, dest=each.name, help=help, **settings)
    group.add_argument(*others, dest=each.name, help=argparse.SUPPRESS, **settings)


def command_line() -> Parser:
    """The parser of the whole program."""
    parser = Parser(prog="snn_mnist", usage=usage(), description=ABOUT, epilog=HINT)
    parser.add_argument(*HELP, action="help", help="show this help")
    parser.add_argument(*VERSION, action="version", version=f"snn_mnist {__version__}", help="show the version")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", parser_class=VerbParser)
    for name, verb in VERBS.items():
        verbs.add_parser(name, record=verb.record, usage=usage(name), help=verb.summary,
                         description=f"{verb.summary[0].upper()}{verb.summary[1:]}.", epilog=verb.epilog)  # fmt: skip
    return parser


def read_command(tokens: Sequence[str]) -> tuple[str, Options]:
    """The verb and its settings; SystemExit once the help or the version is printed, where that is asked for."""
    if tokens[:1] == ["help"]:
        tokens = [*tokens[1:2], "--help"]
    word = tokens[0] if tokens else ""
    if word not in (*VERBS, *HELP, *VERSION):
        raise UsageError(_no_verb(word))
    given = vars(command_line().parse_args(tokens))
    verb = given.pop("verb")
    return verb, _over_file(VERBS[verb].record, given)


def _no_verb(word: str) -> str:
    listed = f"give one of {', '.join(VERBS)}"
    if not word:
        return f"no verb; {listed} (`{PROGRAM} --help` explains them)"
    if word.startswith("-"):
        return f"{brief(word)} is a flag, not a verb; give the verb first: {PROGRAM} train {word} …"
    guess = closest(word, VERBS)
    return f"unknown verb {brief(word)}; {f'did you mean {guess}?' if guess else listed}"


def read_options(record: type[Record], tokens: Sequence[str]) -> Record:
    """The settings that the flags of a verb give."""
    return _over_file(record, vars(VerbParser(record).parse_args(tokens)))


def _over_file(record: type[Record], given: dict[str, Any]) -> Record:
    """The record: its defaults, over them the -config file, over that the flags."""
    flags = frozenset(given)
    if file := given.get("config"):
        from snn_mnist.settings.config_file import read_yaml

        settings = read_yaml(file)
        if "study" in settings and "study" not in {each.name for each in options_of(record)}:
            raise UsageError(f"{file} is a study: use sweep -config {file}")
        given = record.check_mapping(settings, str(file)) | given
    return record(**given, given=frozenset(given), flags=flags)
