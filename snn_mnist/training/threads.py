"""The number of threads of a run on the CPU: the cores that other programs leave free.

All threads wait for the last one at the end of each of a thousand steps a second. If another program uses one of their
cores, that takes milliseconds: two threads are then several times slower than one. The fused CPU kernels give the same
bits for every number of threads, so the number may change during a run.
"""

from __future__ import annotations

import os
import time

from snn_mnist.network.device import Runtime
from snn_mnist.settings.config import cores

WINDOW = 0.5  # seconds between two looks; the kernel counts the cores' time in hundredths of a second
SPARE = 0.7  # a thread more is used where so much of its core is free


class Threads:
    """The number of threads, at most that of -j; a single one where it would change the result."""

    def __init__(self, runtime: Runtime) -> None:
        self.most = runtime.threads if runtime.backend == "numba" else 1
        self.count = self.announced = self.most
        self._read()

    def follow(self) -> None:
        """Update the number, twice a second; to be called after each chunk of steps."""
        if self.most == 1 or time.perf_counter() - self._when < WINDOW:
            return
        from snn_mnist.kernels.cpu import jit

        when, others = self._when, self._others
        self._read()
        free = cores() - (self._others - others) / (self._when - when)
        count = min(self.most, max(1, int(free + 1 - SPARE)))
        if count != self.count:
            self.count = count
            jit.set_threads(count)

    def announcement(self) -> str:
        """Return, once after a change, that fewer threads are used or all again; else ''."""
        if self.count == self.announced:
            return ""
        self.announced = self.count
        why = "other programs are busy" if self.count < self.most else "the cores are free again"
        return f"now using {self.count} of {self.most} threads: {why}"

    def _read(self) -> None:
        self._when, self._others = time.perf_counter(), busy_seconds() - time.process_time()


def busy_seconds() -> float:
    """Return the seconds that this process's cores have worked for all programs but those of low priority ("nice").

    Always 0 where there is no /proc/stat (macOS, Windows): the number of threads stays as it is.
    """
    if not (hasattr(os, "sched_getaffinity") and os.path.exists("/proc/stat")):
        return 0.0
    allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    with open("/proc/stat") as file:
        rows = [line.split() for line in file if line.startswith("cpu")]
    ticks = sum(int(user) + int(system) for name, user, _, system, *_ in rows if name in allowed)
    return ticks / os.sysconf("SC_CLK_TCK")
