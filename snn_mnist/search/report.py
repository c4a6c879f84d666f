"""The output of a finished study: its table, study.csv, figures, best.yaml, and the test of its winner."""

from __future__ import annotations

import csv
import io
import shlex
import statistics
import textwrap
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from snn_mnist.data.datasets import Dataset
from snn_mnist.errors import SNNError
from snn_mnist.network.device import choose_runtime
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.network.saved_network import load_network
from snn_mnist.network.scoring import score_split
from snn_mnist.search.study import REASON, RUNS, Plan, number_of, trials_of
from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.settings.options import show
from snn_mnist.storage.atomic_files import write_file
from snn_mnist.storage.directory import LATEST

SHOWN = 10  # rows of the table that are printed
ORDER = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]


def write_report(study: optuna.Study, plan: Plan, dataset: Dataset, repeats: int, threads: int) -> str:
    """Write the files of the report into the study's directory; return what is printed."""
    trials = sorted(trials_of(study), key=lambda each: (ORDER.index(each.state), -(each.value or 0), number_of(each)))
    write_file(plan.folder / "study.csv", table(trials, plan))
    best = trials[0]
    if best.state != TrialState.COMPLETE:
        raise SNNError(f"no trial of {plan.study} finished; the first: {result(best)}")
    tested = test_result(plan, best, dataset, repeats, threads)
    write_file(plan.folder / "best.yaml", best_yaml(best, plan, len(trials), tested))
    from snn_mnist.search.figures import write_figures

    files = ", ".join(["study.csv", *(path.name for path in write_figures(trials, plan))])
    complete, pruned, failed = (sum(each.state == state for each in trials) for state in ORDER)
    lines = [
        f"study {plan.study}: {complete} trials complete, {pruned} pruned, {failed} failed; accuracy on "
        f"{plan.fixed['val']} held-out images, best first:",
        *(f"{number_of(trial):>5}  {result(trial)}  {settings(trial)}" for trial in trials[:SHOWN]),
        *([f"… and {len(trials) - SHOWN} more in study.csv"] if len(trials) > SHOWN else ()),
        f"the winner, trial {number_of(best)}, on the {tested or 'test images: on the machine that trained it'}",
        f"in {plan.folder}: {files}",
        "train the winner on all images:",
    ]
    command = f"  python -m snn_mnist train -config {shlex.quote(str(plan.folder / 'best.yaml'))}"
    return "\n".join([*map(wrapped, lines), command])


def wrapped(text: str) -> str:
    """The text in lines of at most 80 columns."""
    return textwrap.fill(text, 80, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def settings(trial: FrozenTrial) -> str:
    """'tau 1.3, lr 0.00123', with at most four significant digits."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {show(value)}"
        for name, value in trial.params.items()
    )


def result(trial: FrozenTrial) -> str:
    """'92.84 %', '92.84 ± 0.05 %', '90.10 % pruned after epoch 4' or why it failed."""
    if trial.state == TrialState.FAIL:
        return f"failed: {trial.user_attrs.get(REASON, '')}"
    percent = f"{100 * (trial.value or 0):.2f}"
    if trial.state == TrialState.PRUNED:
        return f"{percent} % pruned after epoch {trial.last_step}"
    runs = trial.user_attrs[RUNS]
    return f"{percent} ± {100 * statistics.stdev(runs):.2f} %" if len(runs) > 1 else f"{percent} %"


def table(trials: list[FrozenTrial], plan: Plan) -> str:
    """study.csv: a row for each trial, the best first."""
    rows: list[dict[str, Any]] = []
    for trial in trials:
        runs = trial.user_attrs.get(RUNS, [])
        rows.append({
            "trial": number_of(trial), "state": trial.state.name.lower(), "val_acc": trial.value,
            "val_std": statistics.stdev(runs) if len(runs) > 1 else None,
            **{f"val_acc_seed{plan.fixed['seed'] + run}": accuracy for run, accuracy in enumerate(runs)},
            "epochs": trial.last_step,
            **{name: show(value) for name, value in trial.params.items()},
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "run": plan.run_names(number_of(trial))[0], "reason": trial.user_attrs.get(REASON),
        })  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(name for row in rows for name in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def test_result(plan: Plan, best: FrozenTrial, dataset: Dataset, repeats: int, threads: int) -> str:
    """'test images: 92.95 ± 0.03 % (mean ± std over 5 seeds, each the mean of 10 encodings)'.

    '' where the winner's runs are on another machine.
    """
    folders = [plan.folder / name for name in plan.run_names(number_of(best))]
    if not all((folder / LATEST).is_file() for folder in folders):
        return ""
    runtime = choose_runtime(plan.fixed["device"], plan.fixed["backend"], threads)
    accuracies = []  # [seeds][encodings], as `eval -resume FOLDER -repeats N`
    for folder in folders:
        loaded = load_network(str(folder))
        keys = [SpikeKey(loaded.config.seed, Stream.EVAL, repeat) for repeat in range(repeats)]
        scores, _ = score_split(loaded.net, dataset.test, runtime, [loaded.config.T], keys)
        accuracies.append([100 * each.accuracy() for each in scores])
    encodings = "1 encoding" if repeats == 1 else f"{repeats} encodings"
    values, what = accuracies[0], encodings
    if len(folders) > 1:
        values, what = list(map(statistics.mean, accuracies)), f"{len(folders)} seeds, each the mean of {encodings}"
    mean = f"test images: {statistics.mean(values):.2f}"
    if len(values) == 1:
        return f"{mean} % ({what})"
    return f"{mean} ± {statistics.stdev(values):.2f} % (mean ± std over {what})"


def best_yaml(best: FrozenTrial, plan: Plan, trials: int, tested: str) -> str:
    """The winner's settings for `train -config`: those that decide the result and are not the defaults.

    val is not among them, so that all images are learned.
    """
    settings, defaults = plan.config(best.params).to_mapping(), Config().to_mapping()
    chosen = {
        name: settings[name]
        for name in DECIDING
        if name not in ("seed", "val") and (name in plan.space or settings[name] != defaults[name])
    }
    head = f"# The winner of the study {plan.study}, trial {number_of(best)} of {trials}:\n"
    head += f"# {result(best)} of {plan.fixed['val']} held-out training images.\n" + (tested and f"# {tested}\n")
    return head + yaml.safe_dump(chosen, sort_keys=False)
