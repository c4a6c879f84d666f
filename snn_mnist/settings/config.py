"""The settings of training: `Config`, checked when made. Its equations are those of the README."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from snn_mnist.errors import UsageError
from snn_mnist.settings.fields import (
    Options,
    choice,
    file_name,
    integer,
    matching,
    number,
    option,
    optional,
    options_of,
    path,
    switch,
)  # fmt: skip
from snn_mnist.settings.words import show

DATASETS = ("mnist", "fashion", "digits")
CHECKPOINT = "a checkpoint file or a run directory; last is the newest run of -out-dir"
DIGITS_INCLUDED = "the digits are part of the program"
MAX_SEED, MAX_SEEDS = 2**32 - 1, 10_000
MAX_T = 1_000_000


def _surrogates() -> Iterable[str]:
    from snn_mnist.kernels.formulas import FORMULAS

    return FORMULAS


def backends() -> Iterable[str]:
    from snn_mnist.kernels.backends import BACKENDS

    return ("auto", *BACKENDS)


def _data_dir() -> str:
    return os.environ.get("SNN_MNIST_DATA") or "./data"


class Threads:
    """For a record with `j`: the threads to use, and a note where they are fewer than was asked for."""

    j: int | None

    @property
    def threads(self) -> int:
        from snn_mnist.settings.machine import cores

        return min(self.j or cores(), cores())

    def notes(self) -> list[str]:
        if self.j and self.j > self.threads:
            return [f"-j {self.j} is more than the {self.threads} cores here; using {self.threads}"]
        return []


@dataclass(frozen=True, kw_only=True)
class Config(Threads, Options):
    """Everything that decides a training run. Checked when made; `given` names what the user set."""

    # Network
    T: int = option(100, integer(1, MAX_T), "Network", "time steps an image is shown for", fixed=True)
    neuron: str = option("lif", choice(("lif", "if")), "Network", "leaky or plain integrate-and-fire", fixed=True)
    tau: float = option(
        2.0, number(above=1), "Network", "membrane time constant of the LIF neuron, in time steps", fixed=True
    )
    v_threshold: float = option(1.0, number(), "Network", "a neuron fires at or above this potential", fixed=True)
    v_reset: float | None = option(
        0.0,
        optional(number()),
        "Network",
        "potential after a spike; none subtracts the threshold (soft reset)",
        fixed=True,
    )
    surrogate: str = option("atan", choice(_surrogates), "Network", "surrogate gradient of the spike", fixed=True)
    alpha: float | None = option(
        None,
        optional(number(0)),
        "Network",
        "width parameter of the surrogate",
        shown="the surrogate's own",
        fixed=True,
    )

    # Training
    epochs: int = option(
        100, integer(1), "Training", "passes over the training images, those of a resumed run included"
    )
    b: int = option(64, integer(1), "Training", "batch size; the last incomplete batch is dropped", fixed=True)
    opt: str = option("adam", choice(("adam", "sgd")), "Training", "optimiser", fixed=True)
    lr: float = option(1e-3, number(above=0), "Training", "learning rate")
    momentum: float = option(0.9, number(0, below=1), "Training", "momentum of SGD", fixed=True)
    schedule: str = option(
        "constant",
        choice(("constant", "cosine")),
        "Training",
        "learning rate over the run; cosine falls to 0 at the last epoch",
    )
    ema: float = option(
        0.0,
        number(0, below=1),
        "Training",
        "decay of the exponential moving average (EMA) of the weights, which is tested and saved instead of the "
        "weights; 0 is off",
        fixed=True,
    )
    amp: bool = option(
        False,
        switch(),
        "Training",
        "mixed precision: float16 with loss scaling on CUDA, bfloat16 without on the CPU",
        fixed=True,
    )
    seed: int = option(
        0,
        integer(0, MAX_SEED),
        "Training",
        "decides weights, spikes and batch order; spikes and order are the same on every machine",
        fixed=True,
    )
    seeds: int = option(
        1,
        integer(1, MAX_SEEDS),
        "Training",
        "repeat the run with this many seeds from -seed up; report mean ± std; -resume their directory to continue",
    )

    # Data
    dataset: str = option("mnist", choice(DATASETS), "Data", "what to learn; digits needs no download", fixed=True)
    data_dir: str = option(
        _data_dir,
        path("DIR"),
        "Data",
        "where the data are, as MNIST/raw/… and FashionMNIST/raw/…; missing files are downloaded there",
        shown="$SNN_MNIST_DATA, else ./data",
    )
    val: int = option(
        0,
        integer(0),
        "Data",
        "training images held out to choose the best checkpoint; with 0 the test images choose it",
        fixed=True,
    )
    test: bool = option(
        True, switch(), "Data", "test on the test images too; -no-test keeps them unseen, and needs -val"
    )
    limit_batches: int | None = option(
        None, optional(integer(1)), "Data", "at most this many batches an epoch", shown="all", fixed=True
    )

    # Files
    out_dir: str = option("./logs", path("DIR"), "Files", "the run directory is made in here; nothing is overwritten")
    name: str | None = option(
        None,
        optional(file_name()),
        "Files",
        "name of the run directory; with -seeds, of the directory of these runs",
        shown="made of what differs from the defaults",
        saved=False,
    )
    figures: bool = option(
        True,
        switch(),
        "Files",
        "end with figures of the run; ten times a run they go to TensorBoard; -no-figures leaves them out",
    )
    resume: str | None = option(None, optional(path()), "Files", f"continue from {CHECKPOINT}", saved=False)
    force: bool = option(
        False, switch(), "Files", "resume although settings that change the result differ", saved=False
    )
    config: str | None = option(
        None,
        optional(path("FILE")),
        "Files",
        "YAML file of settings (names as the flags'), or a recipe: best, digits, quick, tutorial; flags win over it",
        saved=False,
    )

    # Machine
    device: str = option(
        "auto",
        matching(r"auto|cpu|cuda(:\d{1,3})?", "auto, cpu, cuda, cuda:0, cuda:1, …"),
        "Machine",
        "cpu, cuda, cuda:1, …; auto takes a GPU where there is one",
    )
    backend: str = option(
        "auto",
        choice(backends),
        "Machine",
        "what computes: torch is the reference, numba (CPU) and cupy (CUDA) are fused",
    )
    step_mode: str = option(
        "m", choice(("s", "m")), "Machine", "one time step or all T at once; s needs the least memory, m is fast"
    )
    j: int | None = option(None, optional(integer(1)), "Machine", "threads at most", shown="all cores", saved=False)
    eval_every: int = option(1, integer(1), "Machine", "test after every so many epochs, and after the last")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.v_reset is None and self.v_threshold <= 0:
            raise UsageError(
                f"v_threshold {self.v_threshold} with soft reset (v_reset none) would let every neuron "
                "fire for ever; give a v_threshold above 0"
            )
        if self.v_reset is not None and self.v_reset >= self.v_threshold:
            raise UsageError(
                f"v_reset {self.v_reset} is not below v_threshold {self.v_threshold}, so every neuron "
                "would fire for ever; lower v_reset or raise v_threshold"
            )
        if self.alpha is not None:
            self._check_alpha(self.alpha)
        if self.step_mode == "s" and self.backend not in ("auto", "torch"):
            raise UsageError(
                f"backend {self.backend} computes all T steps at once; use it with step_mode m, or take backend torch"
            )
        if not self.test and not self.val:
            raise UsageError("-no-test leaves no images to test on; hold some training images out with -val")
        if self.seed + self.seeds - 1 > MAX_SEED:
            raise UsageError(f"seed {self.seed} with seeds {self.seeds} goes beyond {MAX_SEED}; lower one of them")

    def _check_alpha(self, alpha: float) -> None:
        from snn_mnist.kernels.formulas import FORMULAS

        defaults = FORMULAS[self.surrogate].defaults
        if "alpha" not in defaults:
            raise UsageError(
                f"alpha {alpha}: the surrogate {self.surrogate} has no alpha "
                f"(it has {', '.join(defaults) or 'no parameter'}); leave alpha out"
            )
        least = 1.0 if self.surrogate == "q_pseudo_spike" else 0.0
        if alpha < least or (alpha == least and self.surrogate != "log_tailed_relu"):
            raise UsageError(
                f"alpha {alpha} is too small for the surrogate {self.surrogate}; "
                f"give a number above {least:g}, such as its default {defaults['alpha']:g}"
            )

    def check_sizes(self, n_train: int) -> None:
        """UsageError when `val` and `b` leave no full batch of the data set's n_train training images."""
        left = n_train - self.val
        if left < 1:
            raise UsageError(
                f"-val {self.val} holds out all {n_train} training images of {self.dataset}; "
                f"give a number below {n_train}"
            )
        if self.b > left:
            raise UsageError(
                f"-b {self.b} is more than the {left} training images of {self.dataset}"
                f"{' that -val leaves' if self.val else ''}; give a number from 1 to {left}"
            )

    @property
    def unused(self) -> set[str]:
        """The settings without effect, see `idle`."""
        return set(self.idle())

    def notes(self) -> list[str]:
        idle = {} if self.resume else self.idle()  # those of a resumed run are known once its checkpoint is read
        if not self.resume:
            idle["force"] = "it is for -resume"
        return super().notes() + self.without_effect(idle)

    def idle(self, device: str = "") -> dict[str, str]:
        """Settings that change nothing beside the others, each with the reason; device: 'cuda' once one is chosen."""
        return {
            name: reason
            for name, reason, applies in (
                ("tau", "IF neurons have no leak", self.neuron == "if"),
                ("momentum", "it is for -opt sgd", self.opt != "sgd"),
                ("data_dir", DIGITS_INCLUDED, self.dataset == "digits"),
                ("j", "a GPU computes", device == "cuda"),
            )
            if applies
        }

    # ------------------------------------------------------------------------ files and resume

    @classmethod
    def from_yaml(cls, file: str | os.PathLike[str]) -> Self:
        from snn_mnist.settings.config_file import read_yaml

        return cls.from_mapping(read_yaml(file), str(file))

    def to_yaml(self) -> str:
        """The resolved settings as a file for `-config`."""
        from snn_mnist.settings.config_file import yaml_text

        return yaml_text(self.to_mapping())

    def on_top_of(self, saved: Mapping[str, Any], source: str = "") -> Self:
        """What a resumed run uses: its saved settings, and over them the ones the user gave now."""
        given = {name: getattr(self, name) for name in self.given}
        if os.environ.get("SNN_MNIST_DATA"):  # says where the data are now, wherever they were then
            given.setdefault("data_dir", self.data_dir)
        unsaved = {each.name: getattr(self, each.name) for each in options_of(type(self)) if not each.saved}
        return replace(self, **{**type(self).check_mapping(saved, source), **unsaved, **given})

    def changes_of_fixed_settings(self, saved: Mapping[str, Any]) -> list[str]:
        """`changes` of the settings that may not change on resume."""
        fixed = (each.name for each in options_of(type(self)) if each.fixed)
        return self.changes(type(self).from_mapping(saved), fixed)

    def changes(self, before: Self, names: Iterable[str]) -> list[str]:
        """'tau 2.0 → 1.5' for every one of these settings that differs from what it was before."""
        unused = self.unused & before.unused
        return [
            f"{name} {show(getattr(before, name))} → {show(getattr(self, name))}"
            for name in names
            if name not in unused and getattr(before, name) != getattr(self, name)
        ]
