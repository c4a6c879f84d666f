"""A trial: its settings are drawn, its runs trained, and the accuracy on the held-out images is told epoch by epoch."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from snn_mnist.data.datasets import Dataset
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.search.plan import Plan
from snn_mnist.search.space import Choices
from snn_mnist.search.trials import REASON, RUNS, number_of, standing
from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.settings.words import show
from snn_mnist.storage import checkpoint
from snn_mnist.storage.directory import LATEST
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.training.interruption import Interruption
from snn_mnist.training.loop import Diverged, train


class Failed(Exception):
    """The trial has no result: its settings can't be trained, or the study is full."""


class Returned(Exception):
    """The trial goes back to the queue, to be resumed."""


class Objective:
    """The function that Optuna maximises. One object serves all trials of a worker, whose data are loaded once."""

    def __init__(self, plan: Plan, dataset: Dataset, interruption: Interruption) -> None:
        self.plan, self.dataset, self.interruption = plan, dataset, interruption
        self.error: SNNError | None = None  # why this worker can't go on
        self.begin()

    def begin(self) -> None:
        self.returning = False  # the trial goes back to the queue
        self.taken_away = False  # another worker took this one for dead

    def __call__(self, trial: optuna.Trial) -> float:
        """The mean over seeds of the accuracy on the held-out images after the last epoch."""
        plan = self.plan
        number = number_of(trial.study.get_trials(deepcopy=False)[trial.number])
        if sum(number_of(each) < number for each in standing(trial.study)) >= plan.trials:
            raise Failed  # two workers took the last one
        values = {name: suggest(trial, name, plan) for name in plan.space}
        accuracies: list[float] = []
        try:
            for run, name in enumerate(plan.run_names(number)):
                config = plan.config(values, run, name=name)
                accuracies.append(self.train(config, trial, reports=run == 0))
        except (UsageError, Diverged) as error:
            trial.set_user_attr(REASON, str(error))
            raise Failed from error
        except UpdateFinishedTrialError:
            self.taken_away = True
            raise
        except (SNNError, Returned) as error:
            self.returning = True
            self.error = error if isinstance(error, SNNError) else None
            raise Returned from error
        trial.set_user_attr(RUNS, accuracies)
        return statistics.mean(accuracies)

    def train(self, config: Config, trial: optuna.Trial, reports: bool) -> float:
        """One run to its last epoch, resumed where it stands; reports: its epochs may prune the trial."""
        folder = Path(config.out_dir) / str(config.name)
        trial.set_user_attr("place", f"{socket.gethostname()}:{folder.resolve()}")

        def watch(row: Mapping[str, Any]) -> None:
            if reports and "val_acc" in row:
                trial.report(row["val_acc"], row["epochs"] - 1)
                if trial.should_prune():
                    raise optuna.TrialPruned

        if (folder / LATEST).is_file():
            require_same_settings(folder, config)
            for row in read_metrics(folder / "metrics.csv") if reports else ():
                if "val_acc" in row:
                    trial.report(row["val_acc"], row["epochs"] - 1)
            free = frozenset({"resume", "device", "backend", "j", "data_dir"})
            config = replace(config, name=None, resume=str(folder), given=free)
        elif folder.is_dir():  # killed before its first checkpoint
            shutil.rmtree(folder)
        with contextlib.redirect_stdout(io.StringIO()):
            train(config, self.interruption, watch, self.dataset)
        rows = read_metrics(folder / "metrics.csv")
        if not rows or rows[-1]["epochs"] < config.epochs:
            raise Returned  # interrupted
        return rows[-1]["val_acc"]


def require_same_settings(folder: Path, config: Config) -> None:
    """SNNError where the run in `folder` is of another study, whose result would be taken for this trial's."""
    before = checkpoint.load(folder)["config"]
    changed = [
        f"{name} {show(before.get(name))} instead of {show(getattr(config, name))}"
        for name in DECIDING
        if before.get(name) != getattr(config, name)
    ]
    if changed:
        raise SNNError(f"{folder} is a run of another study, with {', '.join(changed)}; "
                       "choose another -study or -out-dir")  # fmt: skip


def suggest(trial: optuna.Trial, name: str, plan: Plan) -> Any:
    """A setting of the trial, drawn unless it was before."""
    values = plan.space[name]
    if isinstance(values, Choices):
        return trial.suggest_categorical(name, values.values)
    if isinstance(values.low, int):
        return trial.suggest_int(name, values.low, int(values.high), log=values.log)
    return trial.suggest_float(name, values.low, values.high, log=values.log)
