"""By how much trained weights differ from processor to processor and from backend to backend, as a Markdown table.

    SNN_MNIST_DATA=DIR python scripts/processors.py OUT_DIR [flags of train]

The same run of `train` on each: the x86 processors that have AVX2 or only SSE2 are emulated on this one, for Numba by
the instructions it compiles for, for PyTorch by ATEN_CPU_CAPABILITY. Compared with the first row.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

from snn_mnist.storage import checkpoint
from snn_mnist.storage.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[1]
ROWS: dict[str, tuple[str, dict[str, str]]] = {
    "`numba`, this processor": ("numba", {}),
    "`numba`, AVX2": ("numba", {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+bmi2,+popcnt"}),
    "`numba`, SSE2": ("numba", {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}),
    "`torch`, this processor": ("torch", {}),
    "`torch`, AVX2": ("torch", {"ATEN_CPU_CAPABILITY": "avx2"}),
    "`torch`, without AVX2": ("torch", {"ATEN_CPU_CAPABILITY": "default"}),
}


def run(out: Path, backend: str, variables: dict[str, str], flags: list[str]) -> Path:
    """The directory of the run, which is made unless it is there."""
    if not out.exists():
        command = [sys.executable, "-m", "snn_mnist", "train", "-device", "cpu", "-no-figures", *flags]
        command += ["-backend", backend, "-out-dir", str(out)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)} | variables)
    return next(out.iterdir())


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    runs = {
        name: run(Path(sys.argv[1]) / str(number), *how, sys.argv[2:])
        for number, (name, how) in enumerate(ROWS.items())
    }
    weights = {name: checkpoint.load(folder)["net"][checkpoint.WEIGHT] for name, folder in runs.items()}
    first = next(iter(weights.values()))
    print("| | weights | test accuracy, last epoch |\n|---|---|---|")
    for name, folder in runs.items():
        away = (weights[name] - first).abs().max().item()
        bits = "equal bits" if torch.equal(weights[name], first) else f"differ by up to {away:.1e}"
        print(f"| {name} | {bits} | {read_metrics(folder / 'metrics.csv')[-1]['test_acc']:.2%} |")


if __name__ == "__main__":
    main()
