"""What `bench` measures: our trainer on each backend, and SpikingJelly's tutorial loop where it is installed.

A contestant is made for one (T, batch size) and trains or tests for about so many seconds; it lives in a process of its
own, so that thread pools and memory are not shared with another's. On a GPU, CUDA events take the time.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import itertools
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch

from snn_mnist.errors import SNNError
from snn_mnist.kernels.cache import compile_seconds
from snn_mnist.model import fused_steps
from snn_mnist.model.device import choose_runtime
from snn_mnist.model.poisson import SpikeKey, Stream
from snn_mnist.runs.config import Config
from snn_mnist.training.data import TrainingData
from snn_mnist.training.evaluator import Evaluator
from snn_mnist.training.learner import Learner
from snn_mnist.training.resume import Resumed
from snn_mnist.training.snapshot import restore
from snn_mnist.training.threads import thread_tuner


class Stopwatch:
    """Seconds in `with` blocks, summed up: by CUDA events on a GPU, which it waits for, else by the clock."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> None:
        if self.device.type == "cuda":
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self.events[0].record(torch.cuda.current_stream(self.device))
        else:
            self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.events[1].record(torch.cuda.current_stream(self.device))
            self.events[1].synchronize()
            self.seconds += self.events[0].elapsed_time(self.events[1]) / 1000
        else:
            self.seconds += time.perf_counter() - self.started


class Contestant(Protocol):
    device: torch.device

    def train(self, seconds: float) -> float:
        """Training speed in images/s."""

    def test(self, seconds: float) -> float:
        """Speed of the forward pass alone, in images/s."""


class Trainer:
    """The training steps and the test of a run on one backend."""

    def __init__(self, backend: str, settings: dict[str, Any]) -> None:
        self.config = config = Config(backend=backend, **settings)
        self.runtime = choose_runtime(config.device, config.backend, config.threads, config.step_mode)
        data = TrainingData.load(config, self.runtime.device)
        self.learner = Learner(config, self.runtime, data)
        self.evaluator = Evaluator(config, self.runtime, data, self.learner)
        restore(Resumed(config, {}), self.learner)
        self.device, self.steps = self.runtime.device, data.steps
        self.tuner = thread_tuner(self.runtime)
        self.epochs, self.keys = itertools.count(1), itertools.count()
        for _ in range(2 if backend == "cupy" else 1):  # on a GPU the graphs are captured in the first two epochs
            self._steps(self.steps if backend == "cupy" else 1)

    def _steps(self, count: int) -> None:
        """So many steps of a new epoch."""
        self.learner.begin_epoch(next(self.epochs))
        for first in range(0, count, self.learner.chunk):
            began, last = time.perf_counter(), min(first + self.learner.chunk, count)
            self.learner.run(first, last)
            self.tuner.note(time.perf_counter() - began, last - first)
        if not self.learner.is_finite():  # waits for the device
            raise SNNError("the weights are not finite")

    def train(self, seconds: float) -> float:
        watch, done, chunk = Stopwatch(self.device), 0, self.learner.chunk
        while watch.seconds < seconds:
            wanted = int((seconds - watch.seconds) * done / watch.seconds) if done else chunk
            count = min(self.steps, max(wanted // chunk, 1) * chunk)
            with watch:
                self._steps(count)
            done += count
        return done * self.config.b / watch.seconds

    def test(self, seconds: float) -> float:
        watch, images = Stopwatch(self.device), 0
        while watch.seconds < seconds:
            with watch:
                tested = self.evaluator.score_test_images(
                    SpikeKey(0, Stream.TEST, next(self.keys)), count=self.runtime.test_batch
                )
            images += len(tested.labels)
        return images / watch.seconds


class SpikingJelly:
    """The loop of its lif_fc_mnist example with its own modules: images through a DataLoader, encoded and run step by
    step, Adam, on the same device.

    multi_step: all steps at once instead, by the fastest neurons it has for the device: of its release 0.0.0.0.14 those
    of its CuPy backend, of 2.0 those that it chooses.
    """

    def __init__(self, settings: dict[str, Any], multi_step: bool = False) -> None:
        from spikingjelly.activation_based import encoding, functional, layer, neuron, surrogate
        from torchvision import datasets, transforms

        self.T, self.reset_net, self.encoder = settings["T"], functional.reset_net, encoding.PoissonEncoder()
        self.device = torch.device(settings["device"])
        torch.set_num_threads(settings["j"])
        lif = neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan())
        net = torch.nn.Sequential(layer.Flatten(), layer.Linear(784, 10, bias=False), lif)
        self.net, self.multi_step = net.to(self.device), multi_step
        self.about = "SpikingJelly " + importlib.metadata.version("spikingjelly")
        if multi_step:
            functional.set_step_mode(net, "m")
            if hasattr(functional, "set_backend"):
                functional.set_backend(net, "cupy", neuron.LIFNode)
                by = "cupy"
            else:
                by = functional.neuron_implementation("lif", self.device)["implementation"]
            self.about += f", multi-step neurons by {by}"
        self.optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        self.batches = {
            train: torch.utils.data.DataLoader(
                datasets.MNIST(settings["data_dir"], train=train, transform=transforms.ToTensor()),
                batch_size=settings["b"], shuffle=train, drop_last=train, num_workers=4, pin_memory=True,
            )
            for train in (True, False)
        }  # fmt: skip
        if multi_step:  # its first batch compiles its kernels, or shows that they don't work
            self.train(0)

    def _rates(self, images: torch.Tensor) -> torch.Tensor:
        if self.multi_step:
            return self.net(self.encoder(images.expand(self.T, *images.shape))).mean(0)
        total: Any = 0.0
        for _ in range(self.T):
            total = total + self.net(self.encoder(images))
        return total / self.T

    def _measure(self, train: bool, seconds: float) -> float:
        if not len(self.batches[train]):
            raise ValueError("-b is more than the training images")
        images, watch = 0, Stopwatch(self.device)
        batches = itertools.chain.from_iterable(itertools.repeat(self.batches[train]))
        next(batches)  # the workers have started
        began = time.perf_counter()
        with watch:
            while not images or time.perf_counter() - began < seconds:  # each batch is waited for, as in the example
                image, label = next(batches)
                images += self._batch(image, label, train)
        return images / watch.seconds

    def _batch(self, image: torch.Tensor, label: torch.Tensor, train: bool) -> int:
        image, label = image.to(self.device), label.to(self.device)
        rates = self._rates(image)
        if train:
            self.optimizer.zero_grad()
            target = torch.nn.functional.one_hot(label, 10).float()
            loss = torch.nn.functional.mse_loss(rates, target)
            loss.backward()
            self.optimizer.step()
            loss.item()
        (rates.argmax(1) == label).float().sum().item()
        self.reset_net(self.net)
        return len(label)

    def train(self, seconds: float) -> float:
        return self._measure(True, seconds)

    def test(self, seconds: float) -> float:
        with torch.no_grad():
            return self._measure(False, seconds)


def peak_memory(device: torch.device) -> int:
    """The most bytes of memory this process has held since `forget_peak`: on a GPU of that, else of the machine's."""
    if device.type == "cuda":
        cupy = sys.modules.get("cupy")  # SpikingJelly's neurons take memory by it
        return torch.cuda.max_memory_allocated(device) + (cupy.get_default_memory_pool().total_bytes() if cupy else 0)
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak(device: torch.device) -> None:
    """Linux can start the peak anew; elsewhere it is that of the whole process."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
    if device.type == "cuda" and torch.cuda.is_initialized():  # else it holds none yet, and torch refuses
        torch.cuda.reset_peak_memory_stats(device)


def _make(name: str, settings: dict[str, Any]) -> Contestant:
    if not name.startswith("spikingjelly"):
        return Trainer(name, settings)
    warnings.simplefilter("ignore")  # of its DataLoader: too many processes, no memory to pin
    return SpikingJelly(settings, name == "spikingjelly-fused")


def serve(connection: Any, name: str) -> None:
    """The process of one contestant: takes ('make', settings), ('train', s), ('test', s), ('stop', None)."""
    contestant: Any = None
    while True:
        order, value = connection.recv()
        try:
            if order == "stop":
                return
            if order == "make":
                contestant = None
                forget_peak(torch.device(value["device"]))
                started = time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()):
                    contestant = _make(name, value)
                ready = {"ready_seconds": time.perf_counter() - started, "about": getattr(contestant, "about", "")}
                answer: Any = ready | _compile_seconds()
            else:
                measure: Callable[[float], float] = getattr(contestant, order)
                answer = {"images_per_s": measure(value), "peak_bytes": peak_memory(contestant.device)}
            connection.send((True, answer))
        except KeyboardInterrupt:
            return
        except Exception as error:
            connection.send((False, f"{type(error).__name__}: {error}"))


def _compile_seconds() -> dict[str, float]:
    """What compiling kernels, and capturing graphs of them, has taken in this process."""
    return {"compile_seconds": sum(compile_seconds.values()), "capture_seconds": sum(fused_steps.capture_seconds)}
