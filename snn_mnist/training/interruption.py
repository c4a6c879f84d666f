"""Ctrl-C and SIGTERM as a request that the training loop looks at between steps."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack
from types import FrameType

REPEAT_SECONDS = 0.1  # a second signal within this time repeats the first: `timeout` signals child and group


class Interrupted(Exception):
    """Raised by Interruption.check."""


class Interruption:
    """Within this context the first SIGINT or SIGTERM is only noted; a second one ends the program at once.

    Contexts may be nested; outside of the main thread signals are left as they are.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._noted = 0.0  # when the first one came
        self._contexts: list[ExitStack] = []  # each puts back the handlers that it replaced

    def __enter__(self) -> Interruption:
        self._contexts.append(ExitStack())
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self._contexts[-1].callback(signal.signal, number, signal.signal(number, self._note))
        return self

    def __exit__(self, *_: object) -> None:
        self._contexts.pop().close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._noted and now - self._noted > REPEAT_SECONDS:
            os._exit(128 + number)
        self.signal, self._noted = number, self._noted or now

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def check(self) -> None:
        """Raise Interrupted where a stop was asked for."""
        if self.requested:
            raise Interrupted

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 0 after neither."""
        return 128 + self.signal if self.signal else 0
