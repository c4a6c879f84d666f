"""The verbs, and the command line as argparse parsers: a parser for each verb, an argument for each of its settings.

To add a verb, write its file, with its settings beside its `run`, and add a line to VERBS.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from snn_mnist import __version__
from snn_mnist.cli import bench, convert, evaluate, export, info, plot, predict, runs, sweep, trace, train
from snn_mnist.errors import UsageError
from snn_mnist.settings.config import RESUME_RULES, Config, read_yaml
from snn_mnist.settings.options import Option, Options, brief, did_you_mean, options_of

PROGRAM = "python -m snn_mnist"


@dataclass(frozen=True)
class Verb:
    """A verb: the record of its settings and the function that carries it out; None means exit code 0."""

    record: type[Options]
    run: Callable[[Any], int | None]
    summary: str
    epilog: str = ""


VERBS = {
    "train": Verb(Config, train.run, "train a network, test it after each epoch, save the run", RESUME_RULES),
    "eval": Verb(evaluate.EvalOptions, evaluate.run, "accuracy of a checkpoint: mean ± std, by class, by T"),
    "trace": Verb(trace.TraceOptions, trace.run, "follow single images through a checkpoint, in pictures"),
    "sweep": Verb(sweep.SweepOptions, sweep.run, "search for good settings: many trainings as one study", sweep.EPILOG),
    "runs": Verb(runs.RunsOptions, runs.run, "list runs: what differs, results, state"),
    "plot": Verb(plot.PlotOptions, plot.run, "draw the curves and weights of a run; compare the curves of several"),
    "predict": Verb(predict.PredictOptions, predict.run, "classify your own pictures"),
    "export": Verb(export.ExportOptions, export.run, "write a checkpoint for other simulators and hardware"),
    "import": Verb(export.ImportOptions, export.run_import, "make a checkpoint of a NIR file"),
    "convert": Verb(convert.ConvertOptions, convert.run, "train an ANN and convert it into a spiking network"),
    "bench": Verb(bench.BenchOptions, bench.run, "measure the images per second of every backend"),
    "info": Verb(info.InfoOptions, info.run, "show versions, devices, backends and the data found"),
}


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, for which -1e-1 is a value, as it is for Python's from 3.14 on.

    The namespace holds only what was given, as text; a mistake is a UsageError.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS, **settings)
        self._negative_number_matcher = re.compile(r"-\.?\d")
        self.add_argument("-h", "-help", action="help", help="show this help")

    def _get_option_tuples(self, option_string: str) -> list:
        """Return none: before 3.14 Python abbreviates one-dash flags whatever allow_abbrev says; -b64 is no -b 64."""
        return []

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; --help lists the flags")


def program_parser() -> Parser:
    """Return the parser of the program without a verb, which shows the help and the version."""
    about = "A spiking neural network learns MNIST: one layer of LIF neurons, trained by surrogate gradients."
    hint = f"`{PROGRAM} VERB --help` shows a verb's flags. A flag may be written with one dash or two."
    parser = Parser(prog="snn_mnist", usage=usage(), description=about, epilog=hint)
    parser.add_argument("-version", action="version", version=f"snn_mnist {__version__}", help="show the version")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", parser_class=argparse.ArgumentParser)
    for name, verb in VERBS.items():
        verbs.add_parser(name, help=verb.summary)
    return parser


def verb_parser(verb: str, options: Sequence[Option]) -> Parser:
    """Return the parser of a verb's settings; a flag is spelled -data-dir there."""
    parser = Parser(usage=usage(verb), description=f"{VERBS[verb].summary}.", epilog=VERBS[verb].epilog)
    groups = {name: parser.add_argument_group(name) for name in dict.fromkeys(each.group for each in options)}
    for each in options:
        add = groups[each.group].add_argument
        help = f"{each.meaning} ({'' if each.required else 'default: '}{each.default_text})".replace("%", "%%")
        if each.positional:
            add(each.name, nargs="*", metavar=each.flag, help=help)
        elif each.is_switch:
            add(each.flag, dest=each.name, action="store_true", help=help)
            add(f"-no{each.flag}", dest=each.name, action="store_false", help=argparse.SUPPRESS)
        else:
            nargs = "+" if each.several else None
            add(each.flag, dest=each.name, nargs=nargs, metavar=each.value_name, help=help)
    return parser


def usage(verb: str = "") -> str:
    """Return 'python -m snn_mnist predict FILE ... [flags]'."""
    if verb not in VERBS:
        return f"{PROGRAM} VERB [flags]"
    words = [PROGRAM, verb]
    for each in options_of(VERBS[verb].record):
        if each.positional:
            word = f"{each.flag}{' ...' * each.several}"
            words.append(word if each.required else f"[{word}]")
    return " ".join([*words, "[flags]"])


def read_command(tokens: Sequence[str]) -> tuple[str, Any]:
    """Return the verb and its settings: defaults, over them the -config file, over that the flags.

    UsageError for a mistake; SystemExit once the help or the version is printed, where that is asked for.
    """
    verb, *words = tokens or [""]
    if _one_dash(verb) in ("-h", "-help", "-version"):
        program_parser().parse_args([_one_dash(verb)])
    if verb not in VERBS:
        remedy = did_you_mean(verb, VERBS, f"give one of {', '.join(VERBS)}")
        raise UsageError(f"{f'{brief(verb)} is not a verb' if verb else 'no verb'}; {remedy}")
    record = VERBS[verb].record
    given = read_flags(verb, words)
    flags, file = frozenset(given), given.get("config", "")
    if file:
        settings = read_yaml(file)
        if "study" in settings and verb != "sweep":
            raise UsageError(f"{file} is a study: use sweep -config {file}")
        given = record.known(settings, file) | given
    return verb, record(**given, given=frozenset(given), flags=flags, source=file)


def read_flags(verb: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a verb that are given on the command line, by name, as text."""
    options = options_of(VERBS[verb].record)
    end = words.index("--") if "--" in words else len(words)
    tokens = list(map(_one_dash, words[:end]))
    for each in options:
        if each.is_switch and any(re.match(f"-(no-)?{each.flag[1:]}=", token) for token in tokens):
            raise UsageError(f"{each.flag} is a switch, without a value; give {each.flag} or -no{each.flag}")
    found, rest = verb_parser(verb, options).parse_known_args(tokens)
    for token in rest:
        if token.startswith("-") and token != "-":
            flag, flags = token.partition("=")[0], [each.flag for each in options if not each.positional]
            raise UsageError(f"unknown flag {brief(flag)}; {did_you_mean(flag, flags, '--help lists the flags')}")
    rest += words[end + 1 :]
    given = {name: ",".join(value) if isinstance(value, list) else value for name, value in vars(found).items()}
    for each in options:
        if each.positional and (names := [*getattr(found, each.name, []), *rest]):
            given[each.name], rest = (names, []) if each.several else (names[0], names[1:])
    if rest:
        raise UsageError(f"{brief(rest[0])} is an unexpected argument; give settings as -name value, or -no-name")
    return given


def _one_dash(token: str) -> str:
    """Return '-data-dir=x' for '--data_dir=x'; a value as it is."""
    return re.sub(r"^--?([A-Za-z][\w-]*)", lambda flag: "-" + flag[1].replace("_", "-"), token)
