"""Ctrl-C and SIGTERM as a request that the training loop looks at between steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):
    """Raised by Interruption.check."""


class Interruption:
    """Within this context the first SIGINT or SIGTERM is only noted; a second one ends the program at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: signals are somebody else's
                break
        return self

    def __exit__(self, _kind: type | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def check(self) -> None:
        """Raises Interrupted where a stop was asked for."""
        if self.requested:
            raise Interrupted

    @property
    def exit_code(self) -> int:
        """128 + the signal's number: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or 0)
