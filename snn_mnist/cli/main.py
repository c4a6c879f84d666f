"""`python -m snn_mnist VERB …`: flags to a checked record of settings, the record to the verb.

A flag takes one dash, as in the tutorial, or two; it is never abbreviated, and its value may begin with a
dash (`-v-reset -1e-1`), neither of which argparse offers. To add a verb, add a line to VERBS.
"""

import codecs
import contextlib
import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from snn_mnist import __version__
from snn_mnist.cli.verb_settings import (
    BenchOptions,
    EvalOptions,
    ExportOptions,
    ImportOptions,
    InfoOptions,
    PlotOptions,
    PredictOptions,
    TraceOptions,
)
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.runs import directory as run_directory
from snn_mnist.runs.config import RESUME_RULES, Config
from snn_mnist.runs.fields import (
    SWITCH_WORDS,
    Options,
    brief,
    closest,
    default_of,
    default_text,
    flag_of,
    options_of,
    read_yaml,
    sorted_by_group,
)

PROGRAM = "python -m snn_mnist"


@dataclass(frozen=True)
class Verb:
    """A verb's settings and who carries it out: `handler(options) -> int | None`, imported when called."""

    record: type[Options]
    handler: str  # 'module:function'
    summary: str
    epilog: str = ""

    def run(self, options: Options) -> int:
        module, function = self.handler.split(":")
        return getattr(importlib.import_module(module), function)(options) or 0


VERBS = {
    "train": Verb(
        Config,
        "snn_mnist.cli.train:run",
        "train a network, test it after each epoch, save the run",
        RESUME_RULES,
    ),
    "eval": Verb(
        EvalOptions, "snn_mnist.cli.evaluate:run", "test a checkpoint: accuracy as mean ± std, by class, by T"
    ),
    "trace": Verb(TraceOptions, "snn_mnist.cli.trace:run", "follow single images through a checkpoint, in pictures"),
    "plot": Verb(PlotOptions, "snn_mnist.cli.plot:run", "draw the curves and weights of runs"),
    "predict": Verb(PredictOptions, "snn_mnist.cli.predict:run", "classify your own pictures"),
    "export": Verb(ExportOptions, "snn_mnist.cli.export:run", "write a checkpoint for other simulators and hardware"),
    "import": Verb(ImportOptions, "snn_mnist.cli.export:run_import", "make a checkpoint of a NIR file"),
    "bench": Verb(BenchOptions, "snn_mnist.cli.bench:run", "measure the images per second of every backend"),
    "info": Verb(InfoOptions, "snn_mnist.cli.info:run", "show versions, devices, backends and the data found"),
}


# ---------------------------------------------------------------------------- flags


def parse(record: type[Options], tokens: Sequence[str]) -> dict[str, Any]:
    """The settings that the command line gives, checked; UsageError for anything it does not know."""
    flags = {flag_of(field): (field, declared) for field, declared in options_of(record)}
    positionals = any(declared.positional for _, declared in flags.values())
    values: dict[str, Any] = {}
    loose: list[str] = []  # what stands without a flag
    queue = list(tokens)
    while queue:
        token = queue.pop(0)
        if not token.startswith("-") or token == "-":
            loose.append(token)
            continue
        name, equals, text = _split(token)
        negated = name.startswith("no-") and name not in flags
        field, declared = flags.get(name.removeprefix("no-") if negated else name, (None, None))
        if not field or not declared or declared.positional or (negated and (declared.kind.metavar or equals)):
            guess = closest(name, [known for known, (_, option) in flags.items() if not option.positional])
            remedy = f"did you mean -{guess}?" if guess else "-help lists the flags"
            raise UsageError(f"unknown flag {brief(token.partition('=')[0])}; {remedy}")
        value: Any = text
        if not declared.kind.metavar:
            if not equals and queue and queue[0].lower() in SWITCH_WORDS and not positionals:
                flag = flag_of(field)
                raise UsageError(f"-{name} {queue[0]}: a switch takes no value; give -{flag} or -no-{flag}")
            value = text if equals else not negated
        elif not equals:
            if not queue or _is_flag(queue[0], flags):
                raise UsageError(f"-{name} needs a value; give {declared.kind.wanted}")
            value = queue.pop(0)
            while declared.kind.many and queue and not queue[0].startswith("-"):
                value = f"{value},{queue.pop(0)}"
        values[field.name] = declared.check(f"-{flag_of(field)}", value, default_of(field))
    return values | _positional(record, loose)


def _split(token: str) -> tuple[str, bool, str]:
    """'--data_dir=x' as ('data-dir', True, 'x')."""
    name, equals, text = token.partition("=")
    return name.lstrip("-").replace("_", "-"), bool(equals), text


def _is_flag(token: str, flags: Iterable[str]) -> bool:
    name, _, _ = _split(token)
    return token.startswith("-") and (name in flags or name.removeprefix("no-") in flags)


def _positional(record: type[Options], loose: list[str]) -> dict[str, Any]:
    if not loose:
        return {}
    for field, declared in options_of(record):
        if declared.positional and (declared.kind.many or len(loose) == 1):
            label = declared.kind.metavar.removesuffix(" …")
            return {field.name: declared.check(label, loose if declared.kind.many else loose[0])}
    raise UsageError(f"{brief(loose[-1])} stands alone; settings are given as -name value (-help lists them)")


def read_options(record: type[Options], tokens: Sequence[str]) -> Options:
    """The record of a verb: its defaults, over them the -config file, over that the flags."""
    values = parse(record, tokens)
    if file := values.get("config"):
        values = record.check_mapping(read_yaml(file), str(file)) | values
    return record(**values, given=frozenset(values))


# ---------------------------------------------------------------------------- help


def help_text() -> str:
    width = max(map(len, VERBS))
    lines = [
        f"usage: {PROGRAM} VERB [flags]",
        "",
        "A spiking neural network learns MNIST: one layer of LIF neurons, trained by surrogate gradients.",
        "",
        "verbs:",
        *(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()),
        "",
        f"`{PROGRAM} VERB -help` shows a verb's flags with their defaults; `-version` the version.",
    ]
    return "\n".join(lines) + "\n"


def verb_help(name: str) -> str:
    verb = VERBS[name]
    width = min(max(shutil.get_terminal_size().columns, 60), 110)
    rest = [declared.kind.metavar for _, declared in options_of(verb.record) if declared.positional]
    usage = " ".join([PROGRAM, name, *rest, "[flags]"])
    lines = [f"usage: {usage}", "", f"{verb.summary[0].upper()}{verb.summary[1:]}."]
    group = ""
    for field, declared in sorted_by_group(verb.record):
        if declared.group != group:
            group = declared.group
            lines += ["", f"{group}:"]
        metavar = declared.kind.metavar.replace(
            "NAME",
            "{" + ",".join(declared.kind.words()) + "}" if 0 < len(declared.kind.words()) <= 5 else "NAME",
        )
        head = metavar if declared.positional else f"-{flag_of(field)} {metavar}".rstrip()
        text = declared.help
        if len(declared.kind.words()) > 5:
            text = f"{text}: {', '.join(declared.kind.words())}"
        text = f"{text} ({default_text(field, declared)})"
        wrapped = textwrap.wrap(text, width - 26)
        if len(head) > 22:
            lines.append(f"  {head}")
            head = ""
        lines += [f"  {head:22}  {wrapped[0]}", *(f"{'':26}{line}" for line in wrapped[1:])]
    if verb.epilog:
        lines += ["", verb.epilog.rstrip()]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------- main


def dispatch(tokens: list[str]) -> int:
    """Carry out a command line; its exit code. Errors come out as exceptions."""
    word = tokens[0] if tokens else ""
    asks_help = [token for token in tokens if token in ("-h", "-help", "--help")]
    if word in VERBS:
        if asks_help:
            print(verb_help(word), end="")
            return 0
        verb = VERBS[word]
        options = read_options(verb.record, tokens[1:])
        for note in options.notes():
            print(f"snn_mnist: note: {note}", file=sys.stderr)
        if resumed := getattr(options, "resume", None):
            run_directory.find(resumed)  # a mistyped name is told before seconds of imports
        return verb.run(options)
    if asks_help or word == "help":
        print(help_text(), end="")
        return 0
    if word in ("-version", "--version"):
        print(f"snn_mnist {__version__}")
        return 0
    if not word:
        raise UsageError(f"no verb; give one of {', '.join(VERBS)} (`{PROGRAM} -help` explains them)")
    if word.startswith("-"):
        raise UsageError(f"{brief(word)} is no verb; put one first: {PROGRAM} train {word} …")
    guess = closest(word, VERBS)
    remedy = f"did you mean {guess}?" if guess else f"give one of {', '.join(VERBS)}"
    raise UsageError(f"unknown verb {brief(word)}; {remedy}")


@contextlib.contextmanager
def _printable_streams() -> Iterator[None]:
    """Let a terminal that cannot show '±' show '+-', and an escape for a path's characters, instead of failing.

    Streams that the caller closed (`>&-`) become /dev/null: else the first file opened would take their place.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="snn_mnist.plain")
    yield


PLAIN = {"±": "+-", "×": "x", "→": "->", "…": "...", "τ": "tau"}


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What a codec is to write for characters that it does not have."""
    assert isinstance(error, UnicodeEncodeError)
    part = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in part), error.end


codecs.register_error("snn_mnist.plain", _plainly)


INSTALL = "take the environment that scripts/train.sh makes: source .venv/bin/activate"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; print an error as one line. Returns the exit code: 0, 1, 2, 130 or 143."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    debug = any(token in ("-debug", "--debug") for token in tokens)
    try:
        with _printable_streams():
            code = dispatch(tokens)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except SNNError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        if debug:
            raise
        return _fail(f"{sys.executable} has no {error.name}; {INSTALL}", 1)
    except Exception as error:
        if debug:
            raise
        what = (str(error).strip().splitlines() or [""])[0]
        return _fail(f"{type(error).__name__}: {what}; run again with -debug for the traceback", 1)


def _fail(message: str, code: int) -> int:
    one_line = " ".join(message.split())
    print(f"snn_mnist: error: {one_line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
