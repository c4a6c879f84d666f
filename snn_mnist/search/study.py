"""A study of Optuna: what it varies, where it is stored, and its queue of trials.

The trials are put into the queue when the study is made, those of a grid with their settings. So each is taken by one
worker, however many commands and machines work on the study. A trial whose worker was killed misses its heartbeats;
Optuna marks it as failed and puts a copy into the queue, which notes the number of the first.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.search.space import Space, corners
from snn_mnist.settings.config import Config
from snn_mnist.settings.options import show
from snn_mnist.storage.atomic_files import make_directory, reason

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats count as such
warnings.filterwarnings("ignore", message="The reported value is ignored")  # of an epoch before a resume
optuna.logging.set_verbosity(optuna.logging.ERROR)

HEARTBEAT, DEAD_AFTER = 10, 30  # seconds
FREE = ("device", "backend", "step_mode", "j", "data_dir", "figures", "test")  # may change when a study is continued
SETTINGS = "settings"  # user attribute of a study: what it was started with; set when its queue is full
REASON = "reason"  # user attribute of a trial that failed for good
RUNS = "runs"  # the accuracy of each seed on the held-out images
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
        """The settings of one run of a trial; UsageError where they do not go together."""
        settings = {**self.fixed, **values}
        return Config(**settings | {"seed": settings["seed"] + run, "out_dir": str(self.folder), **changes})

    def run_names(self, number: int) -> list[str]:
        """The run directories of a trial: trial-0007, or trial-0007-seed0, trial-0007-seed1, …"""
        name, first = f"trial-{number:04}", self.fixed["seed"]
        return [name] if self.seeds == 1 else [f"{name}-seed{first + run}" for run in range(self.seeds)]

    def settings(self) -> dict[str, str]:
        """The settings, as text, that must not change when the study is continued."""
        decisive = {name: value for name, value in self.fixed.items() if name not in FREE}
        return {name: show(value) for name, value in {**decisive, **self.space, "seeds": self.seeds}.items()} | {
            "sampler": self.sampler
        }

    def check(self, n_train: int) -> None:
        """Raise the first UsageError where no combination of the settings can be trained on this many images."""
        errors = []
        for values in itertools.islice(corners(self.space), 4096):
            try:
                return self.config(values).check_sizes(n_train)
            except UsageError as error:
                errors.append(error)
        raise errors[0]


def open_study(plan: Plan) -> optuna.Study:
    """Return the study, made with its queue if it is new; UsageError where it was started with other settings."""
    pruner = optuna.pruners.MedianPruner(n_warmup_steps=3) if plan.prune else optuna.pruners.NopPruner()
    with storage_errors(plan.storage):
        how: Any = {"study_name": plan.study, "storage": _storage(plan), "pruner": pruner}
        try:
            study = optuna.create_study(direction="maximize", **how)
        except DuplicatedStudyError:
            study = optuna.load_study(**how)
            for _ in range(100):  # another command has made it a moment ago, and fills its queue
                if SETTINGS in study.user_attrs:
                    break
                time.sleep(0.1)
        ours, before = plan.settings(), study.user_attrs.get(SETTINGS)
        if changed := [f"{name} {old} → {ours.get(name)}" for name, old in (before or {}).items() if ours[name] != old]:
            raise UsageError(f"the study {plan.study} was started with other settings: {', '.join(changed)}; "
                             "use those, or another -study NAME")  # fmt: skip
        points = corners(plan.space) if plan.sampler == "grid" else itertools.repeat({})
        for point in itertools.islice(points, len(trials_of(study)), plan.trials):
            study.enqueue_trial(point)
        study.set_user_attr(SETTINGS, ours)
    return study


def _storage(plan: Plan) -> RDBStorage:
    url, options = plan.storage, {"pool_pre_ping": True}  # type: tuple[str, dict[str, Any]]
    if "://" not in url:
        make_directory(Path(url).parent, "-storage" if Path(url).parent != plan.folder else "-out-dir")
        url, options = f"sqlite:///{url}", {"connect_args": {"timeout": 60}}
    for attempt in range(3):
        try:
            storage = RDBStorage(
                url, options, heartbeat_interval=HEARTBEAT, grace_period=DEAD_AFTER,
                heartbeat_stale_trial_callback=return_to_queue,
            )  # fmt: skip
            break
        except SQLAlchemyError:  # perhaps another command makes the tables at the same moment
            if attempt == 2:
                raise
            time.sleep(0.5)
    if storage.engine.name == "sqlite":  # it has no SELECT … FOR UPDATE: two workers could take the same trial
        sqlalchemy.event.listen(storage.engine, "connect", _leave_transactions_to_sqlalchemy)
        sqlalchemy.event.listen(storage.engine, "begin", _lock)
        storage.engine.dispose()
    return storage


def _leave_transactions_to_sqlalchemy(connection: Any, _: Any) -> None:
    connection.isolation_level = None


def _lock(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextlib.contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Raise what is wrong with a storage as one line, whatever Optuna raises on top of it."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, SQLAlchemyError | ImportError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        what = reason(getattr(cause, "orig", None) or cause.__cause__ or cause)
        shown = re.sub("://.*@", "://***@", storage)  # without its password
        remedy = "give the path of an SQLite file, or the URL of a running database with its driver"
        raise SNNError(f"-storage {shown} can't be used ({what}); {remedy}") from error


def number_of(trial: FrozenTrial) -> int:
    """The number of the trial when it was first begun."""
    return trial.system_attrs.get("failed_trial", trial.number)  # noted by return_to_queue


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """Each trial once, by number: waiting, running, complete, pruned, or failed for good."""
    trials = study.get_trials(deepcopy=False)
    return sorted((one for one in trials if one.state != TrialState.FAIL or REASON in one.user_attrs), key=number_of)


def finished(study: optuna.Study) -> int:
    return sum(each.state.is_finished() for each in trials_of(study))
