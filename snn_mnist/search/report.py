"""What a finished study leaves: its table, study.csv, figures, best.yaml, and the test of its winner."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from snn_mnist.data.datasets import Dataset
from snn_mnist.errors import SNNError
from snn_mnist.network.device import choose_runtime
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.network.saved_network import load_network
from snn_mnist.network.scoring import score_split
from snn_mnist.search import messages
from snn_mnist.search.plan import Plan
from snn_mnist.search.trials import REASON, RUNS, number_of, standing
from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.storage.atomic_files import write_file
from snn_mnist.storage.directory import LATEST

TESTED = "test"  # user attribute of a study: the test of its winner
SHOWN = 10  # rows of the table that are printed


def ranked(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """The finished trials, the best first: complete ones, then pruned ones, then failed ones."""
    order = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    finished = [trial for trial in standing(study)[:count] if trial.state in order]
    return sorted(finished, key=lambda trial: (order.index(trial.state), -(trial.value or 0), number_of(trial)))


def write_report(study: optuna.Study, plan: Plan, dataset: Dataset, repeats: int, threads: int) -> str:
    """Writes the files of the report into the study's directory; returns what is printed."""
    trials = ranked(study, plan.trials)
    write_file(plan.folder / "study.csv", table(trials, plan))
    best = trials[0]
    if best.state != TrialState.COMPLETE:
        raise SNNError(f"no trial of {plan.study} came to its end; the first: {messages.result(best)}")
    tested = test(study, plan, best, dataset, repeats, threads)
    write_file(plan.folder / "best.yaml", best_yaml(best, plan, tested))
    from snn_mnist.search.figures import write_figures

    drawn = write_figures(trials, plan)
    counts = {state: sum(trial.state == state for trial in trials) for state in (TrialState.PRUNED, TrialState.FAIL)}
    lines = [
        messages.wrapped(
            f"study {plan.study}: {messages.counted(len(trials), 'trial')}, {counts[TrialState.PRUNED]} pruned, "
            f"{counts[TrialState.FAIL]} failed; accuracy on {plan.fixed['val']} held-out images, best first:"
        ),
        *(messages.row(trial) for trial in trials[:SHOWN]),
        *([f"… and {len(trials) - SHOWN} more in study.csv"] if len(trials) > SHOWN else ()),
        messages.winner(best, plan, tested),
        messages.files(plan, drawn),
    ]
    return "\n".join(lines)


def table(trials: list[FrozenTrial], plan: Plan) -> str:
    """study.csv: a row for each trial, the best first."""
    runs = [f"val_acc_seed{plan.fixed['seed'] + run}" for run in range(plan.seeds)] if plan.seeds > 1 else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "val_acc", "val_std", *runs, "epochs", *plan.space, "seconds", "run", "reason"])
    for trial in trials:
        each = trial.user_attrs.get(RUNS, [])
        spread = statistics.stdev(each) if len(each) > 1 else ""
        seconds = trial.duration.total_seconds() if trial.duration else ""
        writer.writerow([
            number_of(trial), trial.state.name.lower(), "" if trial.value is None else trial.value, spread,
            *(each if runs and each else [""] * len(runs)), "" if trial.last_step is None else trial.last_step + 1,
            *(messages.show(trial.params[name]) if name in trial.params else "" for name in plan.space),
            seconds, plan.run_names(number_of(trial))[0], trial.user_attrs.get(REASON, ""),
        ])  # fmt: skip
    return text.getvalue()


def test(
    study: optuna.Study, plan: Plan, best: FrozenTrial, dataset: Dataset, repeats: int, threads: int
) -> list[list[float]] | None:
    """The accuracy of each of the winner's runs on the test images, for each encoding; None where they lie elsewhere.

    The test images are looked at once: the result is kept with the study.
    """
    asked = {"trial": number_of(best), "repeats": repeats}
    kept = study.user_attrs.get(TESTED, {})
    if {name: kept.get(name) for name in asked} == asked:
        return kept["accuracies"]
    folders = [plan.folder / name for name in plan.run_names(number_of(best))]
    if not all((folder / LATEST).is_file() for folder in folders):
        return None
    accuracies = [_test_run(folder, plan, dataset, repeats, threads) for folder in folders]
    study.set_user_attr(TESTED, asked | {"accuracies": accuracies})
    return accuracies


def _test_run(folder: Path, plan: Plan, dataset: Dataset, repeats: int, threads: int) -> list[float]:
    """As `eval -resume FOLDER -repeats N`."""
    loaded = load_network(str(folder))
    runtime = choose_runtime(plan.fixed["device"], plan.fixed["backend"], threads)
    keys = [SpikeKey(loaded.config.seed, Stream.EVAL, repeat) for repeat in range(repeats)]
    scores, _ = score_split(loaded.net, dataset.test, runtime, [loaded.config.T], keys)
    return [each.accuracy() for each in scores]


def best_yaml(best: FrozenTrial, plan: Plan, tested: list[list[float]] | None) -> str:
    """The winner's settings for `train -config`: those that decide the result and are not the defaults.

    val is not among them, so that all images are learned.
    """
    settings, defaults = plan.config(best.params).to_mapping(), Config().to_mapping()
    chosen = {
        name: settings[name] for name in DECIDING
        if name not in ("seed", "val") and (name in plan.space or settings[name] != defaults[name])
    }  # fmt: skip
    lines = [
        f"# The winner of the study {plan.study}, trial {number_of(best)} of {plan.trials}:",
        f"# {messages.result(best)} of {plan.fixed['val']} held-out training images.",
    ]
    if tested:
        lines.append(f"# {messages.test_result(tested)}")
    return "\n".join(lines) + "\n" + yaml.safe_dump(chosen, sort_keys=False)
