"""The settings that several verbs share: where the data are, the device, the threads, their names and limits."""

import os
from typing import Any

from snn_mnist.kernels import backends
from snn_mnist.runs.fields import choice, integer, matching, option, optional, path

DATASETS = ("mnist", "fashion", "digits")
BACKENDS = ("auto", *backends.BACKENDS)
MAX_SEED = 2**32 - 1
MAX_T = 1_000_000

DEVICE = matching(r"auto|cpu|cuda(:\d{1,3})?", "auto, cpu, cuda, cuda:0, cuda:1, …")
CHECKPOINT = "a checkpoint file or a run directory"


def cores() -> int:
    """The processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def data_dir_option() -> Any:
    what = "where the data are, as MNIST/raw/… and FashionMNIST/raw/…; missing files are downloaded there"
    return option(_data_dir, path("DIR"), "Data", what, shown="$SNN_MNIST_DATA, else ./data")


def _data_dir() -> str:
    return os.environ.get("SNN_MNIST_DATA") or "./data"


def device_option() -> Any:
    return option("auto", DEVICE, "Machine", "cpu, cuda, cuda:1, …; auto takes a GPU where there is one")


def backend_option() -> Any:
    what = "who computes: torch is the reference, numba (CPU) and cupy (CUDA) are fused"
    return option("auto", choice(BACKENDS), "Machine", what)


def threads_option() -> Any:
    return option(None, optional(integer(1)), "Machine", "threads", shown="all cores", saved=False)


class Threads:
    """For a record with `j`: the threads to use, and a word when they are fewer than was asked for."""

    j: int | None

    @property
    def threads(self) -> int:
        return min(self.j or cores(), cores())

    def notes(self) -> list[str]:
        if self.j and self.j > cores():
            return [f"-j {self.j} is more than the {cores()} cores here; using {cores()}"]
        return []
