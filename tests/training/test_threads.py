"""The number of threads follows the machine, the results do not."""

import os
import time
from types import SimpleNamespace

import pytest
import torch

from snn_mnist.kernels.cpu import jit
from snn_mnist.network.engine import Runtime
from snn_mnist.training import console
from snn_mnist.training.console import Threads, others_seconds


def threads_of(most: int, backend: str = "numba") -> Threads:
    return Threads(Runtime(torch.device("cpu"), backend, "for a test", most))


class Machine:
    """Four cores, and a clock; `others` cores are busy with other programs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.others = 0.0
        self.used: list[int] = []
        clock = SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(console, "time", clock)
        monkeypatch.setattr(console, "cores", lambda: 4)
        monkeypatch.setattr(console, "others_seconds", lambda: self.others)
        monkeypatch.setattr(jit, "set_threads", lambda count: self.used.append(count) or count)

    def run(self, found: Threads, seconds: float, others: float) -> int:
        """The number of threads after so long, in chunks of 0.02 s."""
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            self.others += 0.02 * others
            found.follow()
        return found.count


@pytest.mark.parametrize(
    ("most", "others", "count"),
    [(4, 0.0, 4), (4, 0.25, 4), (4, 1.0, 3), (4, 2.0, 2), (4, 9.0, 1), (2, 1.0, 2), (2, 3.0, 1), (1, 3.0, 1)],
)
def test_other_programs_get_their_cores_and_give_them_back(monkeypatch, most, others, count):
    """Each change is announced once."""
    machine, found = Machine(monkeypatch), threads_of(most)
    assert machine.run(found, 5, 0.0) == most and not machine.used and not found.announcement()
    assert machine.run(found, 1.1, others) == count
    assert machine.run(found, 5, others) == count
    assert (f"{count} of {most} threads" in found.announcement()) == (count < most) and not found.announcement()
    assert machine.run(found, 1.1, 0.0) == most
    assert bool(machine.used) == (count < most) == bool(found.announcement())


def test_results_of_the_torch_backend_depend_on_the_number_which_stays(monkeypatch):
    machine = Machine(monkeypatch)
    assert machine.run(threads_of(3, "torch"), 5, 9.0) == 1 and not machine.used


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's /proc")
def test_the_work_of_this_process_is_not_that_of_others():
    before, began = others_seconds(), time.process_time()
    while time.process_time() < began + 0.3:
        pass
    assert others_seconds() - before > -0.05  # the kernel counts in hundredths of a second
