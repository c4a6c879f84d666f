"""Time and memory of a process, or of its GPU."""

from __future__ import annotations

import contextlib
import sys
import time

import torch


class Stopwatch:
    """Seconds in `with` blocks, summed up: by CUDA events on a GPU, which it waits for, else by the clock."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> None:
        if self.device.type == "cuda":
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self.events[0].record(torch.cuda.current_stream(self.device))
        else:
            self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.events[1].record(torch.cuda.current_stream(self.device))
            self.events[1].synchronize()
            self.seconds += self.events[0].elapsed_time(self.events[1]) / 1000
        else:
            self.seconds += time.perf_counter() - self.started


def peak_memory(device: torch.device) -> int:
    """The most bytes of memory this process has held since `forget_peak`: on a GPU of that, else of the machine's."""
    if device.type == "cuda":
        cupy = sys.modules.get("cupy")  # SpikingJelly's neurons take memory by it
        return torch.cuda.max_memory_allocated(device) + (cupy.get_default_memory_pool().total_bytes() if cupy else 0)
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak(device: torch.device) -> None:
    """Linux can start the peak anew; elsewhere it is that of the whole process."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
    if device.type == "cuda" and torch.cuda.is_initialized():  # else it holds none yet, and torch refuses
        torch.cuda.reset_peak_memory_stats(device)
