"""Where the trials of a study are kept: an Optuna journal file, or a database by its URL."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.search.plan import Plan
from snn_mnist.search.sampler import new_sampler
from snn_mnist.search.trials import return_to_queue
from snn_mnist.storage.atomic_files import make_directory, reason

DEAD_AFTER = 3  # heartbeats that did not come
IDENTITY = "snn_mnist"  # user attribute of a study: the settings it was begun with
BEAT = "snn_mnist:heartbeat"
PACKAGES = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}


class Journal(JournalStorage, BaseHeartbeat):
    """Optuna's journal with the heartbeat that Optuna gives to databases only.

    A running trial is dead when its last beat has not changed for so long. Each process measures that by its own clock,
    so the clocks of several machines need not agree.
    """

    def __init__(self, path: Path, interval: int) -> None:
        lock = JournalFileOpenLock(str(path)) if os.name == "nt" else None  # links need a privilege there
        super().__init__(JournalFileBackend(str(path), lock_obj=lock))
        self.interval = interval
        self.seen: dict[int, tuple[Any, float]] = {}  # trial -> its last beat, and when it was first seen here

    def record_heartbeat(self, trial_id: int) -> None:
        with contextlib.suppress(UpdateFinishedTrialError):  # taken for dead meanwhile
            self.set_trial_system_attr(trial_id, BEAT, time.time())

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        now = time.monotonic()
        beats = {each._trial_id: each.system_attrs.get(BEAT) for each in running}
        self.seen = {
            trial: self.seen[trial] if trial in self.seen and self.seen[trial][0] == beat else (beat, now)
            for trial, beat in beats.items()
        }
        return [trial for trial, (_, since) in self.seen.items() if now - since > DEAD_AFTER * self.interval]

    def get_heartbeat_interval(self) -> int:
        return self.interval

    def get_heartbeat_stale_trial_callback(self) -> Callable[[optuna.Study, FrozenTrial], None]:
        return return_to_queue


class Database(RDBStorage):
    def record_heartbeat(self, trial_id: int) -> None:
        with contextlib.suppress(StorageInternalError, sqlalchemy.exc.SQLAlchemyError):  # the next one may arrive
            super().record_heartbeat(trial_id)


def is_url(storage: str) -> bool:
    return "://" in storage


def open_study(plan: Plan) -> optuna.Study:
    """The study, made if it is not there; SNNError where its storage can't be used or it has other settings."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", message="The reported value is ignored")  # of an epoch before a resume
    median = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    with _errors(plan.storage):
        study = optuna.create_study(
            study_name=plan.study, storage=_database(plan) if is_url(plan.storage) else _journal(plan),
            direction="maximize", load_if_exists=True, sampler=new_sampler(plan),
            pruner=median if plan.prune else optuna.pruners.NopPruner(),
        )  # fmt: skip
        before = study.user_attrs.get(IDENTITY, {})
        new = not study.get_trials(deepcopy=False)
    ours = plan.identity()
    changed = [
        f"{name} {value} → {ours.get(name, 'none')}" for name, value in before.items() if ours.get(name) != value
    ]
    if changed or not (before or new):
        raise UsageError(f"the study {plan.study} was begun with other settings: {', '.join(changed) or 'unknown'}; "
                         "give it those, or this one another -study NAME")  # fmt: skip
    if not before:
        study.set_user_attr(IDENTITY, ours)
    return study


@contextlib.contextmanager
def _errors(storage: str) -> Iterator[None]:
    """What can be wrong with a storage, as one line."""
    where = f"-storage {_shown(storage)}"
    try:
        yield
    except ImportError as error:
        driver = getattr(error.__cause__, "name", None) or error.name or "its driver"
        raise SNNError(f"{where} needs the package {driver}: pip install {PACKAGES.get(driver, driver)}") from error
    except sqlalchemy.exc.ArgumentError as error:
        remedy = "give a URL such as postgresql://user@host/database, or the path of a journal file"
        raise UsageError(f"{where} is no URL of a database; {remedy}") from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _out_of_reach(storage, error) from error
    except OSError as error:
        raise SNNError(f"{where} can't be read and written ({reason(error)}); name another file") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SNNError(f"{where} is not a journal of Optuna ({reason(error)}); name another file") from error


@contextlib.contextmanager
def in_use(storage: str) -> Iterator[None]:
    """SNNError where a database is out of reach meanwhile, whatever Optuna raises on top of that."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, sqlalchemy.exc.SQLAlchemyError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise _out_of_reach(storage, cause) from error


def _out_of_reach(storage: str, error: BaseException) -> SNNError:
    cause = reason(getattr(error, "orig", None) or error)
    return SNNError(f"-storage {_shown(storage)} is out of reach ({cause}); check the address and that it is running")


def _journal(plan: Plan) -> Journal:
    path = Path(plan.storage)
    make_directory(path.parent, "-out-dir" if path.parent == plan.folder else "-storage")
    if path.exists():  # a journal has a JSON record in each line; nothing is added to another file
        with open(path, encoding="utf-8") as file:
            for line in itertools.islice(file, 1):
                json.loads(line)["op_code"]
    return Journal(path, plan.heartbeat)


def _database(plan: Plan, tries: int = 3) -> Database:
    waiting = {"connect_args": {"timeout": 60}} if plan.storage.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return Database(
            plan.storage, engine_kwargs=waiting, heartbeat_interval=plan.heartbeat,
            grace_period=DEAD_AFTER * plan.heartbeat, heartbeat_stale_trial_callback=return_to_queue,
        )  # fmt: skip
    except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.OperationalError) as error:
        if tries == 1 or not _made_by_two(error):
            raise
        time.sleep(1)
        return _database(plan, tries - 1)


def _made_by_two(error: Exception) -> bool:
    """Whether another process makes the tables at the same moment."""
    return "already exists" in str(error) or isinstance(error, sqlalchemy.exc.IntegrityError)


def _shown(url: str) -> str:
    """The URL without its password."""
    if not is_url(url):
        return url
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return url.partition("://")[0] + "://…"
