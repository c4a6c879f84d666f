"""`python -m snn_mnist VERB …`: a command line is parsed and its verb run; every error is one line and an exit code."""

import os
import sys
from collections.abc import Sequence

from snn_mnist.cli.parser import read_command
from snn_mnist.cli.shared_options import resolve_runs, tell
from snn_mnist.cli.streams import make_printable
from snn_mnist.cli.verbs import VERBS, usage
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.fields import SWITCH_WORDS
from snn_mnist.storage import directory as run_directory
from snn_mnist.storage.seeds import is_group
from snn_mnist.terminal import fit_terminal, say, show_log


def dispatch(tokens: Sequence[str]) -> int:
    """Runs a command line and returns its exit code. Errors come out as exceptions."""
    try:
        name, options = read_command(tokens)
    except SystemExit:  # after the help or the version
        return 0
    except UsageError:
        print(f"usage: {usage(tokens[0] if tokens else '')}", file=sys.stderr)
        raise
    tell(options.notes())
    options = resolve_runs(options)
    resumed = getattr(options, "resume", None)
    if resumed and not (name == "train" and is_group(resumed)):
        run_directory.find(resumed)  # a mistyped name is reported before seconds of imports
    show_log()
    if name != "runs":
        say("loading PyTorch")  # takes seconds
    return VERBS[name].run(options) or 0


def wants_traceback(tokens: Sequence[str]) -> bool:
    """Whether -debug is among them, in any spelling: the parser itself may be what fails."""
    wanted = False
    for token in tokens:
        flag, _, word = token.partition("=")
        if flag.startswith("-") and flag.lstrip("-") in ("debug", "no-debug"):
            wanted = SWITCH_WORDS.get(word.lower(), True) != flag.lstrip("-").startswith("no-")
    return wanted


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; prints an error as one line. Returns the exit code: 0, 1, 2, 130 or 143."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    verb = f" {tokens[0]}" if tokens and tokens[0] in VERBS else ""

    def failed(message: str, code: int) -> int:
        print(fit_terminal(f"snn_mnist{verb}: error: {' '.join(message.split())}", sys.stderr), file=sys.stderr)
        return code

    make_printable()
    try:
        code = dispatch(tokens)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return failed("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        if wants_traceback(tokens):
            raise
        if isinstance(error, SNNError):
            return failed(str(error), error.exit_code)
        if isinstance(error, ModuleNotFoundError):
            remedy = "activate the environment that scripts/train.sh makes: source .venv/bin/activate"
            if error.name in ("optuna", "scipy"):
                remedy = "sweep needs it: SNN_MNIST_EXTRAS=sweep bash scripts/setup.sh, or pip install optuna scipy"
            return failed(f"{sys.executable} has no {error.name}; {remedy}", 1)
        what = (str(error).strip().splitlines() or [""])[0]
        return failed(f"{type(error).__name__}: {what}; run again with -debug for the traceback", 1)


if __name__ == "__main__":
    sys.exit(main())
