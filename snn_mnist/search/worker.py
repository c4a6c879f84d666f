"""The workers of a sweep: each takes a trial from the queue, trains its runs, and reports their accuracy by epoch."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from snn_mnist.data.datasets import Dataset, load_dataset
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.search import report
from snn_mnist.search.space import suggest
from snn_mnist.search.study import (
    REASON,
    RUNS,
    Plan,
    finished,
    number_of,
    open_study,
    return_to_queue,
    storage_errors,
    trials_of,
)
from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.settings.options import show
from snn_mnist.storage import checkpoint
from snn_mnist.storage.atomic_files import reason
from snn_mnist.storage.directory import LATEST
from snn_mnist.storage.metrics import read_metrics
from snn_mnist.training.interruption import Interruption
from snn_mnist.training.loop import Diverged, train

PAUSE = 0.5  # seconds between looks at a study whose last trials run elsewhere


class Failed(Exception):
    """The settings of the trial can't be trained."""


class Returned(Exception):
    """The trial goes back to the queue, to be resumed."""


def work(plan: Plan, dataset: Dataset, interruption: Interruption) -> None:
    """Take trials until all of the study are finished, those of killed workers too, or until an interruption."""
    study = open_study(plan)

    def objective(trial: optuna.Trial) -> float:
        return accuracy(trial, plan, dataset, interruption)

    def announce(study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state != TrialState.FAIL or REASON in trial.user_attrs:
            done = f"{finished(study)}/{len(trials_of(study))}  trial {number_of(trial)}"
            text = f"{done}  {report.result(trial)}  {report.settings(trial)}"
            print(report.wrapped(text), flush=True)

    with interruption, storage_errors(plan.storage):
        while not interruption.requested:
            optuna.storages.fail_stale_trials(study)
            states = [each.state for each in trials_of(study)]
            if TrialState.WAITING in states:
                try:
                    study.optimize(objective, n_trials=1, catch=(Failed, Returned), callbacks=[announce])
                except ValueError as error:  # another worker took the trial while this one slept (SIGSTOP, a laptop)
                    if "Cannot tell" not in str(error):
                        raise
            elif TrialState.RUNNING in states:
                time.sleep(PAUSE)
            else:
                return


def accuracy(trial: optuna.Trial, plan: Plan, dataset: Dataset, interruption: Interruption) -> float:
    """The objective: the mean over seeds of the accuracy on the held-out images after the last epoch."""
    study = trial.study
    frozen = study.get_trials(deepcopy=False)[trial.number]
    study.sampler = sampler_of(plan, trial.number)
    try:
        values = {name: suggest(trial, name, plan.space[name]) for name in plan.space}
        names = plan.run_names(number_of(frozen))
        configs = [plan.config(values, run, name=name) for run, name in enumerate(names)]
        runs = [train_run(config, trial, run == 0, dataset, interruption) for run, config in enumerate(configs)]
    except (UsageError, Diverged) as error:
        trial.set_user_attr(REASON, str(error))
        raise Failed from error
    except (Returned, SNNError):
        return_to_queue(study, study.get_trials(deepcopy=False)[trial.number])
        raise
    trial.set_user_attr(RUNS, runs)
    return statistics.mean(runs)


def sampler_of(plan: Plan, number: int) -> optuna.samplers.BaseSampler:
    """A generator for each trial: no two workers draw the same, and a resumed study does not repeat its draws."""
    seed = int(np.random.SeedSequence([plan.fixed["seed"], number]).generate_state(1)[0])
    if plan.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def train_run(
    config: Config, trial: optuna.Trial, reports: bool, dataset: Dataset, interruption: Interruption
) -> float:
    """Train one run to its last epoch, resumed where it stands; reports: its epochs may prune the trial."""
    folder = Path(config.out_dir) / str(config.name)

    def watch(row: Mapping[str, Any]) -> None:
        if reports and "val_acc" in row:
            trial.report(row["val_acc"], row["epochs"])
            if trial.should_prune():
                raise optuna.TrialPruned

    if (folder / LATEST).is_file():
        saved = checkpoint.load(folder)["config"]
        changed = [name for name in DECIDING if saved.get(name) != getattr(config, name)]
        if changed:
            of = ", ".join(f"{name} {show(saved.get(name))}" for name in changed)
            raise SNNError(f"{folder} is a run of another study, with {of}; choose another -study or -out-dir")
        for row in read_metrics(folder / "metrics.csv") if reports else ():
            if "val_acc" in row:  # without a look at the pruner: this run was not pruned there
                trial.report(row["val_acc"], row["epochs"])
        free = frozenset({"resume", "device", "backend", "j", "data_dir"})
        config = replace(config, name=None, resume=str(folder), given=free)
    elif folder.is_dir():  # killed before its first checkpoint
        shutil.rmtree(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        train(config, interruption, watch, dataset)
    rows = read_metrics(folder / "metrics.csv")
    if not rows or rows[-1]["epochs"] < config.epochs:
        raise Returned  # interrupted
    return rows[-1]["val_acc"]


# ---------------------------------------------------------------------------- processes


def run_workers(plan: Plan, count: int, interruption: Interruption) -> None:
    """Run `count` worker processes until all have ended. They also stop, and save, when this process is killed."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    workers = [context.Process(target=_work_as_process, args=(plan, receiving)) for _ in range(count)]
    with interruption:
        noting = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: a Ctrl-C while they start comes by the pipe
        for worker in workers:
            worker.start()
        signal.signal(signal.SIGINT, noting)
        receiving.close()
        while any(worker.is_alive() for worker in workers):
            if interruption.requested:
                sending.close()
            for worker in [worker for worker in workers if worker.exitcode]:
                print(f"a worker ended (exit code {worker.exitcode}); its trial goes back to the queue", flush=True)
                workers.remove(worker)
            time.sleep(0.1)


def _work_as_process(plan: Plan, stop: Connection) -> None:
    """Work in a process of its own, which ends after its current steps when the other end of `stop` closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows not inherited; `work` notes it from then on
    interruption = Interruption()

    def wait() -> None:
        with contextlib.suppress(OSError):  # of Windows, for a pipe that is closed already
            stop.poll(None)
        interruption.signal = interruption.signal or signal.SIGTERM

    threading.Thread(target=wait, daemon=True).start()
    try:
        work(plan, load_dataset(plan.fixed["dataset"], plan.fixed["data_dir"]), interruption)
    except Exception as error:
        what = str(error) if isinstance(error, SNNError) else f"{type(error).__name__}: {reason(error)}"
        print(f"snn_mnist sweep: error: {what}", file=sys.stderr, flush=True)
        sys.exit(1)
