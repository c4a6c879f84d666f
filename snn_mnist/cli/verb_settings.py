"""The settings of every verb but `train`. What a checkpoint knows too is None by default: as in the checkpoint."""

from dataclasses import dataclass
from typing import Any

from snn_mnist.runs.fields import Options, choice, integer, number, option, optional, path, several, switch
from snn_mnist.runs.shared_fields import (
    BACKENDS,
    CHECKPOINT,
    DATASETS,
    MAX_SEED,
    MAX_T,
    Threads,
    backend_option,
    data_dir_option,
    device_option,
    threads_option,
)

DISCRETIZATIONS = ("euler", "exact")
SAVED = "the checkpoint's"


def _checkpoint() -> Any:
    return option(None, path(), "Files", CHECKPOINT, required=True)


def _steps(group: str) -> Any:
    return option(None, optional(integer(1, MAX_T)), group, "time steps", shown=SAVED)


def _tau(group: str) -> Any:
    what = "membrane time constant in time steps"
    return option(None, optional(number(above=1)), group, what, shown=f"{SAVED}, 2.0 for one that has none")


def _seed(group: str) -> Any:
    return option(None, optional(integer(0, MAX_SEED)), group, "seed of the spikes", shown=SAVED)


def _dataset(what: str) -> Any:
    return option(None, optional(choice(DATASETS)), "Data", what, shown=SAVED)


def _json() -> Any:
    return option(None, optional(path("FILE")), "Files", "write all results there; - is stdout")


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Threads, Options):
    """Test a checkpoint. None means: as in the checkpoint."""

    resume: str = _checkpoint()
    repeats: int = option(10, integer(1, 100_000), "Test", "encodings of the test images; gives the ± of the accuracy")
    T: int | None = _steps("Test")
    tau: float | None = _tau("Test")
    seed: int | None = _seed("Test")
    b: int = option(1000, integer(1), "Test", "images at a time; changes no result")
    json: str | None = _json()
    dataset: str | None = _dataset("what to test on")
    data_dir: str = data_dir_option()
    device: str = device_option()
    backend: str = backend_option()
    j: int | None = threads_option()


@dataclass(frozen=True, kw_only=True)
class TraceOptions(Options):
    """Follow images through a checkpoint, step by step."""

    resume: str = _checkpoint()
    index: tuple[int, ...] = option((0,), several(integer(0)), "Images", "which test images, counted from 0")
    misclassified: int = option(0, integer(0), "Images", "instead, the first so many images the network gets wrong")
    T: int | None = _steps("Images")
    tau: float | None = _tau("Images")
    seed: int | None = _seed("Images")
    out: str | None = option(
        None, optional(path("DIR")), "Files", "where arrays and pictures go", shown="trace_INDEX beside the checkpoint"
    )
    dataset: str | None = _dataset("what to show")
    data_dir: str = data_dir_option()


@dataclass(frozen=True, kw_only=True)
class PlotOptions(Options):
    """Draw the curves of runs."""

    runs: tuple[str, ...] = option(
        (),
        several(path("DIR")),
        "Files",
        "run directories, such as logs/T100_b64_adam_lr0.001",
        required=True,
        positional=True,
    )
    out: str | None = option(
        None,
        optional(path("FILE")),
        "Files",
        "the picture",
        shown="curves.png in the run; of several curves_compared.png in the first",
    )


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Threads, Options):
    """Measure images per second."""

    backend: tuple[str, ...] = option(
        ("auto",),
        several(choice((*BACKENDS, "spikingjelly", "spikingjelly-fused"))),
        "Machine",
        "which to measure",
        shown="all that are available",
    )
    T: tuple[int, ...] = option((100,), several(integer(1, MAX_T)), "Work", "time steps")
    b: tuple[int, ...] = option((64,), several(integer(1)), "Work", "batch sizes")
    repeats: int = option(5, integer(1, 10_000), "Work", "measurements of each; the median is reported")
    seconds: float = option(2.0, number(above=0), "Work", "length of one measurement")
    dataset: str = option("mnist", choice(DATASETS), "Data", "what to compute with")
    data_dir: str = data_dir_option()
    json: str | None = _json()
    device: str = device_option()
    j: int | None = threads_option()


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    """Look at this machine."""

    data_dir: str = data_dir_option()
    json: str | None = _json()


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Write a checkpoint in another format. None means: as in the checkpoint."""

    resume: str = _checkpoint()
    format: str = option(
        "nir",
        choice(("nir", "hardware", "html")),
        "Files",
        "a NIR graph, integer weights with C and Verilog files, or a page to play with",
    )
    out: str | None = option(
        None, optional(path()), "Files", "the file (hardware: directory) to write", shown="beside the checkpoint"
    )
    T: int | None = _steps("Network")
    tau: float | None = _tau("Network")
    dt: float = option(1e-4, number(above=0), "NIR", "seconds a time step stands for")
    discretization: str = option(
        "euler",
        choice(DISCRETIZATIONS),
        "NIR",
        "how the importer steps: forward Euler, or exact for one that uses the exponential",
    )
    threshold: str = option(
        "below",
        choice(("below", "same")),
        "NIR",
        "NIR fires above its threshold, we at ours: write the next float32 below, or the same number",
    )
    allow_lossy: bool = option(False, switch(), "NIR", "write even what the format cannot say: soft reset")
    verify: bool = option(
        False, switch(), "NIR", "read the file back and compare its spikes, also in the simulators found here"
    )
    verify_images: int = option(100, integer(1), "NIR", "how many test images -verify compares")
    bits: int = option(8, integer(4, 16), "Hardware", "bits of an integer weight")
    scale: str = option(
        "tensor", choice(("tensor", "neuron")), "Hardware", "one scale for all weights or one for each neuron"
    )
    fraction: int | None = option(
        None,
        optional(integer(0, 16)),
        "Hardware",
        "fraction bits of a membrane potential",
        shown="as many as give the threshold 12 bits",
    )
    report: bool = option(
        True, switch(), "Hardware", "measure the accuracy at 16, 8, 6 and 4 bits on the whole test set"
    )
    seed: int | None = _seed("Data")
    data_dir: str = data_dir_option()


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """Make a checkpoint of a file in another format. None means: as the file says."""

    file: str = option(None, path("FILE"), "Files", "the NIR file to read", required=True, positional=True)
    out: str | None = option(
        None, optional(path("FILE")), "Files", "the checkpoint to write", shown="the file with the ending .pth"
    )
    T: int | None = option(None, optional(integer(1, MAX_T)), "NIR", "time steps", shown="the file's, else 100")
    dt: float | None = option(
        None, optional(number(above=0)), "NIR", "seconds a time step stands for", shown="the file's, else 1e-4"
    )
    discretization: str | None = option(
        None,
        optional(choice(DISCRETIZATIONS)),
        "NIR",
        "how the file is meant to be stepped",
        shown="the file's, else euler",
    )


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Options):
    """Classify pictures with a checkpoint."""

    images: tuple[str, ...] = option(
        (), several(path("FILE")), "Files", "picture files", required=True, positional=True
    )
    resume: str = _checkpoint()
    T: int | None = _steps("Images")
    tau: float | None = _tau("Images")
    seed: int | None = _seed("Images")
    show: bool = option(True, switch(), "Images", "draw the prepared picture and the rates in the terminal")
    json: str | None = _json()
