"""Networks and surrogates from the user's own files: `-net FILE.py:NAME`, `-surrogate FILE.py:NAME`.

A run directory keeps a copy of the file, and its checkpoints the SHA-256 of it. Loading a checkpoint runs no code; a
network is made by running the copy beside the checkpoint, which is said, or the file that the user names.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from snn_mnist.core import functional, neuron
from snn_mnist.core.surrogate import SURROGATES, GradientSurrogate, SurrogateFunctionBase
from snn_mnist.errors import SNNError, UsageError, reason
from snn_mnist.settings.config import Config
from snn_mnist.storage.checkpoint import CLASSES, PIXELS
from snn_mnist.terminal import report

COPIES = {"net": "net.py", "surrogate": "surrogate.py"}  # setting -> file in the run directory


@dataclass(frozen=True)
class Code:
    """What a setting FILE.py:NAME names."""

    setting: str
    file: Path
    name: str
    is_copy: bool  # in a run directory

    @classmethod
    def of(cls, config: Config, setting: str) -> Code:
        file, _, name = getattr(config, setting).rpartition(":")
        return cls(setting, Path(config.copies.get(setting, file)), name, setting in config.copies)

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"

    def source(self) -> bytes:
        try:
            return self.file.read_bytes()
        except OSError as error:
            why = f"{self.file} can't be read ({reason(error)})"
            why += f"; the checkpoint was trained with -{self.setting}" if self.is_copy else ""
            raise UsageError(f"{why}; give -{self.setting} FILE.py:{self.name}") from None

    def load(self) -> Any:
        """Run the file and return the object of that name."""
        if self.is_copy:
            say_running(self.file)
        module = ModuleType(f"own_{self.file.stem}")
        module.__file__ = str(self.file)
        sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
        with self.running():
            exec(compile(self.source(), self.file, "exec", dont_inherit=True), module.__dict__)
        if not callable(found := getattr(module, self.name, None)):
            raise UsageError(f"{self.file} defines no function or class {self.name}; name one of its own")
        return found

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the traceback of an exception without the program's part of it."""
        try:
            yield
        except SNNError:
            raise
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = max(place for place, frame in enumerate(frames) if frame.filename == __file__)
            lines = traceback.format_list(frames[ours + 1 :]) + traceback.format_exception_only(error)
            print("Traceback (most recent call last):\n" + "".join(lines), file=sys.stderr)
            raise SNNError(f"{self.file} raised {type(error).__name__}; see the traceback above") from error


@functools.cache
def say_running(file: Path) -> None:
    report(f"running {file}, which the run was trained with")


def codes(config: Config) -> list[Code]:
    """Return the files of the user that the network of these settings is made of."""
    named = {"net": config.net is not None, "surrogate": config.own_surrogate}
    return [Code.of(config, setting) for setting, is_own in named.items() if is_own]


def digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()


def with_copies(config: Config, state: Mapping[str, Any], run: Path) -> tuple[Config, list[str]]:
    """Return the settings that take the files of a checkpoint from its run directory, and the names of changed files.

    Whatever path the checkpoint names, only the copies beside it are run, or files that the user gives now: these may
    have another place, but not other content.
    """
    changed = []
    for code in codes(config):
        setting, known = code.setting, state.get("code", {}).get(COPIES[code.setting])
        if setting not in config.flags:
            config = replace(config, copies={**config.copies, setting: str(run / COPIES[setting])})
        if known is None:  # the checkpoint was trained without
            continue
        code, saved = Code.of(config, setting), state["config"][setting]
        if digest(code.source()) != known:
            changed.append(f"{code.file} (its content)")
        elif code.name == saved.rpartition(":")[2]:
            config = replace(config, **{setting: saved}, copies={**config.copies, setting: str(code.file)})
    return config, changed


def surrogate_of(config: Config) -> SurrogateFunctionBase:
    """Return the surrogate of these settings, of core.surrogate or of the user's file."""
    given = {} if config.alpha is None else {"alpha": config.alpha}
    if not config.own_surrogate:
        return SURROGATES[config.surrogate](**given)
    code = Code.of(config, "surrogate")
    found = code.load()
    with code.running():
        made = found(**given) if isinstance(found, type) else GradientSurrogate(found, **given)
        if not isinstance(made, SurrogateFunctionBase):
            raise UsageError(f"{code} is neither a SurrogateFunctionBase nor a function of x and alpha")
        x = torch.linspace(-1, 1, 3)  # a fault shows here and not within the training
        if not (g := made.gradient(x)).isfinite().all() or g.shape != x.shape:
            raise UsageError(f"{code}: its gradient at {x.tolist()} is {g.tolist()}")
    return made


def differ(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors differ by more than rounding, in which a GPU's sums may differ; NaN do not count."""
    return bool((a - b).norm() > 1e-4 * a.norm())


class OwnNetwork(nn.Module):
    """A network from a file: spikes [T, N, 784] to an output [T, N, 10 votes], whose mean over T are the scores.

    `state_dict` is that of the module itself.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.code, self.votes, self.encoding = Code.of(config, "net"), config.votes, config.encoding
        make = self.code.load()
        with self.code.running():
            named = [p for p in inspect.signature(make).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
            module = make(config) if named and named[0].default in (named[0].empty, None) else make()
        if not isinstance(module, nn.Module):
            raise UsageError(f"{self.code} returned a {type(module).__name__}; it must return a torch.nn.Module")
        self.module = module

    def respond(self, inputs: Tensor, steps: int) -> Tensor:
        """Return the output [T, N, 10 votes] for inputs [T, N, 784], or [1, N, 784] if each step is the same."""
        with self.code.running():
            return self.module(inputs.expand(steps, -1, -1))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.module.load_state_dict(*args, **kwargs)
        except RuntimeError as error:
            raise SNNError(f"{self.code} makes another network than the checkpoint's: {reason(error)}") from error

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what torch.optim takes; a group's own `lr_factor` multiplies the learning rate."""
        own = getattr(self.module, "parameter_groups", None)
        groups = own() if own else [{"params": list(self.module.parameters())}]
        if any("lr" in group for group in groups):
            raise UsageError(f"{self.code}: parameter_groups() gives lr, which -lr and -schedule do; give lr_factor")
        return groups

    def use_kernels(self, backend: str) -> None:
        """Let IF and LIF neurons in step mode 'm' compute on a fused backend."""
        for node in self.module.modules():
            if isinstance(node, neuron.BaseNode) and backend in node.supported_backends:
                node.backend = backend

    @property
    def spiking(self) -> Any:
        """The last neurons; None where there are none of core.neuron."""
        nodes = [module for module in self.module.modules() if isinstance(module, neuron.BaseNode)]
        return nodes[-1] if nodes else None

    def check(self, config: Config) -> None:
        """Try a batch of random spikes; UsageError where the network could not be trained or resumed as it is."""
        outputs = CLASSES * self.votes
        device = next(iter(self.state_dict().values()), torch.empty(0)).device
        x = torch.rand(config.T, 2 if config.T == 3 else 3, PIXELS, device=device).round()
        with torch.no_grad():
            self.eval().respond(x, config.T)  # the first one gives lazy modules their parameters
        functional.reset_net(self)
        trial = OwnNetwork(config).to(device)  # made anew, at another place of PyTorch's random numbers
        state = copy.deepcopy(self.state_dict())
        for module in trial.modules():
            if hasattr(module, "step_mode") and hasattr(module, "reset"):
                module.register_forward_pre_hook(functools.partial(self._check_step_mode, x.shape[:2]))
        found, slopes = [], []
        for net, training in ((trial, True), (trial, True), (trial, False), (trial, False), (self, False)):
            net.load_state_dict(state)
            with self.code.running():
                functional.reset_net(net)
            torch.manual_seed(0)
            found.append(y := net.train(training).respond(x, config.T))
            if not isinstance(y, Tensor) or y.shape != (*x.shape[:2], outputs):
                got = list(y.shape) if isinstance(y, Tensor) else f"a {type(y).__name__}"
                wanted = f"[T, N, {outputs}] with 10 classes and votes {self.votes}"
                raise UsageError(f"{self.code} maps [T, N, 784] = {list(x.shape)} to {got}; it must give {wanted}")
            learned = [parameter for parameter in net.parameters() if parameter.requires_grad]
            if not learned or not y.requires_grad:
                why = "an output that depends on no parameter" if learned else "no parameter that learns"
                raise UsageError(f"{self.code} has {why}: there is nothing to train")
            with self.code.running():
                slopes.append(torch.autograd.grad(y.sum(), learned, allow_unused=True, materialize_grads=True))
        functional.reset_net(self)
        self.load_state_dict(state)
        if x._version:
            raise UsageError(f"{self.code} changes its input in place; write x = x - 0.1, not x -= 0.1")
        pairs = [found[:2], found[2:4], *zip(*slopes[:2], strict=True)]
        if any(differ(*pair) for pair in pairs):
            remedy = "give the module that keeps it a method reset(), or make it a core.base.MemoryModule"
            raise UsageError(f"{self.code} keeps state that reset_net does not reset; {remedy}")
        if differ(found[3], found[4]):
            remedy = "a constant that is drawn at random belongs into register_buffer"
            raise UsageError(f"{self.code} makes two networks that differ, with the same state_dict; {remedy}")
        if not ((y == 0) | (y == 1)).all():
            report(f"note: the output of {self.code} is no spike train; its mean over T is taken as the score")

    def _check_step_mode(self, sequence: torch.Size, module: Any, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and (inputs[0].shape[:2] == sequence) != (module.step_mode == "m"):
            got = "one step" if module.step_mode == "m" else "the sequence [T, N, *]"
            remedy = "call functional.set_step_mode(net, 'm') where the network takes the sequence"
            what = f"{type(module).__name__} in step mode {module.step_mode!r}"
            raise UsageError(f"{self.code}: {what} got {got}; {remedy}")
