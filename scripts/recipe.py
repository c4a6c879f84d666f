"""The accuracy of a recipe: the last epoch on the test images, over 5 seeds, each the mean of 10 encodings.

    python scripts/recipe.py OUT_DIR -config FILE

Runs that are finished are not repeated, so it can be stopped and started anew. The search for a recipe is a study:
python -m snn_mnist sweep -config sweep_best
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def train_or_resume(folder: Path, flags: list[str]) -> subprocess.CompletedProcess[str]:
    """Starts the run of this folder, or goes on with it; a finished one has nothing to do."""
    started = sorted(folder.glob("*/checkpoint_latest.pth"))
    what = ["-resume", str(started[0].parent)] if started else flags
    return subprocess.run([sys.executable, "-m", "snn_mnist", "train", *what], capture_output=True, text=True)


def confirm(out: Path, config: str, seeds: int, encodings: int, threads: int) -> None:
    means: list[float] = []
    spreads: list[float] = []
    for seed in range(seeds):
        folder = out / f"seed{seed}"
        flags = ["-config", config, "-seed", str(seed), "-eval-every", "30", "-no-figures"]
        done = train_or_resume(folder, [*flags, "-j", str(threads), "-out-dir", str(folder)])
        if done.returncode:
            raise SystemExit(done.stderr)
        run = next(folder.glob("*/checkpoint_latest.pth")).parent
        tested = subprocess.run(
            [sys.executable, "-m", "snn_mnist", "eval", "-resume", str(run), "-repeats", str(encodings), "-json", "-"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        accuracy = json.loads(tested.stdout)["accuracy"]
        means.append(100 * accuracy["mean"])
        spreads.append(100 * accuracy["std"])
        print(f"seed {seed}: {means[-1]:.2f} ± {spreads[-1]:.2f} % over {encodings} encodings", flush=True)
    print(
        f"{config}: {statistics.mean(means):.2f} ± {statistics.stdev(means):.2f} % (last epoch, mean ± std over "
        f"{seeds} seeds, each the mean of {encodings} encodings; std over encodings {statistics.mean(spreads):.2f} %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("-config", default="configs/best.yaml")
    parser.add_argument("-threads", type=int, default=1)
    parser.add_argument("-seeds", type=int, default=5)
    parser.add_argument("-encodings", type=int, default=10)
    args = parser.parse_args()
    confirm(args.out, args.config, args.seeds, args.encodings, args.threads)


if __name__ == "__main__":
    main()
