"""The command line as an argparse parser: a subparser for each verb, an argument for each setting of its record."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from snn_mnist import __version__
from snn_mnist.cli.verbs import VERBS
from snn_mnist.errors import UsageError
from snn_mnist.settings.options import Option, Options, by_group, options_of
from snn_mnist.settings.words import brief, closest

PROGRAM = "python -m snn_mnist"
ABOUT = "A spiking neural network learns MNIST: one layer of LIF neurons,\ntrained by surrogate gradients."
HINT = f"`{PROGRAM} VERB --help` shows a verb's flags with their defaults.\nA flag may be written with one dash or two."
HELP = ("-h", "-help", "--help")
VERSION = ("-version", "--version")


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, for which -1e-1 is a value, as it is for Python's from 3.14 on.

    The namespace holds only what was given, as text; a mistake is an ArgumentError.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter, **settings,
        )  # fmt: skip
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def _get_option_tuples(self, option_string: str) -> list:
        """None. Python before 3.14 abbreviates flags with one dash whatever allow_abbrev says; -b64 is no -b 64."""
        return []

    def add_settings(self, record: type[Options]) -> None:
        groups: dict[str, Any] = {}
        for each in by_group(record):
            if each.group not in groups:
                groups[each.group] = self.add_argument_group(each.group)
            _add_setting(groups[each.group], each)
        groups["Other"].add_argument(*HELP, action="help", help="show this help")


def _add_setting(group: Any, each: Option) -> None:
    listed = f": {', '.join(each.words)}" if len(each.words) > 5 else ""
    default = each.default_text if each.required else f"default: {each.default_text}"
    help = f"{each.help}{listed} ({default})".replace("%", "%%")
    value_name = f"{{{','.join(each.words)}}}" if 0 < len(each.words) <= 5 else each.value_name
    if each.positional:
        group.add_argument(each.name, nargs="*", metavar=value_name, help=help)
    elif each.is_switch:
        _add_flag(group, each, help=help, action="store_true")
        _add_flag(group, each, "no-", help=argparse.SUPPRESS, action="store_false")
    else:
        _add_flag(group, each, help=help, metavar=value_name, nargs="+" if each.several else None)


def _add_flag(group: Any, each: Option, prefix: str = "", *, help: str, **settings: Any) -> None:
    """Add a flag in every spelling; the help shows the first, -data-dir, and not --data-dir and --data_dir."""
    words = (f"{prefix}{each.flag}", f"{prefix}{each.name}", f"{prefix}{each.name}".replace("-", "_"))
    first, *others = dict.fromkeys(f"{dashes}{word}" for dashes in ("-", "--") for word in words)
    group.add_argument(first, dest=each.name, help=help, **settings)
    group.add_argument(*others, dest=each.name, help=argparse.SUPPRESS, **settings)


def usage(verb: str = "") -> str:
    """Return 'python -m snn_mnist predict FILE ... [flags]'."""
    if verb not in VERBS:
        return f"{PROGRAM} VERB [flags]"
    words = [PROGRAM, verb]
    for each in options_of(VERBS[verb].record):
        if each.positional:
            word = f"{each.value_name}{' ...' if each.several else ''}"
            words.append(word if each.required else f"[{word}]")
    return " ".join([*words, "[flags]"])


def command_line(verb: str) -> Parser:
    """Return the parser of the whole program, with the flags of this verb."""
    parser = Parser(prog="snn_mnist", usage=usage(), description=ABOUT, epilog=HINT)
    parser.add_argument(*HELP, action="help", help="show this help")
    parser.add_argument(*VERSION, action="version", version=f"snn_mnist {__version__}", help="show the version")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", parser_class=Parser)
    for name, each in VERBS.items():
        about = f"{each.summary[0].upper()}{each.summary[1:]}."
        own = verbs.add_parser(name, usage=usage(name), help=each.summary, description=about, epilog=each.epilog)
        if name == verb:
            own.add_settings(each.record)
    return parser


def read_command(tokens: Sequence[str]) -> tuple[str, Any]:
    """Return the verb and its settings: defaults, over them the -config file, over that the flags.

    UsageError for a mistake; SystemExit once the help or the version is printed, where that is asked for.
    """
    verb, given = read_flags(tokens)
    record, flags, file = VERBS[verb].record, frozenset(given), given.get("config", "")
    if file:
        from snn_mnist.settings.yaml_file import read_yaml

        settings = read_yaml(file)
        if "study" in settings and "study" not in {each.name for each in options_of(record)}:
            raise UsageError(f"{file} is a study: use sweep -config {file}")
        given = record.known(settings, file) | given
    return verb, record(**given, given=frozenset(given), flags=flags, source=file)


def read_flags(tokens: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the verb and the settings that are given as flags, by name, as text."""
    if tokens[:1] == ["help"]:
        tokens = [*tokens[1:2], "--help"]
    verb = tokens[0] if tokens else ""
    if verb not in (*VERBS, *HELP, *VERSION):
        raise UsageError(_no_verb(verb))
    options = {each.flag: each for each in options_of(VERBS[verb].record)} if verb in VERBS else {}
    for token in tokens:
        flag, equals, _ = token.partition("=")
        name = _name(flag).removeprefix("no-")
        if equals and flag.startswith("-") and name in options and options[name].is_switch:
            raise UsageError(f"{token}: a switch takes no value; give -{name} or -no-{name}")
    try:
        found, rest = command_line(verb).parse_known_args(tokens)
    except argparse.ArgumentError as error:
        if each := options.get(_name(str(error.argument_name).partition("/")[0])):
            raise UsageError(f"-{each.flag} needs a value; give {each.allowed}") from None
        raise UsageError(f"{error.argument_name}: {error.message}; --help lists the flags") from None
    given = {name: value for name, value in vars(found).items() if name != "verb"}
    plain = tokens[tokens.index("--") :] if "--" in tokens else []  # of which none is a flag
    for token in rest:
        if token.startswith("-") and token not in ("-", *plain):
            guess = closest(_name(token), [each.flag for each in options.values() if not each.positional])
            remedy = f"did you mean -{guess}?" if guess else "--help lists the flags"
            raise UsageError(f"unknown flag {brief(token.partition('=')[0])}; {remedy}")
    for each in options.values():
        if each.positional:
            # argparse leaves words after a flag in the rest
            words, rest = [*given.pop(each.name, []), *(word for word in rest if word != "--")], []
            if words:
                given[each.name] = words if each.several else words.pop(0)
                rest = [] if each.several else words
        elif isinstance(given.get(each.name), list):
            given[each.name] = ",".join(given[each.name])
    if rest:
        raise UsageError(
            f"{brief(rest[0])} is an unexpected argument; give settings as -name value, switches as -name or -no-name"
        )
    return verb, given


def _name(flag: str) -> str:
    """Return 'data-dir' of '--data_dir=x'."""
    return flag.partition("=")[0].lstrip("-").replace("_", "-")


def _no_verb(word: str) -> str:
    listed = f"give one of {', '.join(VERBS)}"
    if not word:
        return f"no verb; {listed} (`{PROGRAM} --help` explains them)"
    if word.startswith("-"):
        return f"{brief(word)} is a flag, not a verb; give the verb first: {PROGRAM} train {word} …"
    guess = closest(word, VERBS)
    return f"unknown verb {brief(word)}; {f'did you mean {guess}?' if guess else listed}"
