"""The settings of training: `Config`, checked when made, and its YAML file. Its equations are those of the README."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from snn_mnist import __version__
from snn_mnist.errors import UsageError
from snn_mnist.kernels import BACKENDS as KERNELS
from snn_mnist.kernels.formulas import FORMULAS
from snn_mnist.settings.options import Options, declared_as, did_you_mean, fold, option, options_of, show

DATASETS = ("mnist", "fashion", "digits")
BACKENDS = ("auto", *KERNELS)
CHECKPOINT = "a checkpoint file or a run directory; last is the newest run of -out-dir"
FILE_NAME = "a plain file name: letters and digits, within it also . - _ and spaces, not the word last"
MAX_SEED, MAX_SEEDS = 2**32 - 1, 10_000
MAX_T = 1_000_000
PACKAGE = Path(__file__).resolve().parents[1]


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(value: Any) -> int:
    if int(str(value)) < 1:
        raise ValueError
    return min(int(str(value)), cores())


def data_variable() -> str | None:
    """Return the directory of data sets that the environment names; it counts before that of a resumed run."""
    return os.environ.get("SNN_MNIST_DATA") or None


def _matching(pattern: str) -> Callable[[str], str]:
    """Return a function that returns texts that match the whole pattern; ValueError for others."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return os.path.expanduser(text)

    return read


file_name = _matching(r"(?!last$)\w([\w .-]{0,98}\w)?")  # which no shell or other system misreads
_device = _matching(r"auto|cpu|cuda(:\d{1,3})?")
_own = _matching(r".*\.py:\w+")  # an object of the user's own file


def _surrogate(text: str) -> str:
    return _own(text) if ":" in text else {fold(name): name for name in FORMULAS}[fold(text)]


def _group(name: str, **rules: Any) -> Callable[..., Any]:
    """Return `option` for the settings of one group."""
    return lambda default, help, **own: option(default, name, help, **(rules | own))


network, training, data = _group("Network", fixed=True), _group("Training", fixed=True), _group("Data", fixed=True)
files, machine = _group("Files"), _group("Machine")


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Everything that decides a training run."""

    T: int = network(100, "time steps per image", low=1, high=MAX_T)
    neuron: str = network("lif", "leaky or plain integrate-and-fire", choices=("lif", "if"))
    tau: float = network(2.0, "membrane time constant of the LIF neuron in time steps, above 1", above=1)
    v_threshold: float = network(1.0, "a neuron fires at or above this potential")
    v_reset: float | None = network(0.0, "potential after a spike; none subtracts the threshold (soft reset)")
    surrogate: str = network(
        "atan",
        "surrogate gradient of the spike, or FILE.py:NAME",
        read=_surrogate,
        choices=tuple(FORMULAS),
        wanted=f"FILE.py:NAME or one of {', '.join(FORMULAS)}",
    )
    alpha: float | None = network(None, "width parameter of the surrogate", low=0, shown="the surrogate's own")
    votes: int = network(1, "neurons per class, whose mean firing rate is the score of the class", low=1, high=1000)
    encoding: str = network(
        "poisson",
        "input of a pixel: random spikes, its value at each step, or one spike, the brighter the earlier",
        choices=("poisson", "constant", "latency"),
    )

    net: str | None = network(
        None,
        "a network of your own: what makes it, FILE.py:NAME (docs/your-own-network.md)",
        read=_own,
        wanted="FILE.py:NAME, such as my_net.py:make",
        metavar="FILE.py:NAME",
        shown="the single layer",
    )

    epochs: int = training(100, "passes over the training images, including those before a resume", low=1, fixed=False)
    b: int = training(64, "batch size; the last incomplete batch is dropped", low=1)
    opt: str = training("adam", "optimiser", choices=("adam", "sgd"))
    lr: float = training(1e-3, "learning rate", above=0, fixed=False)
    momentum: float = training(0.9, "momentum of SGD", low=0, below=1)
    schedule: str = training(
        "constant", "learning rate over the run; cosine ends at 0", choices=("constant", "cosine"), fixed=False
    )
    ema: float = training(
        0.0, "decay of the weights' moving average (EMA), tested and saved in their place; 0 is off", low=0, below=1
    )
    loss: str = training(
        "mse", "mean squared error from the one-hot label, or cross-entropy (ce)", choices=("mse", "ce")
    )
    scale: float = training(40.0, "factor that makes the scores, 0 to 1, logits of the cross-entropy", above=0)
    dropout: float = training(
        0.0, "share of the pixels that are silent in training, other ones for each image and epoch", low=0, below=1
    )
    amp: bool = training(False, "mixed precision: float16 with loss scaling on CUDA, bfloat16 on the CPU")
    seed: int = training(0, "seed of weights, spikes and batch order", low=0, high=MAX_SEED)
    seeds: int = training(
        1, "repeat the run with this many seeds from -seed up; report mean ± std", low=1, high=MAX_SEEDS, fixed=False
    )

    dataset: str = data("mnist", "what to learn; digits needs no download", choices=DATASETS)
    val: int = data(0, "training images held out to choose the best checkpoint; with 0 the test images choose", low=0)
    test: bool = data(True, "test on the test images too; -no-test keeps them unseen, and needs -val", fixed=False)
    limit_batches: int | None = data(None, "at most this many batches per epoch", low=1, shown="all")

    data_dir: str = files(
        lambda: data_variable() or "./data",
        "has MNIST/raw; missing files are downloaded",
        metavar="DIR",
        shown="$SNN_MNIST_DATA, else ./data",
    )
    out_dir: str = files("./logs", "where the run directory is created; nothing is overwritten", metavar="DIR")
    name: str | None = files(
        None, "name of the run directory", read=file_name, wanted=FILE_NAME, shown="made of the settings", saved=False
    )
    figures: bool = files(True, "draw figures at the end of the run, and ten times per run for TensorBoard")
    resume: str | None = files(None, f"continue from {CHECKPOINT}", metavar="PATH", saved=False)
    force: bool = files(False, "resume although settings that change the result differ", saved=False)
    config: str | None = files(
        None,
        "YAML file, or a recipe: best, digits, quick, tutorial, votes; flags win over it",
        metavar="FILE",
        saved=False,
    )

    device: str = machine(
        "auto", "cpu, cuda or cuda:1; auto takes a GPU if it can", read=_device, wanted="auto, cpu, cuda or cuda:0"
    )
    backend: str = machine("auto", "torch is the reference, numba (CPU) and cupy (CUDA) are fused", choices=BACKENDS)
    step_mode: str = machine("m", "m computes all T at once, s step by step in least memory", choices=("s", "m"))
    j: int = machine(
        cores, "the most threads to use", read=_threads, wanted="an integer above 0", shown="all cores", saved=False
    )
    eval_every: int = machine(1, "epochs between two tests; the last epoch is tested too", low=1)

    # Setting -> the run's copy of the user's file, which is used in its place
    copies: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        rest = self.v_reset or 0.0
        if rest >= self.v_threshold:
            raise UsageError(
                f"v_reset {show(self.v_reset)} is not below v_threshold {self.v_threshold}: every neuron would fire "
                f"for ever; give a threshold above {rest:g}"
            )
        if self.alpha is not None and not self.own_surrogate:
            try:
                FORMULAS[self.surrogate].parameters(alpha=self.alpha)
            except ValueError as error:
                raise UsageError(str(error)) from None
        if self.step_mode == "s" and self.backend not in ("auto", "torch"):
            raise UsageError(f"backend {self.backend} computes all T steps at once; give step_mode m or backend torch")
        if not self.test and not self.val:
            raise UsageError("-no-test leaves no images to test on; hold some training images out with -val")
        if self.seed + self.seeds - 1 > MAX_SEED:
            raise UsageError(f"seed {self.seed} with seeds {self.seeds} goes beyond {MAX_SEED}; lower one of them")

    def check_sizes(self, n_train: int) -> None:
        """UsageError when `val` and `b` leave no full batch of the data set's n_train training images."""
        left = n_train - self.val
        if left < 1:
            raise UsageError(f"-val {self.val} holds out all {n_train} training images; give a number below {n_train}")
        if self.b > left:
            raise UsageError(f"-b {self.b} is more than the {left} training images; give a number from 1 to {left}")

    @property
    def unused(self) -> dict[str, str]:
        """The settings without effect in this combination, with the reason."""
        reasons = {"tau": "IF neurons have no leak"} if self.neuron == "if" and self.net is None else {}
        reasons |= {"step_mode": "the network of -net has its own"} if self.net else {}
        reasons |= {"momentum": "it is for -opt sgd"} if self.opt != "sgd" else {}
        return reasons | ({"scale": "it is for -loss ce"} if self.loss != "ce" else {})

    @property
    def own_surrogate(self) -> bool:
        return self.surrogate not in FORMULAS

    def not_computed_by(self, backend: str) -> str:
        """Return the settings that this fused backend can't compute, such as 'votes 10, loss ce'. Of a network of the
        user's own it computes the neurons only, where it can."""
        names = ["votes", "encoding", "loss", "dropout"] if backend == "cupy" else []
        names = [name for name in names if getattr(self, name) != getattr(Config, name)]
        names += ["surrogate"] if self.own_surrogate else []
        return ", ".join(f"{name} {getattr(self, name)}" for name in names) if self.net is None else ""

    def notes(self) -> list[str]:
        return [] if self.resume else self.without_effect(self.unused)  # of a resumed run the checkpoint decides it

    @classmethod
    def from_yaml(cls, file: str | os.PathLike[str]) -> Self:
        return cls.from_mapping(read_yaml(file), str(file))

    def on_top_of(self, saved: Mapping[str, Any], source: str = "") -> Self:
        """Return the settings of a resumed run: its saved ones, and over them those that the user gave now."""
        given = {name: getattr(self, name) for name in self.given}
        if data_variable():  # says where the data are now, wherever they were then
            given.setdefault("data_dir", self.data_dir)
        unsaved = {each.name: getattr(self, each.name) for each in options_of(type(self)) if not each.saved}
        return replace(self, **{**self.known(saved, source), **unsaved, **given, "source": source})

    def changes(self, before: Self, names: Iterable[str]) -> list[str]:
        """Return 'tau 2.0 → 1.5' for every one of these settings that differs from what it was before."""
        unused = self.unused.keys() & before.unused.keys()
        return [
            f"{name} {show(getattr(before, name))} → {show(getattr(self, name))}"
            for name in names
            if name not in unused and getattr(before, name) != getattr(self, name)
        ]


def train_option(name: str, **changes: Any) -> Any:
    """Return the setting of `train` as a field of another record; `changes` replace what is declared of it."""
    return declared_as(replace(Config.__dataclass_fields__[name].metadata["option"], **changes))


FIXED_ON_RESUME = tuple(each.name for each in options_of(Config) if each.fixed)
"""Another value of these gives another result, which is neither the old run's nor a new one's."""

DECIDING = tuple(each.name for each in options_of(Config) if each.fixed or each.name in ("epochs", "lr", "schedule"))
"""The settings that decide the result, in the order of their declaration."""

RESUME_RULES = """\
Resuming: the run continues in its own directory with its own settings, exactly as if it had never stopped. A flag
given now replaces the saved setting: -epochs, -lr, -schedule and the settings of files and machine may change. One
that changes the result, such as -tau or -b, is refused, or with -force continued in a new directory. A finished run
takes a larger -epochs; of a directory made by -seeds all unfinished runs continue, and a larger -seeds adds runs."""


def recipes() -> dict[str, Path]:
    """Return the settings files that come with the program, by name: in a checkout, and where a wheel puts them."""
    folders = (PACKAGE.parent / "configs", PACKAGE / "configs")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def read_yaml(name: str | os.PathLike[str]) -> dict[Any, Any]:
    """Return the mapping in a file, or in the recipe of this bare name; UsageError for anything else.

    Its values stay text, which the check of each setting reads as on the command line; YAML 1.1 itself would read
    10:50, a range of `sweep`, as 650 and 1e-3 as a word.
    """
    import yaml

    file = Path(name).expanduser()
    file = file if file.exists() else recipes().get(os.fspath(name), file)
    layout = "write one `name: value` a line, as UTF-8 text"
    try:
        with file.open(encoding="utf-8-sig") as stream:
            settings = yaml.load(stream, yaml.BaseLoader) or {}
    except OSError as error:
        remedy = f"name a YAML file of settings, or a recipe: {', '.join(recipes())} (sweep_… are for sweep)"
        guess = did_you_mean(file.stem, recipes(), "")
        raise UsageError(f"{file}: {(error.strerror or str(error)).lower()}; {f'{guess} {remedy}'.strip()}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: {' '.join(str(error).split())}; {layout}") from None
    if not isinstance(settings, dict):
        raise UsageError(f"{file}: not a mapping of names to values; {layout}")
    return {key: None if value == "" else value for key, value in settings.items()}


def yaml_text(settings: dict[str, Any], verb: str = "train") -> str:
    """Return the file that `read_yaml` reads as these settings; its first line says how `verb` repeats the run."""
    import yaml

    head = f"# snn_mnist {__version__}; to repeat the run: python -m snn_mnist {verb} -config THIS_FILE\n"
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
