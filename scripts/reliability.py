"""How often a prediction counts as doubtful on test images read right and read wrong: the table of docs/interop.md.

    python scripts/reliability.py RUN_OR_CHECKPOINT ...

The limits come from the even half of the test images; they are applied to the odd half, and to all in another encoding.
"""

import sys

import numpy as np
import torch

from snn_mnist.data import pictures
from snn_mnist.data.datasets import load_dataset
from snn_mnist.network.device import choose_runtime
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.network.reliability import Reliability, limits
from snn_mnist.network.saved_network import load_network
from snn_mnist.network.scoring import Score, score
from snn_mnist.settings.config import Config


def doubtful(found: Score, by: Reliability) -> str:
    """Shares of the images read right and read wrong that are doubtful, and of those doubted that are read right."""
    top = found.rates().double().sort(dim=1, descending=True, stable=True)
    rate, margin = top.values[:, 0], top.values[:, 0] - top.values[:, 1]
    right = (top.indices[:, 0] == found.labels) & (rate > 0)
    doubted = torch.tensor([by.weak(a) or by.close(b) for a, b in zip(rate.tolist(), margin.tolist(), strict=True)])
    shares = (doubted[right], doubted[~right], right[doubted], right[~doubted])
    return " | ".join(f"{100 * share.double().mean().item():.1f} %" for share in shares)


def main() -> None:
    print("| run | limit of the margin | images | doubted of those read right | of those read wrong |"
          " read right of those doubted | of the others |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for run in sys.argv[1:]:
        loaded = load_network(run)
        loaded.net.spiking.step_mode = "m"
        steps, test = loaded.config.T, load_dataset(loaded.config.dataset, Config().data_dir).test
        engine = choose_runtime("cpu", "auto", Config().threads).engine(loaded.net, test.images)
        index = torch.arange(len(test))
        even, odd, again = (
            score(engine, part, test.labels[part], [steps], SpikeKey(0, Stream.EVAL, repeat))
            for part, repeat in ((index[::2], 0), (index[1::2], 0), (index, 1))
        )
        by = limits(even)
        assert by, f"{run} reads no image right"
        for name, found in (("odd half", odd), ("all, encoded anew", again)):
            print(f"| {run} | {by.margin:.2f} | {name} | {doubtful(found, by)} |")
        box = pictures.BOXES[loaded.config.dataset]
        objects = [pictures.prepare(image, box) for image in test.images.view(-1, 28, 28).numpy()]
        several = np.mean([prepared is not None and prepared.objects > 1 for prepared in objects])
        print(f"\nseveral objects: {100 * several:.1f} % of the test images\n")


if __name__ == "__main__":
    main()
