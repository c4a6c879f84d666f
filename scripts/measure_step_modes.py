"""Time and memory of one network step by step and layer by layer: the table of docs/tutorial.md, section 6.

    python scripts/measure_step_modes.py [T]

Linear(784, 256), LIF, Linear(256, 256), LIF, Linear(256, 10), LIF on 64 samples through T = 128 time steps.
Every measurement is a process of its own on one thread. Memory is the peak of resident memory above that
before the run, from /proc (Linux). Time is processor time. Each is the lowest of three processes, the time that
of ten runs in each.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

N, INPUTS, WIDTH, CLASSES = 64, 784, 256, 10
ROWS = [(mode, backend, work) for work in ("inference", "training") for mode, backend in (
    ("s", "torch"), ("m", "torch"), ("m", "numba"))]  # fmt: skip


def memory(field: str) -> int:
    """Bytes: VmRSS now, VmHWM at most since the last clear()."""
    return 1024 * int(re.findall(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())[0])


def clear() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(mode: str, backend: str, work: str, steps: int) -> tuple[float, float]:
    """Milliseconds and MiB."""
    import torch

    from snn_mnist.core import functional, layer, neuron

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        layer.Linear(INPUTS, WIDTH), neuron.LIFNode(), layer.Linear(WIDTH, WIDTH), neuron.LIFNode(),
        layer.Linear(WIDTH, CLASSES), neuron.LIFNode(),
    )  # fmt: skip
    functional.set_step_mode(net, mode)
    functional.set_backend(net, backend, neuron.LIFNode)
    x_seq = (torch.rand(steps, N, INPUTS) < 0.2).float()

    def run(x_seq: torch.Tensor) -> None:
        with torch.set_grad_enabled(work == "training"):
            if mode == "m":
                rate = net(x_seq).mean(0)
            else:  # only the sum of the output is kept, so that inference needs one step at a time
                rate = sum(net(x) for x in x_seq) / len(x_seq)
        if work == "training":
            rate.square().mean().backward()
        functional.reset_net(net)
        net.zero_grad()

    run(x_seq[:2])
    clear()
    before = memory("VmRSS")
    run(x_seq)
    peak = memory("VmHWM") - before
    seconds = []
    for _ in range(10):
        started = time.process_time()
        run(x_seq)
        seconds.append(time.process_time() - started)
    return 1000 * min(seconds), peak / 2**20


def main() -> None:
    if len(sys.argv) == 5:
        print(*measure(*sys.argv[1:4], int(sys.argv[4])))
        return
    steps = sys.argv[1] if len(sys.argv) > 1 else "128"
    names = {("s", "torch"): "step by step", ("m", "torch"): "layer by layer",
             ("m", "numba"): "layer by layer, fused neurons (`numba`)"}  # fmt: skip
    print("| | inference: time | memory | training: time | memory |\n|---|--:|--:|--:|--:|")
    found: dict[tuple[str, str, str], str] = {}
    best = {row: (float("inf"), float("inf")) for row in ROWS}
    for _ in range(3):
        for row in ROWS:
            command = [sys.executable, __file__, *row, steps]
            one_thread = os.environ | {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=True)
            milliseconds, mebibytes = map(float, done.stdout.split())
            best[row] = (min(best[row][0], milliseconds), min(best[row][1], mebibytes))
    for row, (milliseconds, mebibytes) in best.items():
        found[row] = f"{milliseconds:.0f} ms | {mebibytes:.0f} MiB"
    for (mode, backend), name in names.items():
        print(f"| {name} | {found[mode, backend, 'inference']} | {found[mode, backend, 'training']} |")


if __name__ == "__main__":
    main()
