"""Train with configs/quick.yaml where no -config is given, and on the bundled digits where MNIST can't be had.

python scripts/train.py [flags of train]
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from snn_mnist.__main__ import program
from snn_mnist.data.datasets import DataMissing, load_dataset
from snn_mnist.errors import SNNError
from snn_mnist.terminal import wrapped

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def recipe(flags: Sequence[str]) -> Path | None:
    """The recipe to train with; None where the flags bring their own settings."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("config", "resume", "dataset"):
        parser.add_argument(f"-{name}", f"--{name}")
    parser.add_argument("-data-dir", "--data-dir", default=os.environ.get("SNN_MNIST_DATA") or "./data")
    parser.add_argument("-h", "-help", "--help", action="store_true", dest="help")
    given, _ = parser.parse_known_args(flags)
    if given.config or given.resume:
        return None
    if not given.dataset and not given.help:
        try:
            load_dataset("mnist", given.data_dir)
        except DataMissing as error:
            instead = "Training on the bundled digits instead: real handwriting, but 1,437 small images, not MNIST."
            print(wrapped(f"\n{error}\n\n{instead}\n", indent=""), file=sys.stderr)
            return CONFIGS / "digits.yaml"
        except SNNError:
            pass  # train says what is wrong
    return CONFIGS / "quick.yaml"


if __name__ == "__main__":
    flags = sys.argv[1:]
    file = recipe(flags)
    sys.argv[1:] = ["train", *(["-config", str(file)] if file else []), *flags]
    sys.exit(program())
