"""What a person at a terminal sees: text that fits, and while something takes seconds a line that is drawn anew."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any, TextIO

WIDTH = 80  # columns: what the program prints fits into them, except paths and commands to be copied
REDRAW = 0.25  # seconds between two states of a line


def fit(text: str, width: int = WIDTH, indent: str = "  ") -> str:
    """The lines of a text, those that are longer than `width` broken between words; paths and flags stay whole."""

    def broken(line: str) -> str:
        return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)

    return "\n".join(line if len(line) <= width else broken(line) for line in text.split("\n"))


def fit_terminal(text: str, stream: TextIO) -> str:
    """`fit` for a terminal; a file or pipe gets each message on one line, for `grep`."""
    return fit(text, columns(stream)) if stream.isatty() else text


def say(text: str) -> None:
    """Tells a person at a terminal what is going on; nothing is written into files and pipes."""
    if sys.stderr.isatty():
        print(fit(f"{text} ...", columns(sys.stderr)), file=sys.stderr, flush=True)


class _Stderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(fit_terminal(f"snn_mnist: {record.getMessage()}", sys.stderr), file=sys.stderr, flush=True)


def show_log() -> None:
    """What the package logs, such as that kernels are being compiled, is written to stderr."""
    log = logging.getLogger("snn_mnist")
    if not log.handlers:
        log.addHandler(_Stderr())
        log.setLevel(logging.INFO)
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # not that it can't write to HOME
        os.environ["MPLBACKEND"] = "agg"  # figures are files; Jupyter names a backend that may be missing


def columns(stream: TextIO) -> int:
    """The width of a terminal; 80 for one that does not know, and elsewhere."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or WIDTH
    except (OSError, ValueError):
        return WIDTH


def duration(seconds: float) -> str:
    """'0:07', '12:34', '1:02:03'"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def speed(images_per_s: float) -> str:
    """'850 images/s', '18.1k images/s', '181k images/s'"""
    thousands = images_per_s / 1000
    number = f"{images_per_s:.0f}" if thousands < 1 else f"{thousands:.1f}k" if thousands < 100 else f"{thousands:.0f}k"
    return f"{number} images/s"


def fitting(parts: Sequence[str], losing: Sequence[int], room: int) -> str:
    """The parts side by side in `room` columns; those at the positions `losing` are left out, the first one first."""
    kept = dict(enumerate(parts))
    for i in losing:
        if len("  ".join(kept.values())) <= room:
            break
        del kept[i]
    return "  ".join(kept.values())


class StatusLine:
    """The lowest line of a terminal, written over by tqdm until it is cleared. Where stderr is no terminal: nothing."""

    def __init__(self, interactive: bool | None = None) -> None:
        self.interactive = sys.stderr.isatty() if interactive is None else interactive
        self.shown = float("-inf")  # when
        self.bar: Any = None

    def due(self) -> bool:
        """Whether what is shown is old enough to be drawn anew."""
        return self.interactive and time.perf_counter() - self.shown > REDRAW

    def show(self, text: str) -> None:
        self._draw("{desc}", text, 0.0)

    def meter(self, title: str, share: float, parts: Sequence[str], losing: Sequence[int]) -> None:
        """'epoch 3/100  45%|█████▌      | loss 0.0171  acc 91.20%  181k images/s  0:12 left', see `fitting`."""
        room = self.width - len(f"{title} 100%|| ") - 8  # eight cells for the bar
        self._draw(f"{title} {{percentage:3.0f}}%|{{bar}}| {{desc}}", fitting(parts, losing, room), share)

    @property
    def width(self) -> int:
        return min(columns(sys.stderr), 100) - 1  # the last column would move the cursor to the next line

    def _draw(self, layout: str, text: str, share: float) -> None:
        if not self.interactive:
            return
        if self.bar is None:
            from tqdm import tqdm

            unicode = (getattr(sys.stderr, "encoding", "") or "").lower().replace("-", "").startswith("utf")
            self.bar = tqdm(total=1.0, leave=False, file=sys.stderr, ascii=not unicode, nrows=24, delay=1e-9)
        self.bar.bar_format, self.bar.ncols, self.bar.n = layout, self.width, min(share, 1.0)
        self.bar.set_description_str(text, refresh=False)
        self.bar.refresh()
        self.shown = time.perf_counter()

    def clear(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Meter(StatusLine):
    """How far a work on so many images has come. A context: the line is gone behind it."""

    def __init__(self, title: str, images: int, interactive: bool | None = None) -> None:
        super().__init__(interactive)
        self.title, self.images, self.done, self.began = title, images, 0, time.perf_counter()

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def step(self, images: int) -> None:
        self.done += images
        if self.due():
            passed = time.perf_counter() - self.began
            left = passed / self.done * (self.images - self.done)
            parts = (speed(self.done / passed), f"{duration(left)} left")
            self.meter(self.title, self.done / self.images, parts, losing=(0, 1))
