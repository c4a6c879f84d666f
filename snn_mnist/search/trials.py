"""The trials of a study.

One that was returned to the queue stands there twice: failed, and anew with the same settings and a note of its first
number, which its run directory has.
"""

from __future__ import annotations

import warnings

from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats and figures count as such
REASON = "reason"  # user attribute of a trial that failed for good: why
RUNS = "runs"  # the accuracy of each seed on the held-out images
return_to_queue = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)


def number_of(trial: FrozenTrial) -> int:
    """The number of the trial when it was first begun."""
    return trial.system_attrs.get("failed_trial", trial.number)  # noted by return_to_queue


def standing(study: Study) -> list[FrozenTrial]:
    """Each trial once, by number: waiting, running, complete, pruned, or failed for good."""
    trials = study.get_trials(deepcopy=False)
    return sorted((one for one in trials if one.state != TrialState.FAIL or REASON in one.user_attrs), key=number_of)


def finished(study: Study, count: int) -> int:
    """How many of the study's first `count` trials are finished."""
    return sum(each.state.is_finished() for each in standing(study)[:count])
