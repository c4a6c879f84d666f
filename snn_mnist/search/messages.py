"""What a sweep prints, as text of at most 80 columns."""

from __future__ import annotations

import shlex
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from snn_mnist.search.plan import Plan
from snn_mnist.search.storage import DEAD_AFTER
from snn_mnist.search.trials import REASON, RUNS, number_of
from snn_mnist.settings.words import show


def short(value: Any) -> str:
    """A setting with at most four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else show(value)


def begins(plan: Plan, done: int, workers: int) -> str:
    workers_here = counted(workers, "worker")
    return wrapped(f"study {plan.study}: {done} of {plan.trials} trials finished, {workers_here}, in {plan.folder}")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


def result(trial: FrozenTrial) -> str:
    """'92.84 %', '92.84 ± 0.05 %', '90.10 % pruned in epoch 4' or why it failed."""
    if trial.state == TrialState.FAIL:
        return f"failed: {trial.user_attrs.get(REASON, '')}"
    if trial.value is None:
        return "pruned" if trial.state == TrialState.PRUNED else trial.state.name.lower()
    if trial.state == TrialState.PRUNED:
        return f"{trial.value:.2%} pruned after epoch {(trial.last_step or 0) + 1}".replace("%", " %")
    runs = [100 * accuracy for accuracy in trial.user_attrs.get(RUNS, ())]
    spread = f" ± {statistics.stdev(runs):.2f}" if len(runs) > 1 else ""
    return f"{100 * trial.value:.2f}{spread} %"


def trial(trial: FrozenTrial, done: int, trials: int) -> str:
    """The line of a finished trial; `done` of `trials` are."""
    return wrapped(f"{done}/{trials}  trial {number_of(trial)}  {result(trial)}  {settings(trial.params)}")


def wrapped(text: str, indent: int = 2) -> str:
    return textwrap.fill(text, 80, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)


def ended(plan: Plan, code: int) -> str:
    if code > 0:
        return "a worker stopped with an error (above); the others go on"
    return wrapped(
        f"a worker was killed by signal {-code}; its trial goes back to the queue "
        f"{DEAD_AFTER * plan.heartbeat} s after its last sign of life"
    )


def row(trial: FrozenTrial) -> str:
    """A row of the final table."""
    return wrapped(f"{number_of(trial):>5}  {result(trial)}  {settings(trial.params)}", indent=7)


def test_result(tested: Sequence[Sequence[float]]) -> str:
    """'test images: 92.95 ± 0.03 % (mean ± std over 5 seeds, each the mean of 10 encodings)'

    tested: [seeds][encodings]
    """
    encodings = counted(len(tested[0]), "encoding")
    if len(tested) > 1:
        values, what = [statistics.mean(run) for run in tested], f"{len(tested)} seeds, each the mean of {encodings}"
    else:
        values, what = list(tested[0]), encodings
    mean = f"test images: {100 * statistics.mean(values):.2f}"
    if len(values) == 1:
        return f"{mean} % ({what})"
    return f"{mean} ± {100 * statistics.stdev(values):.2f} % (mean ± std over {what})"


def winner(best: FrozenTrial, plan: Plan, tested: Sequence[Sequence[float]] | None) -> str:
    number = number_of(best)
    if tested is None:
        return wrapped(f"the winner, trial {number}, was trained in {best.user_attrs['place']}; test it there with "
                       "the same command or with eval -resume")  # fmt: skip
    return wrapped(f"the winner, trial {number}, on the {test_result(tested)}")


def files(plan: Plan, drawn: Sequence[Path]) -> str:
    command = f"python -m snn_mnist train -config {shlex.quote(str(plan.folder / 'best.yaml'))}"
    names = ["study.csv", *(path.name for path in drawn)]
    return wrapped(f"in {plan.folder}: {', '.join(names)}") + f"\ntrain the winner on all images:\n  {command}"
