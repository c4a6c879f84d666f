"""What `bench` measures: our trainer on each backend, and SpikingJelly's tutorial loop where it is installed.

A contestant is made for one (T, batch size) and trains or tests for about so many seconds; it lives in a process of its
own, so that thread pools and memory are not shared with another's.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from snn_mnist import report
from snn_mnist.config import Config
from snn_mnist.core.poisson import Draw, Stream
from snn_mnist.interrupt import Interruption
from snn_mnist.scoring import score
from snn_mnist.trainer import Run


class Contestant(Protocol):
    def train(self, seconds: float) -> float:
        """Training speed in images/s."""

    def test(self, seconds: float) -> float:
        """Speed of the forward pass alone, in images/s."""


class Trainer:
    """The shipped training loop on one backend."""

    def __init__(self, backend: str, settings: dict[str, Any]) -> None:
        self.run = Run(Config(backend=backend, **settings), Interruption())
        self.run.progress = report.Progress(1, live=False)
        for steps in (self.run.steps, self.run.steps) if backend == "cupy" else (1,):
            self._epoch_of(steps)  # warm-up: on a GPU the graphs are captured in the first two epochs
            self.run.epoch += 1
        self.draws = itertools.count()

    def _epoch_of(self, steps: int) -> float:
        """Seconds for so many steps of an epoch."""
        run = self.run
        run.step, run.spent = 0, 0.0
        run.train_epoch(stop=steps)
        return run.spent

    def train(self, seconds: float) -> float:
        steps, spent = 0, 0.0
        while spent < seconds:
            per_step = spent / steps if steps else self._epoch_of(1)
            count = max(1, min(self.run.steps, int((seconds - spent) / per_step)))
            spent += self._epoch_of(count)
            steps += count
            self.run.epoch += 1
        return steps * self.run.config.b / spent

    def test(self, seconds: float) -> float:
        run, images, spent = self.run, 0, 0.0
        labels = run.data.test.labels
        part = torch.arange(min(len(labels), run.place.test_batch))
        while spent < seconds:
            draw = Draw(0, Stream.TEST, next(self.draws))
            started = time.perf_counter()
            with torch.no_grad():
                score(run.test_engine, part, labels[part], [run.config.T], draw, run.place.test_batch)
            spent += time.perf_counter() - started
            images += len(part)
        return images / spent


class SpikingJelly:
    """The loop of its lif_fc_mnist example with its own modules: images through a DataLoader, encoded and run step by
    step, Adam, on the same device."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from spikingjelly.activation_based import encoding, functional, layer, neuron, surrogate
        from torchvision import datasets, transforms

        self.T, self.reset_net, self.encoder = settings["T"], functional.reset_net, encoding.PoissonEncoder()
        self.device = torch.device(settings["device"])
        torch.set_num_threads(settings["j"])
        lif = neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan())
        net = torch.nn.Sequential(layer.Flatten(), layer.Linear(784, 10, bias=False), lif)
        self.net = net.to(self.device)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        self.batches = {
            train: torch.utils.data.DataLoader(
                datasets.MNIST(settings["data_dir"], train=train, transform=transforms.ToTensor()),
                batch_size=settings["b"], shuffle=train, drop_last=train, num_workers=4, pin_memory=True,
            )
            for train in (True, False)
        }  # fmt: skip

    def _rates(self, images: torch.Tensor) -> torch.Tensor:
        total: Any = 0.0
        for _ in range(self.T):
            total = total + self.net(self.encoder(images))
        return total / self.T

    def _measure(self, train: bool, seconds: float) -> float:
        if not len(self.batches[train]):
            raise ValueError("-b is more than the training images")
        images, batches = 0, itertools.chain.from_iterable(itertools.repeat(self.batches[train]))
        next(batches)  # the workers have started
        started = time.perf_counter()
        for image, label in batches:
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
            images += len(label)
            if time.perf_counter() - started > seconds:
                break
        return images / (time.perf_counter() - started)

    def train(self, seconds: float) -> float:
        return self._measure(True, seconds)

    def test(self, seconds: float) -> float:
        with torch.no_grad():
            return self._measure(False, seconds)


def peak_memory() -> int:
    """The most bytes of memory this process has held since `forget_peak`."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Linux can start the peak anew; elsewhere it is that of the whole process."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")


def serve(connection: Any, name: str) -> None:
    """The process of one contestant: takes ('make', settings), ('train', s), ('test', s), ('stop', None)."""
    contestant: Contestant | None = None
    while True:
        order, value = connection.recv()
        try:
            if order == "stop":
                return
            if order == "make":
                contestant = None
                forget_peak()
                with contextlib.redirect_stdout(io.StringIO()):
                    contestant = SpikingJelly(value) if name == "spikingjelly" else Trainer(name, value)
                answer: Any = _compile_seconds()
            else:
                measure: Callable[[float], float] = getattr(contestant, order)
                answer = {"images_per_s": measure(value), "peak_bytes": peak_memory()}
            connection.send((True, answer))
        except KeyboardInterrupt:
            return
        except Exception as fault:
            connection.send((False, f"{type(fault).__name__}: {fault}"))


def _compile_seconds() -> float:
    jit = sys.modules.get("snn_mnist.kernels.jit")
    return sum(jit.compile_seconds.values()) if jit else 0.0
