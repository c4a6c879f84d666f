"""The settings of training: `Config`, checked when made. Its equations are those of the README."""

import dataclasses
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from snn_mnist.errors import UsageError
from snn_mnist.settings.options import Options, declared_as, option, options_of
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
    """Return the words for -backend."""
    from snn_mnist.kernels import BACKENDS

    return ("auto", *BACKENDS)


def _data_dir() -> str:
    return os.environ.get("SNN_MNIST_DATA") or "./data"


def _device(text: str) -> str:
    kind, _, number = text.partition(":")
    if text not in ("auto", "cpu", "cuda") and not (kind == "cuda" and number.isdecimal() and len(number) < 4):
        raise ValueError
    return text


def _file_name(name: str) -> str:
    """A name within another directory, without anything that a shell or another system would misread."""
    plain = name.isprintable() and not set(name) & set('/\\:*?"<>|') and name == name.strip()
    if not plain or name[:1] in ("", ".", "-") or name == "last" or len(name.encode()) > 200:
        raise ValueError
    return name


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Threads:
    """For a record with `j`: the threads to use, and a note where they are fewer than was asked for."""

    j: int | None

    @property
    def threads(self) -> int:
        return min(self.j or cores(), cores())

    def notes(self) -> list[str]:
        if self.j and self.j > self.threads:
            return [f"-j {self.j} is more than the {self.threads} cores here; using {self.threads}"]
        return []


def _group(name: str) -> Callable[..., Any]:
    """Return `option` for the settings of one group."""
    return lambda default, help, **rules: option(default, name, help, **rules)


network, training, data, files, machine = map(_group, ("Network", "Training", "Data", "Files", "Machine"))


@dataclass(frozen=True, kw_only=True)
class Config(Threads, Options):
    """Everything that decides a training run."""

    T: int = network(100, "time steps per image", low=1, high=MAX_T, fixed=True)
    neuron: str = network("lif", "leaky or plain integrate-and-fire", choices=("lif", "if"), fixed=True)
    tau: float = network(2.0, "membrane time constant of the LIF neuron, in time steps", above=1, fixed=True)
    v_threshold: float = network(1.0, "a neuron fires at or above this potential", fixed=True)
    v_reset: float | None = network(
        0.0, "potential after a spike; none subtracts the threshold (soft reset)", fixed=True
    )
    surrogate: str = network("atan", "surrogate gradient of the spike", choices=_surrogates, fixed=True)
    alpha: float | None = network(
        None, "width parameter of the surrogate", low=0, shown="the surrogate's own", fixed=True
    )

    epochs: int = training(100, "passes over the training images, including those before a resume", low=1)
    b: int = training(64, "batch size; the last incomplete batch is dropped", low=1, fixed=True)
    opt: str = training("adam", "optimiser", choices=("adam", "sgd"), fixed=True)
    lr: float = training(1e-3, "learning rate", above=0)
    momentum: float = training(0.9, "momentum of SGD", low=0, below=1, fixed=True)
    schedule: str = training(
        "constant", "learning rate over the run; cosine falls to 0 at the last epoch", choices=("constant", "cosine")
    )
    ema: float = training(
        0.0,
        "decay of the exponential moving average (EMA) of the weights, which is tested and saved "
        "instead of the weights; 0 is off",
        low=0,
        below=1,
        fixed=True,
    )
    amp: bool = training(
        False, "mixed precision: float16 with loss scaling on CUDA, bfloat16 without on the CPU", fixed=True
    )
    seed: int = training(
        0,
        "seed of weights, spikes and batch order; spikes and order are the same on every machine",
        low=0,
        high=MAX_SEED,
        fixed=True,
    )
    seeds: int = training(
        1,
        "repeat the run with this many seeds from -seed up; report mean ± std; -resume their directory to continue",
        low=1,
        high=MAX_SEEDS,
    )

    dataset: str = data("mnist", "what to learn; digits needs no download", choices=DATASETS, fixed=True)
    data_dir: str = data(
        _data_dir,
        "where the data are, as MNIST/raw/… and FashionMNIST/raw/…; missing files are downloaded there",
        path="DIR",
        shown="$SNN_MNIST_DATA, else ./data",
    )
    val: int = data(
        0, "training images held out to choose the best checkpoint; with 0 the test images choose it", low=0, fixed=True
    )
    test: bool = data(True, "test on the test images too; -no-test keeps them unseen, and needs -val")
    limit_batches: int | None = data(None, "at most this many batches per epoch", low=1, shown="all", fixed=True)

    out_dir: str = files("./logs", "where the run directory is created; nothing is overwritten", path="DIR")
    name: str | None = files(
        None,
        "name of the run directory; with -seeds, of the directory of these runs",
        read=_file_name,
        wanted="a plain file name: letters, digits and marks such as _ - . within it, no / and not the word last",
        shown="made of the settings that differ from the defaults",
        saved=False,
    )
    figures: bool = files(
        True, "draw figures at the end of the run, and ten times per run for TensorBoard; -no-figures draws none"
    )
    resume: str | None = files(None, f"continue from {CHECKPOINT}", path="PATH", saved=False)
    force: bool = files(False, "resume although settings that change the result differ", saved=False)
    config: str | None = files(
        None,
        "YAML file of settings (names as the flags'), or a recipe: best, digits, quick, tutorial; flags win over it",
        path="FILE",
        saved=False,
    )

    device: str = machine(
        "auto",
        "cpu, cuda, cuda:1, …; auto takes a GPU where there is one",
        read=_device,
        wanted="auto, cpu, cuda, cuda:0, cuda:1, …",
    )
    backend: str = machine(
        "auto", "what computes: torch is the reference, numba (CPU) and cupy (CUDA) are fused", choices=backends
    )
    step_mode: str = machine(
        "m", "one time step or all T at once; s needs the least memory, m is fast", choices=("s", "m")
    )
    j: int | None = machine(None, "the most threads to use", low=1, shown="all cores", saved=False)
    eval_every: int = machine(1, "epochs between two tests; the last epoch is tested too", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        threshold, reset = self.v_threshold, self.v_reset
        if reset is None and threshold <= 0:
            raise UsageError(
                f"v_threshold {threshold} with v_reset none: every neuron would fire for ever; raise it above 0"
            )
        if reset is not None and reset >= threshold:
            raise UsageError(
                f"v_reset {reset} is not below v_threshold {threshold}: every neuron would fire for ever; lower v_reset"
            )
        if self.alpha is not None:
            self._check_alpha(self.alpha)
        if self.step_mode == "s" and self.backend not in ("auto", "torch"):
            raise UsageError(f"backend {self.backend} computes all T steps at once; give step_mode m or backend torch")
        if not self.test and not self.val:
            raise UsageError("-no-test leaves no images to test on; hold some training images out with -val")
        if self.seed + self.seeds - 1 > MAX_SEED:
            raise UsageError(f"seed {self.seed} with seeds {self.seeds} goes beyond {MAX_SEED}; lower one of them")

    def _check_alpha(self, alpha: float) -> None:
        from snn_mnist.kernels.formulas import FORMULAS

        defaults = FORMULAS[self.surrogate].defaults
        if "alpha" not in defaults:
            raise UsageError(f"alpha {alpha}: the surrogate {self.surrogate} has no alpha; leave it out")
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
            images = f"{n_train} training images of {self.dataset}"
            raise UsageError(f"-val {self.val} holds out all {images}; give a number below {n_train}")
        if self.b > left:
            images = f"{left} training images of {self.dataset}{' that -val leaves' if self.val else ''}"
            raise UsageError(f"-b {self.b} is more than the {images}; give a number from 1 to {left}")

    @property
    def unused(self) -> set[str]:
        """The settings without effect, see `idle`."""
        return set(self.idle())

    def notes(self) -> list[str]:
        # What has no effect in a resumed run is known once its checkpoint is read.
        idle = {} if self.resume else self.idle() | {"force": "it is for -resume"}
        return super().notes() + self.without_effect(idle)

    def idle(self, device: str = "") -> dict[str, str]:
        """Return the settings without effect in this combination, with the reason; device: 'cuda' once it is known."""
        reasons = {
            "tau": "IF neurons have no leak" if self.neuron == "if" else "",
            "momentum": "it is for -opt sgd" if self.opt != "sgd" else "",
            "data_dir": DIGITS_INCLUDED if self.dataset == "digits" else "",
            "j": "a GPU computes" if device == "cuda" else "",
        }
        return {name: reason for name, reason in reasons.items() if reason}

    @classmethod
    def from_yaml(cls, file: str | os.PathLike[str]) -> Self:
        from snn_mnist.settings.yaml_file import read_yaml

        return cls.from_mapping(read_yaml(file), str(file))

    def to_yaml(self) -> str:
        """Return the resolved settings as a file for `-config`."""
        from snn_mnist.settings.yaml_file import yaml_text

        return yaml_text(self.to_mapping())

    def on_top_of(self, saved: Mapping[str, Any], source: str = "") -> Self:
        """Return the settings of a resumed run: its saved ones, and over them those that the user gave now."""
        given = {name: getattr(self, name) for name in self.given}
        if os.environ.get("SNN_MNIST_DATA"):  # says where the data are now, wherever they were then
            given.setdefault("data_dir", self.data_dir)
        unsaved = {each.name: getattr(self, each.name) for each in options_of(type(self)) if not each.saved}
        return replace(self, **{**self.known(saved, source), **unsaved, **given, "source": source})

    def changes_of_fixed_settings(self, saved: Mapping[str, Any]) -> list[str]:
        """Return `changes` of the settings that may not change on resume."""
        return self.changes(type(self).from_mapping(saved), FIXED_ON_RESUME)

    def changes(self, before: Self, names: Iterable[str]) -> list[str]:
        """Return 'tau 2.0 → 1.5' for every one of these settings that differs from what it was before."""
        unused = self.unused & before.unused
        return [
            f"{name} {show(getattr(before, name))} → {show(getattr(self, name))}"
            for name in names
            if name not in unused and getattr(before, name) != getattr(self, name)
        ]


def train_option(name: str, **changes: Any) -> Any:
    """Return the setting of `train` as a field of another record; `changes` replace what is declared of it."""
    field = {each.name: each for each in dataclasses.fields(Config)}[name]
    default = field.default_factory if field.default is dataclasses.MISSING else field.default
    default = changes.pop("default", default)
    return declared_as(replace(field.metadata["option"], **changes), default)


FIXED_ON_RESUME = tuple(each.name for each in options_of(Config) if each.fixed)
"""Another value of these gives another result, which is neither the old run's nor a new one's."""

CHANGEABLE_ON_RESUME = ("epochs", "lr", "schedule")
"""These may change besides, as the settings of the machine and of files do."""

DECIDING = tuple(each.name for each in options_of(Config) if each.fixed or each.name in CHANGEABLE_ON_RESUME)
"""The settings that decide the result, in the order of their declaration."""


_FIXED_FLAGS = textwrap.fill(
    ", ".join(f"-{each.flag}" for each in options_of(Config) if each.fixed),
    78,
    initial_indent=4 * " ",
    subsequent_indent=4 * " ",
    break_on_hyphens=False,
)
RESUME_RULES = f"""\
Resuming (-resume FILE_OR_DIRECTORY):
  The run continues in its own directory with its own settings, exactly as if
  it had never stopped. A flag given now replaces the saved setting: -epochs,
  -lr, -schedule and the settings of the machine may change. These may not,
  because the result would belong neither to the old run nor to a new one,
  unless -force is given:
{_FIXED_FLAGS}
  With -force and such a change, with another -out-dir, or from a file other
  than a run's checkpoint_latest.pth, it continues in a new directory, with a
  metrics.csv and a checkpoint_max.pth of its own. A finished run has nothing to
  do; extend it with a larger -epochs.
  Of a directory made by -seeds all unfinished runs continue, one after another;
  a larger -seeds adds runs. -lr and -schedule, and with a cosine -epochs, may
  not change there."""
