"""Fewer threads while other programs hold the cores.

All threads wait for the last one at the end of a kernel. Where another program has one of the cores, that one waits for
its turn, for milliseconds, in each of a thousand steps a second: two threads were four times slower than one on a
machine of two cores with one busy program beside. The fused CPU kernels give the same bits for every number of threads,
so the number may follow the machine.
"""

from __future__ import annotations

from collections.abc import Callable

from snn_mnist.kernels.backends import BACKENDS
from snn_mnist.network.device import Runtime

WINDOW = 16  # steps that are timed together
PATIENCE = 16  # windows between two trials


class ThreadTuner:
    """Chooses the number of threads by the time that steps take.

    A trial times each of a few numbers over one window and takes the fastest. It comes first of all, then when steps
    take half as long again as they did in the last one, and from time to time while some cores are left to others.
    """

    def __init__(self, most: int, use: Callable[[int], object]) -> None:
        """most: threads at most; use(n) makes the coming steps run on n threads"""
        self.most, self.use = most, use
        self.choices = sorted({most, max(1, most - 1), (most + 1) // 2, 1}, reverse=True)
        self.count = self.announced = most
        self._window: list[tuple[float, int]] = []
        self._begin_trial()

    @property
    def reduced(self) -> bool:
        """Whether the last trial chose fewer threads than there could be; not within a trial."""
        return len(self._times) == len(self.choices) and self.count < self.most

    @property
    def most_steps(self) -> int:
        """The most steps to run together: few within a trial, for a number of threads that is tried may be slow."""
        return WINDOW // 2 if 1 < len(self.choices) > len(self._times) else 1 << 30

    def note(self, seconds: float, steps: int = 1) -> None:
        """The time of one step, or of several that were run together."""
        self._window.append((seconds, steps))
        later = self._window[1:]  # the first may pay for the change
        if later and sum(n for _, n in self._window) >= WINDOW:
            self._judge(sum(s for s, _ in later) / sum(n for _, n in later))
            self._window = []

    def announcement(self) -> str:
        """Once after a change: that fewer threads are faster now, or that all are again; else ''."""
        count = self.count if self.reduced else self.most
        if count == self.announced:
            return ""
        self.announced = count
        return f"now using {count} of {self.most} threads, which is faster"

    def _begin_trial(self) -> None:
        self._times: dict[int, float] = {}
        self._set(self.choices[0])

    def _judge(self, mean: float) -> None:
        if len(self._times) < len(self.choices):
            self._times[self.count] = mean
            untried = [count for count in self.choices if count not in self._times]
            self._set(untried[0] if untried else min(self._times, key=self._times.__getitem__))
            self._since = 0
            return
        self._since += 1
        slow = mean > 1.5 * self._times[self.count]
        if (slow and self._since >= PATIENCE) or (self.reduced and self._since >= 2 * PATIENCE):
            self._begin_trial()

    def _set(self, count: int) -> None:
        self.count = count
        self.use(count)


def thread_tuner(runtime: Runtime) -> ThreadTuner:
    """A choice up to the run's threads (-j) where no result depends on it; elsewhere a tuner without a choice."""
    if not BACKENDS[runtime.backend].compiled_steps:
        return ThreadTuner(1, lambda threads: None)
    from snn_mnist.kernels.cpu import jit

    return ThreadTuner(runtime.threads, jit.set_threads)
