"""The images of a run: learned, held out for validation, tested; and the order of each epoch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snn_mnist.data.datasets import Dataset, load_dataset
from snn_mnist.network.poisson import Stream, random_order
from snn_mnist.settings.config import Config


@dataclass(frozen=True)
class TrainingData:
    """A data set on the device of the run, its training images split in two."""

    dataset: Dataset  # on the device
    learned: Tensor  # [N] int64 on the device, indices of training images
    held_out: Tensor  # [V] int64 on the CPU, indices of training images, ascending
    held_out_labels: Tensor  # [V] int64 on the CPU
    test_labels: Tensor  # [M] int64 on the CPU
    steps: int  # batches per epoch; the last incomplete one is dropped

    @classmethod
    def load(cls, config: Config, device: torch.device, dataset: Dataset | None = None) -> TrainingData:
        """`dataset`: the one that config names, where it is loaded already."""
        dataset = dataset or load_dataset(config.dataset, config.data_dir)
        config.check_sizes(len(dataset.train))
        shuffled = random_order(len(dataset.train), 0, 0, Stream.HOLDOUT)  # the same images for every seed
        held_out, learned = shuffled[: config.val].sort().values, shuffled[config.val :].sort().values
        return cls(
            dataset.to(device), learned.to(device), held_out, dataset.train.labels[held_out], dataset.test.labels,
            min(len(learned) // config.b, config.limit_batches or len(learned)),
        )  # fmt: skip

    def order(self, seed: int, epoch: int) -> Tensor:
        """The learned images [N] in the order of this epoch, a function of (seed, epoch) alone."""
        return self.learned[random_order(len(self.learned), seed, epoch, device=self.learned.device)]
