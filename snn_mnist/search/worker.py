"""The worker processes of a sweep. All of them, on this machine and others, take trials from the same study."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

import optuna
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from snn_mnist.data.datasets import Dataset, load_dataset
from snn_mnist.errors import SNNError
from snn_mnist.search import messages
from snn_mnist.search.objective import Failed, Objective, Returned
from snn_mnist.search.plan import Plan
from snn_mnist.search.storage import in_use, open_study
from snn_mnist.search.trials import REASON, finished, return_to_queue, standing
from snn_mnist.storage.atomic_files import reason
from snn_mnist.training.interruption import Interruption

PAUSE = 0.5  # seconds between looks at a study whose last trials run elsewhere


def work(plan: Plan, dataset: Dataset, interruption: Interruption) -> None:
    """Takes trials until all of the study are finished, those of dead workers too, or until an interruption."""
    study = open_study(plan)
    objective = Objective(plan, dataset, interruption)

    def after(study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state == TrialState.FAIL and REASON not in trial.user_attrs:
            if objective.returning:
                return_to_queue(study, trial)
            return
        print(messages.trial(trial, finished(study, plan.trials), plan.trials), flush=True)

    with interruption, in_use(plan.storage):
        while not interruption.requested and objective.error is None:
            fail_stale_trials(study)
            states = [each.state for each in standing(study)[: plan.trials]]
            if TrialState.WAITING in states or len(states) < plan.trials:
                objective.begin()
                try:
                    study.optimize(objective, n_trials=1, catch=(Failed, Returned), callbacks=[after])
                except Exception:
                    if not objective.taken_away:
                        raise
            elif TrialState.RUNNING in states:
                time.sleep(PAUSE)
            else:
                return
    if objective.error:
        raise objective.error


def work_as_process(plan: Plan, stop: Connection) -> None:
    """A worker in a process of its own, which ends after its current steps when the other end of `stop` closes."""
    interruption = Interruption()

    def wait() -> None:
        stop.poll(None)
        interruption.signal = interruption.signal or signal.SIGTERM

    threading.Thread(target=wait, daemon=True).start()
    try:
        work(plan, load_dataset(plan.fixed["dataset"], plan.fixed["data_dir"]), interruption)
    except Exception as error:
        what = str(error) if isinstance(error, SNNError) else f"{type(error).__name__}: {reason(error)}"
        print(f"snn_mnist sweep: error: {what}", file=sys.stderr, flush=True)
        sys.exit(1)


def run_workers(plan: Plan, count: int, interruption: Interruption) -> None:
    """`count` workers until all have ended. They also stop, and save, when this process is killed."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    workers = [context.Process(target=work_as_process, args=(plan, receiving)) for _ in range(count)]
    with interruption:
        noting = signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a Ctrl-C while they start, the pipe tells them
        for worker in workers:
            worker.start()
        signal.signal(signal.SIGINT, noting)
        receiving.close()
        while any(worker.is_alive() for worker in workers):
            if interruption.requested:
                sending.close()
            for worker in [worker for worker in workers if worker.exitcode]:
                print(messages.ended(plan, worker.exitcode or 0), flush=True)
                workers.remove(worker)
            time.sleep(0.1)
