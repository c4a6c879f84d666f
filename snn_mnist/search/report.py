"""The output of a finished study: its table, study.csv, best.yaml, figures, and the test of its winner."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from snn_mnist.data.datasets import Dataset
from snn_mnist.errors import SNNError
from snn_mnist.network.engine import choose_runtime
from snn_mnist.network.network import load_network
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.network.scoring import score_split
from snn_mnist.search.study import REASON, RUNS, Plan, drawn, number_of, result, trials_of
from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.settings.options import show
from snn_mnist.storage.atomic_files import write_file
from snn_mnist.storage.metrics import csv_text, mean_std, percent
from snn_mnist.terminal import wrapped
from snn_mnist.visualizing import drawing
from snn_mnist.visualizing.run_figures import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 10  # rows of the table that are printed
ORDER = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
ACCURACY = "held-out accuracy in %"


def write_report(study: optuna.Study, plan: Plan, dataset: Dataset, repeats: int, threads: int) -> None:
    """Write the files of the report into the study's directory; print its best trials and the test of the winner."""
    trials = distinct(study)
    write_file(plan.folder / "study.csv", table(trials, plan))
    best, file = trials[0], plan.folder / "best.yaml"
    if best.state != TrialState.COMPLETE:
        raise SNNError(f"no trial of {plan.study} finished; the first: {result(best)}")
    complete, pruned, failed = (sum(each.state == state for each in trials) for state in ORDER)
    states = f"{complete} trials complete, {pruned} pruned, {failed} failed"
    if repeated := len(trials_of(study)) - len(trials):
        states += f", {repeated} repeated others' settings and do not count (of lists -sampler grid repeats none)"
    shown = f"accuracy on {plan.fixed['val']} held-out images, best first, all in study.csv:"
    print(wrapped(f"study {plan.study}: {states}; {shown}"))
    for trial in trials[:SHOWN]:
        print(wrapped(f"{number_of(trial):>5}  {result(trial)}  {drawn(trial)}"))
    tested = test_winner(plan, best, dataset, repeats, threads)
    print(wrapped(f"the winner, trial {number_of(best)}, on the {tested}"))
    write_file(file, best_yaml(best, plan, len(trials_of(study)), tested))
    pictures = [write(plan.folder / name, figure).name for name, figure in figures(study, plan).items()]
    print(wrapped(f"in {plan.folder}: study.csv, best.yaml, {', '.join(pictures)}"))
    print(f"train the winner on all images:\n  python -m snn_mnist train -config {shlex.quote(str(file))}")


def distinct(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials, the best first; of those with the same settings, whose runs are the same, one."""
    trials = sorted(trials_of(study), key=lambda each: (ORDER.index(each.state), -(each.value or 0), number_of(each)))
    firsts: dict[frozenset[Any], FrozenTrial] = {}
    for trial in trials:
        firsts.setdefault(frozenset(trial.params.items()), trial)
    return list(firsts.values())


def table(trials: list[FrozenTrial], plan: Plan) -> str:
    """Return study.csv: a row for each trial, the best first; shares of 1 with six decimals."""
    rows: list[dict[str, Any]] = []
    for trial in trials:
        number, runs = number_of(trial), trial.user_attrs.get(RUNS, [])
        row = {"trial": number, "state": trial.state.name.lower(), "val_acc": trial.value}
        row["val_std"] = mean_std(runs)[1] if runs else None
        row |= {f"val_acc_seed{plan.fixed['seed'] + run}": accuracy for run, accuracy in enumerate(runs)}
        row |= {"epochs": trial.last_step} | {name: show(value) for name, value in trial.params.items()}
        row["seconds"] = trial.duration.total_seconds() if trial.duration else None
        row |= {"run": plan.run_names(number)[0], "reason": trial.user_attrs.get(REASON)}
        rows.append({name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()})
    return csv_text(rows)


def test_winner(plan: Plan, best: FrozenTrial, dataset: Dataset, repeats: int, threads: int) -> str:
    """Return 'test images: 92.95 ± 0.03 % (mean ± std over 5 seeds, each the mean of 10 encodings)'."""
    if plan.config(best.params).encoding != "poisson":
        repeats = 1  # it is always the same
    accuracies = []  # [seeds][encodings], as `eval -resume FOLDER -repeats N`
    for name in plan.run_names(number_of(best)):
        loaded = load_network(str(plan.folder / name))
        runtime = choose_runtime(plan.fixed["device"], plan.fixed["backend"], threads, loaded.config)
        keys = [SpikeKey(loaded.config.seed, Stream.EVAL, repeat) for repeat in range(repeats)]
        scores, _ = score_split(loaded.net, dataset.test, runtime, [loaded.config.T], keys)
        accuracies.append([each.accuracy() for each in scores])
    encodings = f"{repeats} encodings" if repeats > 1 else ""
    if plan.seeds == 1:
        return f"test images: {percent(accuracies[0])}" + (f" (mean ± std over {encodings})" if encodings else "")
    over = f"mean ± std over {plan.seeds} seeds" + (f", each the mean of {encodings}" if encodings else "")
    return f"test images: {percent(list(map(statistics.mean, accuracies)))} ({over})"


def best_yaml(best: FrozenTrial, plan: Plan, trials: int, tested: str) -> str:
    """Return the settings of the winner that are not the defaults; without val, so that all images are learned."""
    settings, defaults = plan.config(best.params).to_mapping(), Config().to_mapping()
    chosen = {
        name: settings[name]
        for name in DECIDING
        if name not in ("seed", "val") and (name in plan.space or settings[name] != defaults[name])
    }
    head = f"# The winner of the study {plan.study}, trial {number_of(best)} of {trials}:\n"
    head += f"# {result(best)} of {plan.fixed['val']} held-out training images.\n# {tested}\n"
    return head + yaml.safe_dump(chosen, sort_keys=False)


# ---------------------------------------------------------------------------- figures


def figures(study: optuna.Study, plan: Plan) -> dict[str, Any]:
    """Draw the figures that the complete trials allow: two of Optuna's, each setting, a grid of two lists."""
    from optuna.visualization import matplotlib as optunas

    trials = distinct(study)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    names = [name for name in plan.space if len({trial.params[name] for trial in complete}) > 1]
    lists = [name for name in names if isinstance(plan.space[name], tuple)]
    found: dict[str, Any] = {}
    if names:
        found["settings.png"] = against_each(complete, len(trials), names, plan)
    if len(lists) > 1:
        found["grid.png"] = over_grid(complete, lists[0], lists[1])
    with drawing.own_style():
        found["history.png"] = optunas.plot_optimization_history(study, target_name="held-out accuracy").figure
        if len(names) > 1 and len(complete) > 3 and len({trial.value for trial in complete}) > 1:
            counted = optuna.create_study(direction="maximize")
            counted.add_trials(complete)
            found["importance.png"] = optunas.plot_param_importances(counted, params=names).figure
    return found


@drawing.own_style()
def against_each(complete: Sequence[FrozenTrial], trials: int, names: list[str], plan: Plan) -> Figure:
    """Draw the accuracy of each complete one of the trials against each setting, ± its deviation over seeds."""
    found = [mean_std([100 * share for share in trial.user_attrs[RUNS]]) for trial in complete]
    means, stds = [mean for mean, _ in found], [std or 0.0 for _, std in found]
    figure = drawing.own_figure((2 + 2.4 * len(names), 4.5))
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        values, at = plan.space[name], [trial.params[name] for trial in complete]
        if isinstance(values, tuple):
            axes.set_xticks(range(len(values)), map(show, values))
            at = list(map(values.index, at))
        elif values.log:
            low, high = values.low, values.high
            round_ones = (m * 10.0**e for e in range(math.floor(math.log10(low)), 9) for m in (1, 2, 5))
            ticks = [tick for tick in round_ones if low <= tick <= high * 1.0001] or [low, high]
            ticks = ticks[:: 1 if len(ticks) < 5 else 3 * -(-len(ticks) // 12)]
            axes.set(xscale="log", xlim=(low * (low / high) ** 0.07, high * (high / low) ** 0.07))
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.errorbar(at, means, stds, fmt="o", capsize=3)
        drawing.style(axes, "", name, ACCURACY if name == names[0] else "")
    spread = ", ± standard deviation over seeds" if any(stds) else ""
    drawing.heading(figure, f"The complete trials ({len(complete)} of {trials}) against each setting{spread}")
    return figure


@drawing.own_style()
def over_grid(complete: Sequence[FrozenTrial], x: str, y: str) -> Figure:
    """Draw a heat map over two lists: in each cell mean ± standard deviation over seeds and the other settings."""
    across, up = (list(complete[0].distributions[name].choices) for name in (x, y))  # type: ignore[attr-defined]
    cells: dict[tuple[int, int], list[float]] = {}
    for trial in complete:
        place = up.index(trial.params[y]), across.index(trial.params[x])
        cells.setdefault(place, []).extend(trial.user_attrs[RUNS])
    means = np.full((len(up), len(across)), np.nan)
    for place, runs in cells.items():
        means[place] = 100 * statistics.mean(runs)
    figure = drawing.own_figure((8.0, 6.0))
    axes = figure.add_subplot()
    image = axes.imshow(means, aspect="auto", origin="lower")
    middle = (np.nanmin(means) + np.nanmax(means)) / 2
    for row, column in np.ndindex(means.shape):
        text = percent(cells[row, column]) if (row, column) in cells else "no complete\ntrial"
        colour = "white" if means[row, column] < middle else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    drawing.style(axes, f"Accuracy over {x} and {y}: mean ± standard deviation of all runs", x, y)
    axes.set_xticks(range(len(across)), map(show, across))
    axes.set_yticks(range(len(up)), map(show, up))
    drawing.add_colorbar(axes, image, ACCURACY)
    return figure
