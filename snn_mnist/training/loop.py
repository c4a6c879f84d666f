"""A training run: the loop, and what surrounds an epoch of it.

A training step (autograd_steps.py) encodes a batch, runs the network for T steps, compares the firing rates with the
one-hot labels (mean squared error), and lets the surrogate gradient through. A run is a pure function of its settings:
batch order and spikes have no generator state, so a checkpoint of weights, optimiser and position continues it exactly.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from snn_mnist.data.datasets import Dataset, load_dataset
from snn_mnist.errors import SNNError
from snn_mnist.model.device import choose_runtime, without_tiles
from snn_mnist.model.network import CLASSES, SNN
from snn_mnist.model.optimizer import FusedAdam, FusedSGD
from snn_mnist.model.poisson import SpikeKey, Stream, random_order
from snn_mnist.model.scoring import Score, default_readout_steps, mean_squared_error, score
from snn_mnist.runs import atomic_files, checkpoint, environment, metrics
from snn_mnist.runs import atomic_files as files
from snn_mnist.runs import directory as run_directory
from snn_mnist.runs.config import Config
from snn_mnist.runs.tensorboard import TensorBoard
from snn_mnist.training.interruption import Interrupted, Interruption
from snn_mnist.training.progress import Progress
from snn_mnist.training.resume import check_position, directory_to_continue, fill_momentum, resolve, restore_optimizer
from snn_mnist.training.threads import ThreadTuner
from snn_mnist.visualizing import run_figures as figures

CHECK_EVERY = 50  # steps between looks for weights that are not finite


@dataclass
class Best:
    """The epoch that checkpoint_max.pth holds, chosen by validation accuracy, or without -val by test accuracy."""

    epoch: int = -1
    score: float = -math.inf
    test_acc: float = 0.0


class Run:
    """One training run: resolved settings, network, position, and the files it writes."""

    def __init__(self, config: Config, interruption: Interruption) -> None:
        self.interruption = interruption
        self.resumed = checkpoint.load(config.resume) if config.resume else {}
        self.config = config = resolve(config, self.resumed)
        self.continued, self.why_elsewhere = directory_to_continue(config, self.resumed)
        self.latest: Path | None = None  # the last good checkpoint of a run that has a directory
        self.runtime = choose_runtime(config.device, config.backend, config.threads, config.step_mode)
        self.thread_tuner, self.announced_threads = self._follow_the_machine(), self.runtime.threads
        if config.amp and self.runtime.device.type == "cpu":
            without_tiles()
            print("amp on the CPU: bfloat16 without loss scaling, which its range does not need")
        data = load_dataset(config.dataset, config.data_dir)
        config.check_sizes(len(data.train))
        self._prepare_data(data)
        self._prepare_network()
        self._restore()
        if config.opt == "sgd" and config.momentum:
            fill_momentum(self.optimizer, self.net.weight)
        self.training = self.train_engine.training_steps(
            self.targets, steps=self.steps, batch=config.b, T=config.T, optimizer=self.optimizer, scaler=self.scaler,
            amp=config.amp, average=self.average, rates=self.rates, skipped=self.skipped,
        )  # fmt: skip

    # ---- before the first step ----

    def _follow_the_machine(self) -> ThreadTuner | None:
        """Where -j leaves the number of threads open and no result depends on it."""
        if self.runtime.backend != "numba" or self.config.j is not None or self.runtime.threads == 1:
            return None
        from snn_mnist.kernels.cpu import jit

        return ThreadTuner(self.runtime.threads, jit.set_threads)

    def _prepare_data(self, data: Dataset) -> None:
        config, device = self.config, self.runtime.device
        shuffled = random_order(len(data.train), 0, 0, Stream.HOLDOUT)  # the same images for every seed
        self.held_out = shuffled[: config.val].sort().values
        self.learned = shuffled[config.val :].sort().values.to(device)
        self.test_labels, self.held_out_labels = data.test.labels, data.train.labels[self.held_out]
        self.data = data.to(device)
        self.targets = one_hot(self.data.train.labels, CLASSES).float()
        self.steps = min(len(self.learned) // config.b, config.limit_batches or len(self.learned))

    def _prepare_network(self) -> None:
        config, device = self.config, self.runtime.device
        torch.manual_seed(config.seed)
        self.net = SNN.from_config(config).to(device)
        self.train_engine = self.runtime.engine(self.net, self.data.train.images)
        self.average = self.net.weight.detach().clone() if config.ema else None
        self.tested = self.net if self.average is None else SNN.from_config(config).to(device)
        self.test_engine = self.runtime.engine(self.tested, self.data.test.images)
        if config.val:  # the weights that are tested are those that learn, unless they are averaged
            same = self.tested is self.net
            self.held_out_engine = (
                self.train_engine if same else self.runtime.engine(self.tested, self.data.train.images)
            )
        self.optimizer = self._new_optimizer()
        scaled = config.amp and device.type == "cuda"  # bfloat16 on the CPU has float32's range: nothing to scale
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)  # steps of the epoch, counted without a sync
        self.rates = torch.zeros(self.steps * config.b, CLASSES, device=device)  # of the epoch, for its figures
        self._warm_up()
        self.epoch, self.step, self.spent, self.best, self.max_test_acc = 0, 0, 0.0, Best(), 0.0

    def _new_optimizer(self) -> Any:
        config, weights = self.config, list(self.net.parameters())
        if self.runtime.backend == "numba":
            if config.opt == "adam":
                return FusedAdam(self.net.weight, lr=config.lr)
            return FusedSGD(self.net.weight, lr=config.lr, momentum=config.momentum)
        if config.opt == "adam":
            capturable = self.runtime.backend == "cupy"  # in a CUDA graph
            return torch.optim.Adam(weights, lr=config.lr, fused=True, capturable=capturable)
        return torch.optim.SGD(weights, lr=config.lr, momentum=config.momentum, fused=True)

    def _warm_up(self) -> None:
        """One image forward and back, so that no compilation of kernels falls into the measured time."""
        with self._autocast():
            one = torch.zeros(1, dtype=torch.int64)
            rate = self.train_engine.firing_rate(one, self.config.T, SpikeKey(0, Stream.TRAIN, 0))
            self.test_engine.firing_counts(one, default_readout_steps(self.config.T), SpikeKey(0, Stream.TRAIN, 0))
        torch.autograd.grad(rate.sum(), self.net.weight)

    def _restore(self) -> None:
        state = self.resumed
        if not state:
            return
        with torch.no_grad():
            self.net.weight.copy_(state.get("raw", state["net"][checkpoint.WEIGHT]))
            if self.average is not None:
                self.average.copy_(state["net"][checkpoint.WEIGHT])
        restore_optimizer(self.optimizer, state, self.config)
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        if self.continued:  # a new directory has its own best epoch, whose weights lie in it
            self.best = Best(**state.get("best", {}))
        if self.continued or "config" not in state:  # the tutorial's checkpoints have no directory to go on in
            self.max_test_acc = float(state.get("max_test_acc", 0.0))
        self.epoch, self.step = state.get("epoch", -1) + 1, state.get("step", 0)
        if self.step:
            running = state["running"]
            check_position(self.config, state, self.steps)
            self.rates[: self.step * self.config.b] = running["rates"].to(self.rates)
            self.spent = float(running["seconds"])
            self.skipped += running.get("skipped", 0)

    def _open_files(self) -> None:
        """The run directory: the resumed one when its latest checkpoint is resumed, else a new one."""
        config = self.config
        name = f"T{config.T}_b{config.b}_{config.opt}_lr{config.lr}{'_amp' if config.amp else ''}"
        if config.dataset != "mnist":
            name += f"_{config.dataset}"
        if self.why_elsewhere:
            print(f"going on in a new directory: {self.why_elsewhere}")
        self.folder = self.continued or run_directory.new_run_directory(config.out_dir, name)
        self.latest = self.folder / checkpoint.LATEST
        self.closing.enter_context(files.exclusive_lock(self.folder))
        columns = metrics.METRICS + (metrics.VALIDATION if config.val else ())
        self.metrics = metrics.MetricsFile(self.folder / "metrics.csv", columns, self.epoch)
        if self.continued:
            run_directory.remove_leftovers(self.folder)
            if self.metrics.missing:
                print(f"{self.metrics.path} lacks {self.metrics.missing}, finished earlier; going on without")
        atomic_files.write_file(self.folder / "config.yaml", config.to_yaml())
        environment.note_environment(self.folder / "environment.json", str(self.runtime))
        self.tensorboard = TensorBoard(self.folder, self.epoch, self.metrics.rows)
        self.closing.callback(self.tensorboard.close)
        if not self.continued:
            self._save(checkpoint.LATEST)  # a death within the first epoch leaves this one

    # ---- the run ----

    def go(self) -> dict[str, Any]:
        """Trains to the last epoch or to an interruption; returns the last row of metrics."""
        config = self.config
        if self.epoch >= config.epochs:
            print(
                f"nothing to do: {config.resume} has finished its {self.epoch} epochs; "
                f"go on with a larger -epochs, e.g. -epochs {2 * self.epoch}"
            )
            return {}
        with self.interruption, ExitStack() as self.closing:
            self._open_files()
            images = self.steps * config.b
            print(
                f"{self.runtime}\n{config.dataset}: {images} images an epoch, run directory {self.folder}", flush=True
            )
            if self.resumed:
                begun = f" after {self.step} of {self.steps} steps" if self.step else ""
                print(f"going on in epoch {self.epoch + 1} of {config.epochs}{begun}", flush=True)
            self.progress = Progress(config.epochs)
            self.closing.callback(self.progress.stop)
            return self._run_epochs()

    def _run_epochs(self) -> dict[str, Any]:
        config, row = self.config, {}
        try:
            while self.epoch < config.epochs:
                self.train_epoch()
                self.interruption.check()
                row = self._finish_epoch()
        except Interrupted:
            self._save(checkpoint.LATEST)
            print(f"interrupted in epoch {self.epoch + 1} after {self.step} of {self.steps} steps, all saved; "
                  f"go on with: python -m snn_mnist train -resume {_quoted(self.folder)}", flush=True)  # fmt: skip
            return row
        self._summarise(row)
        return row

    def train_epoch(self, stop: int | None = None) -> None:
        """Training steps from the position of the run to the end of the epoch, or to step `stop`."""
        config, steps = self.config, self.steps
        stop = steps if stop is None else stop
        started = time.perf_counter() - self.spent
        self.order = self.learned[random_order(len(self.learned), config.seed, self.epoch, device=self.runtime.device)]
        key = SpikeKey(config.seed, Stream.TRAIN, self.epoch)
        self.training.begin(key, self.order, *self._schedules())
        self.progress.start(self.epoch, steps * config.b, self.step * config.b)
        while self.step < stop:
            chunk = self.training.chunk
            end = min((self.step // chunk + 1) * chunk, stop)
            began = time.perf_counter()
            self.training.run(self.step, end)
            if self.thread_tuner:
                self.thread_tuner.note((time.perf_counter() - began) / (end - self.step), end - self.step)
            self.progress.step((end - self.step) * config.b)
            self.step = end
            if end % CHECK_EVERY == 0 and self.runtime.device.type == "cpu":  # a GPU would have to wait
                self._check_numbers()
            if self.progress.due():
                self.progress.figures(*self._training_figures())
            if self.interruption.requested:
                break
        self._check_numbers()  # reads from the device, which waits for its last step
        self.spent = time.perf_counter() - started
        self.progress.stop()

    def _finish_epoch(self) -> dict[str, Any]:
        """Test, record, save, in the order that a death at any moment leaves consistent."""
        config, epoch = self.config, self.epoch
        last = epoch + 1 == config.epochs
        if last:  # should its figures fail, no training is lost
            self._save(checkpoint.LATEST)
        loss, accuracy = self._training_figures()
        row: dict[str, Any] = {
            "epoch": epoch, "train_loss": loss, "train_acc": accuracy, "lr": self._learning_rate(0),
            "train_images_per_s": self.steps * config.b / self.spent,
        }  # fmt: skip
        improved = False
        if (epoch + 1) % config.eval_every == 0 or last:
            row |= self._test()
            judged = row.get("val_acc", row["test_acc"])
            improved = judged > self.best.score
            if improved:
                self.best = Best(epoch, judged, row["test_acc"])
        row |= {"max_test_acc": self.max_test_acc, "seconds": self.spent + row.pop("test_seconds", 0.0)}
        self.metrics.append(row)
        self.tensorboard.write(row)
        if "test_acc" in row and config.figures and figures.due(epoch, config.epochs):
            self.tensorboard.add(lambda writer: figures.to_tensorboard(writer, epoch, *self._pictured()))
        if last:
            self._conclude(row)
        skipped = int(self.skipped)
        self.epoch, self.step, self.spent = epoch + 1, 0, 0.0
        self.skipped.zero_()
        if improved:
            self._save(checkpoint.BEST)
        self._save(checkpoint.LATEST)
        self.progress.line(_epoch_line(row, config.epochs, skipped) + self._threads_left())
        return row

    def _conclude(self, row: dict[str, Any]) -> None:
        """What a finished run has beside its epochs; made before its last checkpoint says that it is finished."""
        mapping = self.config.to_mapping()
        self.tensorboard.add(lambda writer: figures.settings_to_tensorboard(writer, mapping, row))
        if self.config.figures:
            figures.write_run_figures(self.folder, *self._pictured())

    def _test(self) -> dict[str, float]:
        if self.average is not None:
            with torch.no_grad():
                self.tested.weight.copy_(self.average)
        everything = torch.arange(len(self.data.test), device=self.runtime.device)
        started = time.perf_counter()
        with self._autocast():
            tested = self._score(self.test_engine, everything, self.test_labels, Stream.TEST)
        seconds = time.perf_counter() - started
        self.max_test_acc = max(self.max_test_acc, tested.accuracy())
        row = {
            "test_loss": tested.loss(), "test_acc": tested.accuracy(), "test_seconds": seconds,
            "test_images_per_s": len(everything) / seconds,
        }  # fmt: skip
        if self.config.val:
            with self._autocast():
                held = self._score(self.held_out_engine, self.held_out, self.held_out_labels, Stream.VALIDATION)
            row |= {"val_loss": held.loss(), "val_acc": held.accuracy()}
        self.last_test = tested
        return row

    def _pictured(self) -> tuple[Tensor, Score, tuple[str, ...]]:
        """What the figures show: the tested weights, their test, the names of the classes."""
        return self.tested.weight.detach().cpu(), self.last_test, self.data.class_names

    def _score(self, engine: Any, index: Tensor, labels: Tensor, stream: Stream) -> Score:
        key = SpikeKey(self.config.seed, stream, self.epoch)
        last = self.epoch + 1 == self.config.epochs
        readout_steps = (
            default_readout_steps(self.config.T) if last else [self.config.T]
        )  # the last test is drawn against T
        return score(engine, index, labels, readout_steps, key, self.runtime.test_batch, self.interruption.check)

    # ---- parts of an epoch ----

    def _threads_left(self) -> str:
        """Once: that fewer threads are faster now, or that all are again."""
        count = self.thread_tuner.count if self.thread_tuner and self.thread_tuner.reduced else self.runtime.threads
        if count == self.announced_threads:
            return ""
        self.announced_threads = count
        return f"  on {count} of {self.runtime.threads} threads, the faster choice now"

    def _autocast(self) -> Any:
        """Half precision with -amp: float16 on CUDA, bfloat16 on the CPU."""
        return torch.autocast(self.runtime.device.type) if self.config.amp else nullcontext()

    def _learning_rate(self, step: int) -> float:
        """lr, or (1 + cos(pi t)) lr / 2 with t the share of the run's steps that are done."""
        if self.config.schedule == "constant":
            return self.config.lr
        t = (self.epoch * self.steps + step) / (self.config.epochs * self.steps)
        return self.config.lr * (1 + math.cos(math.pi * t)) / 2

    def _schedules(self) -> tuple[list[float], list[float] | None]:
        """Of each step of the epoch: the learning rate, and the decay of the averaged weights, which have a shorter
        memory at first so that the initial weights fade."""
        rates = [self._learning_rate(step) for step in range(self.steps)]
        if self.average is None:
            return rates, None
        first = self.epoch * self.steps
        return rates, [min(self.config.ema, (1 + n) / (10 + n)) for n in range(first, first + self.steps)]

    def _check_numbers(self) -> None:
        if not math.isfinite(self.net.weight.detach().sum().item()):
            self.progress.stop()
            good = f"; the last good checkpoint is {self.latest}" if self.latest and self.latest.exists() else ""
            raise SNNError(
                f"the weights are not finite by step {self.step} of epoch {self.epoch + 1}: a learning rate of "
                f"{self.config.lr} is probably too high; lower -lr{good}"
            )

    def _training_figures(self) -> tuple[float, float]:
        """Loss and accuracy over the steps of this epoch so far, each batch with the weights it met."""
        done = self.step * self.config.b
        rates, labels = self.rates[:done], self.data.train.labels[self.order[:done]]
        return mean_squared_error(rates, labels), (rates.argmax(1) == labels).double().mean().item()

    def _save(self, name: str) -> None:
        """A checkpoint of the finished epochs plus the steps done of the next."""
        weight = self.net.weight.detach().cpu()
        state: dict[str, Any] = {
            "net": {checkpoint.WEIGHT: weight if self.average is None else self.average.cpu()},
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch - 1,
            "max_test_acc": self.max_test_acc,
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "best": vars(self.best),
            "config": self.config.to_mapping(),
        }
        if self.average is not None:
            state["raw"] = weight
        if self.step:
            rates = self.rates[: self.step * self.config.b].cpu()
            state["running"] = {"rates": rates, "seconds": self.spent, "skipped": int(self.skipped)}
        checkpoint.save(self.folder / name, state)

    def _summarise(self, row: dict[str, Any]) -> None:
        best = self.best
        print(f"last epoch: test accuracy {row['test_acc']:.2%}")
        if self.config.val:
            print(
                f"best epoch on {self.config.val} held-out training images: {best.epoch + 1} "
                f"(held-out {best.score:.2%}), test accuracy {best.test_acc:.2%}"
            )
        else:
            print(
                f"highest: {self.max_test_acc:.2%}, but that maximum was chosen on the test images themselves; "
                f"the last epoch is the honest figure (-val {len(self.data.train) // 12} chooses on held-out training "
                "images)"
            )
        print(f"test it again: python -m snn_mnist eval -resume {_quoted(self.folder)}")
        if self.interruption.requested:
            print("interrupted after the last step; the run is complete and saved")


def _epoch_line(row: dict[str, Any], epochs: int, skipped: int) -> str:
    parts = [
        f"epoch {row['epoch'] + 1}/{epochs}",
        f"train loss {row['train_loss']:.4f} acc {row['train_acc']:.2%}",
        f"test loss {row['test_loss']:.4f} acc {row['test_acc']:.2%} max {row['max_test_acc']:.2%}"
        if "test_acc" in row
        else "",
        f"held-out acc {row['val_acc']:.2%}" if "val_acc" in row else "",
        f"{row['train_images_per_s']:,.0f} images/s",
        f"{row['seconds']:.2f} s",
        f"steps skipped for gradients that are not finite: {skipped}" if skipped else "",
    ]
    return "  ".join(part for part in parts if part)


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
