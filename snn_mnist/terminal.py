"""What a person at a terminal sees: text of its width, messages on stderr, and bars while something takes seconds."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

WIDTH = 80  # columns: what the program prints is no wider, except paths and commands to be copied
REDRAW = 0.25  # seconds between two states of a bar
BAR = "{desc} {percentage:3.0f}%|{bar}| {remaining} left, {rate_noinv_fmt}{postfix}"


def wrapped(text: str, width: int = WIDTH, indent: str = "  ") -> str:
    """Return the text with lines of at most `width`, broken between words; paths and flags stay whole."""
    wrapper = textwrap.TextWrapper(width, "", indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(line if len(line) <= width else wrapper.fill(line) for line in text.split("\n"))


def columns(stream: TextIO) -> int:
    """Return the width of a terminal; 80 for one that does not know, and elsewhere."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or WIDTH
    except (OSError, ValueError):
        return WIDTH


def for_stream(text: str, stream: TextIO) -> str:
    """Return the text wrapped for a terminal; a file or pipe gets each message on one line, for `grep`."""
    return wrapped(text, columns(stream)) if stream.isatty() else text


def report(message: str, verb: str = "") -> None:
    """Print 'snn_mnist train: error: …' on stderr."""
    print(for_stream(f"{f'snn_mnist {verb}'.strip()}: {message}", sys.stderr), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Say to a person at a terminal what is going on; nothing is written into files and pipes."""
    if sys.stderr.isatty():
        print(for_stream(f"{text} ...", sys.stderr), file=sys.stderr, flush=True)


class _Report(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        report(record.getMessage())


def show_log() -> None:
    """Write what the package logs, such as that kernels are being compiled, to stderr."""
    log = logging.getLogger("snn_mnist")
    if not log.handlers:
        log.addHandler(_Report())
        log.setLevel(logging.INFO)
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # not that it can't write to HOME
        os.environ["MPLBACKEND"] = "agg"  # figures are files; Jupyter names a backend that may be missing


def progress_bar(title: str, images: int, done: int = 0, hidden: bool = False) -> tqdm:
    """Return a progress bar on stderr: 'epoch 3/10  45%|████▌    | 00:12 left, 181k images/s, acc 91.20%'.

    done: images of an earlier process, which do not count for the speed.
    """
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # no thread that redraws
    return tqdm(
        desc=title,
        total=images,
        initial=done,
        unit=" images",
        unit_scale=True,
        smoothing=0,
        mininterval=REDRAW,
        delay=1e-9,  # not drawn before there is progress: text may come first
        miniters=1,
        leave=False,
        ncols=min(columns(sys.stderr), 100) - 1,  # the last column would move the cursor to the next line
        nrows=24,  # some terminals do not know theirs
        bar_format=BAR,
        disable=hidden or not sys.stderr.isatty(),
    )


def print_above(bar: tqdm, text: str) -> None:
    """Print text above a bar."""
    with bar.external_write_mode(sys.stdout):
        print(for_stream(text, sys.stdout), flush=True)
