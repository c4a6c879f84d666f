"""Ctrl-C and SIGTERM as a request that the training loop looks at between steps."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any

REPEAT_SECONDS = 0.1  # a second signal within this time repeats the first: `timeout` signals child and group


class Interrupted(Exception):
    """Raised by Interruption.check."""


class Interruption:
    """Within this context the first SIGINT or SIGTERM is only noted; a second one ends the program at once.

    At once means in the middle of a kernel, where Python's handlers must wait: so a thread watches for the second.
    Contexts may be nested; outside of the main thread signals are left as they are.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._depth = 0
        self._before: dict[int, Any] = {}  # handlers

    def __enter__(self) -> Interruption:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
            watched, self._wake = socket.socketpair()  # Windows has no pipe that does not block
            self._wake.setblocking(False)
            self._wake_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=_leave_at_the_second, args=(watched,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._before:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wake_before)
            self._wake.close()
            self._before = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def check(self) -> None:
        """Raise Interrupted where a stop was asked for."""
        if self.requested:
            raise Interrupted

    @property
    def exit_code(self) -> int:
        """128 + the signal's number: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or 0)


def _leave_at_the_second(watched: socket.socket) -> None:
    """Python writes the number of each signal to the other end of this pair, which is closed in the end."""
    first = 0.0
    with watched:
        while number := watched.recv(1):
            if number[0] in Interruption.SIGNALS:
                if first and time.monotonic() - first > REPEAT_SECONDS:
                    os._exit(128 + number[0])
                first = first or time.monotonic()
