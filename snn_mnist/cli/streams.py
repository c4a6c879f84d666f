"""Standard streams to which every character can be written, whatever the terminal shows."""

import codecs
import os
import sys

PLAIN = {"±": "+-", "×": "x", "→": "->", "…": "...", "τ": "tau"}


def make_printable() -> None:
    """A stream that can't encode '±' writes '+-', and an escape for other characters, instead of failing.

    Streams that the caller closed (`>&-`) become /dev/null: else the first file opened would take their number.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="snn_mnist.plain")


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What a codec writes for characters that it does not have."""
    assert isinstance(error, UnicodeEncodeError)
    part = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in part), error.end


codecs.register_error("snn_mnist.plain", _plainly)
