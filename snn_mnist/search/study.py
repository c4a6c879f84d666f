"""A study of Optuna: what it varies, its queue of trials in a database, and the workers that train them.

The trials are put into the queue when the study is made, those of a grid with their settings. So each is taken by one
worker, however many commands and machines work on the study. A trial whose worker was killed misses its heartbeats;
Optuna marks it as failed and puts a copy into the queue, which notes the number of the first.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pickle
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from snn_mnist.data.datasets import Dataset, load_dataset
from snn_mnist.errors import SNNError, UsageError, reason
from snn_mnist.network.own import digest
from snn_mnist.search.space import Space, corners, suggest
from snn_mnist.settings.config import DECIDING, Config, yaml_text
from snn_mnist.settings.options import show
from snn_mnist.storage import checkpoint
from snn_mnist.storage.atomic_files import make_directory, write_file
from snn_mnist.storage.checkpoint import LATEST
from snn_mnist.storage.metrics import percent, read_metrics
from snn_mnist.storage.runs import PRUNED, STUDY
from snn_mnist.terminal import wrapped
from snn_mnist.training.console import Interrupted, Interruption
from snn_mnist.training.learner import Diverged
from snn_mnist.training.loop import train

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats and figures count as such
warnings.filterwarnings("ignore", message="The reported value is ignored")  # of an epoch before a resume
optuna.logging.set_verbosity(optuna.logging.ERROR)

HEARTBEAT, DEAD_AFTER = 10, 30  # seconds
FREE = ("device", "backend", "step_mode", "j", "data_dir", "figures", "test")  # may change when a study is continued
SETTINGS = "settings"  # user attribute of a study: what it was started with; set when its queue is full
REASON = "reason"  # user attribute of a trial that failed for good
RUNS = "runs"  # user attribute of a complete trial: the accuracy of each seed on the held-out images
return_to_queue = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)


@dataclass(frozen=True)
class Plan:
    """The task of a sweep, as it is sent to the worker processes."""

    study: str  # its name in the storage and that of its directory
    folder: Path  # OUT_DIR/STUDY
    storage: str  # a URL of SQLAlchemy, else the path of an SQLite file
    space: Space  # settings that vary
    fixed: Mapping[str, Any]  # the other settings of `train`
    trials: int
    sampler: str
    seeds: int  # runs of a trial
    prune: bool

    def config(self, values: Mapping[str, Any], run: int = 0, **changes: Any) -> Config:
        """Return the settings of one run of a trial; UsageError where they do not go together."""
        settings = {**self.fixed, **values}
        return Config(**settings | {"seed": settings["seed"] + run, "out_dir": str(self.folder), **changes})

    def run_names(self, number: int) -> list[str]:
        """Return the run directories of a trial: trial-0007, or trial-0007-seed0, trial-0007-seed1, …"""
        name, first = f"trial-{number:04}", self.fixed["seed"]
        return [name] if self.seeds == 1 else [f"{name}-seed{first + run}" for run in range(self.seeds)]

    def settings(self) -> dict[str, str]:
        """Return the settings, as text, that must not change when the study is continued."""
        settings = {**self.fixed, **self.space, "seeds": self.seeds, "sampler": self.sampler}
        return {name: show(value) for name, value in settings.items() if name not in FREE}

    def files(self) -> dict[str, str]:
        """Return the digests of the user's files that make networks and surrogates, which must not change either."""
        listed = [each if isinstance(each, tuple) else (each,) for each in (*self.fixed.values(), *self.space.values())]
        named = [value for values in listed for value in values if ".py:" in str(value)]
        return {name: digest(Path(name.rpartition(":")[0]).read_bytes()) for name in named}

    def check(self, n_train: int) -> None:
        """Raise UsageError where no combination of the settings can be trained on this many images."""
        errors = []
        for values in itertools.islice(corners(self.space), 4096):  # three seconds
            try:
                return self.config(values).check_sizes(n_train)
            except UsageError as error:
                errors.append(error)
        raise errors[0]


# ---------------------------------------------------------------------------- the queue


def open_study(plan: Plan) -> optuna.Study:
    """Return the study, made with its queue if it is new; UsageError where it was started with other settings."""
    make_directory(plan.folder, "-out-dir")
    pruner = optuna.pruners.MedianPruner(n_warmup_steps=3) if plan.prune else optuna.pruners.NopPruner()
    how: Any = {"study_name": plan.study, "storage": _storage(plan), "pruner": pruner}
    try:
        study = optuna.create_study(direction="maximize", **how)
    except DuplicatedStudyError:
        study = optuna.load_study(**how)
        for _ in range(100):  # another command has made it a moment ago, and fills its queue
            if SETTINGS in study.user_attrs:
                break
            time.sleep(0.1)
    ours, before = plan.settings() | plan.files(), study.user_attrs.get(SETTINGS, {})
    if changed := [f"{name} {old} → {ours.get(name)}" for name, old in before.items() if ours.get(name) != old]:
        what = f"the study {plan.study} was started with other settings: {', '.join(changed)}"
        raise UsageError(f"{what}; use those, or another -study NAME")
    points = corners(plan.space) if plan.sampler == "grid" else itertools.repeat({})
    for point in itertools.islice(points, len(trials_of(study)), plan.trials):
        study.enqueue_trial(point)
    study.set_user_attr(SETTINGS, ours)
    write_file(plan.folder / STUDY, yaml_text(plan.settings(), "sweep"))
    return study


def _storage(plan: Plan) -> RDBStorage:
    url, options = plan.storage, {"pool_pre_ping": True}  # type: tuple[str, dict[str, Any]]
    if "://" not in url:
        make_directory(Path(url).parent, "-storage")
        url, options = f"sqlite:///{url}", {"connect_args": {"timeout": 60}}
    settings: Any = {"heartbeat_interval": HEARTBEAT, "grace_period": DEAD_AFTER}
    settings |= {"engine_kwargs": options, "heartbeat_stale_trial_callback": return_to_queue}
    try:
        storage = RDBStorage(url, **settings)
    except SQLAlchemyError:  # perhaps another command makes the tables at the same moment
        time.sleep(1)
        storage = RDBStorage(url, **settings)
    if storage.engine.name == "sqlite":  # it has no SELECT … FOR UPDATE: two workers could take the same trial
        listen = sqlalchemy.event.listen
        listen(storage.engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        storage.engine.dispose()
    return storage


@contextlib.contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Raise what is wrong with a storage as one line, whatever Optuna raises on top of it."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, SQLAlchemyError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        what = reason(getattr(cause, "orig", None) or cause)
        shown = re.sub("://.*@", "://***@", storage)  # without its password
        remedy = "give the path of an SQLite file, or the URL of a running database with its driver"
        raise SNNError(f"-storage {shown} can't be used ({what}); {remedy}") from error


def number_of(trial: FrozenTrial) -> int:
    """Return the number of the trial when it was first begun."""
    return trial.system_attrs.get("failed_trial", trial.number)  # noted by return_to_queue


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return each trial once, by number: waiting, running, complete, pruned, or failed for good."""
    trials = study.get_trials(deepcopy=False)
    return sorted((one for one in trials if one.state != TrialState.FAIL or REASON in one.user_attrs), key=number_of)


def finished(study: optuna.Study) -> int:
    return sum(each.state.is_finished() for each in trials_of(study))


# ---------------------------------------------------------------------------- trials


def work(plan: Plan, dataset: Dataset, interruption: Interruption) -> None:
    """Take trials until all of the study are finished, those of killed workers too, or until an interruption."""
    study = open_study(plan)

    def announce(study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state != TrialState.FAIL or REASON in trial.user_attrs:
            done = f"{finished(study)}/{len(trials_of(study))}  trial {number_of(trial)}"
            print(wrapped(f"{done}  {result(trial)}  {drawn(trial)}"), flush=True)

    how: Any = {"n_trials": 1, "catch": (UsageError, Diverged, Interrupted), "callbacks": [announce]}
    with interruption:
        while not interruption.requested:
            fail_stale_trials(study)
            states = [each.state for each in trials_of(study)]
            if TrialState.WAITING in states:
                try:
                    study.optimize(lambda trial: accuracy(trial, plan, dataset, interruption), **how)
                except ValueError as error:  # another worker took the trial while this one slept, as laptops do
                    if "Cannot tell" not in str(error):
                        raise
            elif TrialState.RUNNING in states:  # elsewhere; it may yet return to the queue
                time.sleep(0.5)
            else:
                return


def accuracy(trial: optuna.Trial, plan: Plan, dataset: Dataset, interruption: Interruption) -> float:
    """Return the mean over seeds of the accuracy on the held-out images after the last epoch: the objective."""
    study = trial.study
    # A generator for each trial: no two workers draw the same, and a resumed study does not repeat its draws.
    seed = int(np.random.SeedSequence([plan.fixed["seed"], trial.number]).generate_state(1)[0])
    study.sampler = optuna.samplers.RandomSampler(seed=seed)
    if plan.sampler == "tpe":
        study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    try:
        values = suggest(trial, plan.space)
        number = number_of(study.get_trials(deepcopy=False)[trial.number])
        for each in trials_of(study):
            if each.state == TrialState.COMPLETE and each.params == trial.params and number_of(each) < number:
                trial.set_user_attr(RUNS, each.user_attrs[RUNS])  # the same settings and seeds give the same runs
                return each.value or 0.0
        configs = [plan.config(values, run, name=name) for run, name in enumerate(plan.run_names(number))]
        runs = [train_run(config, trial, run == 0, dataset, interruption) for run, config in enumerate(configs)]
    except (UsageError, Diverged) as error:
        trial.set_user_attr(REASON, str(error))
        raise
    except (Interrupted, SNNError):
        return_to_queue(study, study.get_trials(deepcopy=False)[trial.number])
        raise
    trial.set_user_attr(RUNS, runs)
    return statistics.mean(runs)


def train_run(
    config: Config, trial: optuna.Trial, reports: bool, dataset: Dataset, interruption: Interruption
) -> float:
    """Train one run to its last epoch, resumed where it stands; reports: its epochs may prune the trial."""
    folder = Path(config.out_dir) / str(config.name)

    def watch(row: Mapping[str, Any]) -> None:
        if reports and "val_acc" in row:
            trial.report(row["val_acc"], row["epochs"])
            if trial.should_prune():
                write_file(folder / PRUNED, f"after epoch {row['epochs']}\n")
                raise optuna.TrialPruned

    if (folder / LATEST).is_file():
        saved = Config.from_mapping(checkpoint.load(folder)["config"])
        if changed := config.changes(saved, DECIDING):
            where = f"{folder} was trained with other settings than this study's ({', '.join(changed)})"
            raise SNNError(f"{where}; remove that directory, or choose another -study or -out-dir")
        config = replace(config, name=None, resume=str(folder), given=frozenset(FREE))
    elif folder.is_dir():  # killed before its first checkpoint
        shutil.rmtree(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        train(config, interruption, watch, dataset)
    rows = read_metrics(folder / "metrics.csv")
    if not rows or rows[-1]["epochs"] < config.epochs:
        raise Interrupted
    return rows[-1]["val_acc"]


def result(trial: FrozenTrial) -> str:
    """Return '92.84 %', '92.84 ± 0.05 %', '90.10 % pruned after epoch 4' or why it failed."""
    if trial.state == TrialState.FAIL:
        return f"failed: {trial.user_attrs.get(REASON, '')}"
    if trial.state == TrialState.PRUNED:
        return f"{percent([trial.value or 0])} pruned after epoch {trial.last_step}"
    return percent(trial.user_attrs[RUNS])


def drawn(trial: FrozenTrial) -> str:
    """Return the settings of a trial, 'tau 1.3, lr 0.00123', with at most four significant digits."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {show(value)}"
        for name, value in trial.params.items()
    )


# ---------------------------------------------------------------------------- processes


def run_workers(plan: Plan, count: int, interruption: Interruption) -> None:
    """Run `count` worker processes until all have ended. They also stop, and save, when this process is killed."""
    # Ctrl-C reaches them too, from a terminal: ignored while they start.
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += "from snn_mnist.search.study import work_as_process; work_as_process()"
    workers = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) for _ in range(count)]
    inputs: list[Any] = [worker.stdin for worker in workers]
    with interruption:
        for each in inputs:
            each.write(pickle.dumps(plan))
            each.flush()
        while any(worker.poll() is None for worker in workers):
            for each in inputs if interruption.requested else ():
                each.close()
            time.sleep(0.1)


def work_as_process() -> None:
    """Work in a process of its own, by the plan on standard input, until that closes."""
    plan, interruption = pickle.load(sys.stdin.buffer), Interruption()

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        interruption.signal = interruption.signal or signal.SIGTERM

    threading.Thread(target=wait, daemon=True).start()
    try:
        with storage_errors(plan.storage):
            work(plan, load_dataset(plan.fixed["dataset"], plan.fixed["data_dir"]), interruption)
    except Exception as error:
        what = str(error) if isinstance(error, SNNError) else f"{type(error).__name__}: {reason(error)}"
        sys.exit(f"snn_mnist sweep: error: {what}")
