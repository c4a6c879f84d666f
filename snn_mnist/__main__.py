"""`python -m snn_mnist VERB …`: a command line is parsed and its verb run; every error is one line and an exit code."""

import gc
import os
import sys
from collections.abc import Sequence

from snn_mnist.cli.parser import VERBS, read_command, usage
from snn_mnist.cli.shared import resolve_runs
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.terminal import report, say, show_log


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; print an error as one line. Return the exit code: 0, 1, 2, 130 or 143."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    verb = next(iter(tokens), "")
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`): a file of the run would take its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # '?' for a character that it can't encode
    try:
        try:
            verb, options = read_command(tokens)
        except UsageError:
            print(f"usage: {usage(verb)}", file=sys.stderr)
            raise
        except SystemExit:  # after the help or the version
            return 0
        for note in options.notes():
            report(f"note: {note}")
        options = resolve_runs(options)
        show_log()
        if verb != "runs":
            say("loading PyTorch")  # takes seconds
        code = VERBS[verb].run(options) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _failed(verb, "interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        if "-debug" in tokens or "--debug" in tokens:  # the parser itself may be what fails
            raise
        if isinstance(error, SNNError):
            return _failed(verb, str(error), error.exit_code)
        if isinstance(error, ModuleNotFoundError):
            remedy = "activate the environment that scripts/train.sh makes: source .venv/bin/activate"
            if error.name == "optuna":
                remedy = "sweep needs it: SNN_MNIST_EXTRAS=sweep bash scripts/setup.sh, or pip install optuna"
            return _failed(verb, f"{sys.executable} has no {error.name}; {remedy}", 1)
        what = (str(error).strip().splitlines() or [""])[0]
        return _failed(verb, f"{type(error).__name__}: {what}; run again with -debug for the traceback", 1)


def _failed(verb: str, message: str, code: int) -> int:
    report(f"error: {' '.join(message.split())}", verb if verb in VERBS else "")
    return code


def program() -> int:
    """Run `main` with few garbage collections: among PyTorch's objects they take a second of its start and end."""
    gc.set_threshold(50_000, 20, 20)
    code = main()
    if "triton" not in sys.modules:  # its bindings print what is not collected
        gc.freeze()  # so the interpreter, which collects as it ends, looks at none
    return code


if __name__ == "__main__":
    sys.exit(program())
