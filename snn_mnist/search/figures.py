"""The figures of a study: its history, the accuracy against each setting and over two settings, what mattered."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from snn_mnist.search.space import Choices
from snn_mnist.search.study import RUNS, Plan, number_of
from snn_mnist.settings.options import show
from snn_mnist.visualizing import drawing
from snn_mnist.visualizing.drawing import BLACK, BLUE, GREY, VERMILLION, own_style
from snn_mnist.visualizing.run_figures import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCURACY = "held-out accuracy in %"
FEWEST = 4  # complete trials below which no importance is computed; nor where all are equally accurate


def write_figures(trials: Sequence[FrozenTrial], plan: Plan) -> list[Path]:
    """Write history.png, settings.png, importance.png and pair.png, as far as the complete trials allow them."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    figures = {"history.png": history(trials)}
    names = [name for name in plan.space if len({trial.params[name] for trial in complete}) > 1]
    if names:
        figures["settings.png"] = against_each(complete, names, plan)
    if len(names) > 1:
        if len(complete) >= FEWEST and len({trial.value for trial in complete}) > 1:
            shares = importances(complete, names)
            names = list(shares)
            figures["importance.png"] = importance(shares)
        figures["pair.png"] = over_two(complete, names, plan)
    return [write(plan.folder / name, figure) for name, figure in figures.items()]


def percent(trials: Sequence[FrozenTrial]) -> list[float]:
    """The accuracy of every run of the trials."""
    return [100 * accuracy for trial in trials for accuracy in trial.user_attrs[RUNS]]


def mean_and_std(trials: Sequence[FrozenTrial]) -> tuple[float, float]:
    """The mean and standard deviation over all runs of the trials; 0 for a single run, which has no error bar."""
    values = percent(trials)
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def limits(trials: Sequence[FrozenTrial]) -> tuple[float, float]:
    """The ends of the accuracy axis: trials far below the better four fifths would squeeze those into a line."""
    means = [100 * (trial.value or 0) for trial in trials]
    best, usual = max(means), float(np.quantile(means, 0.2))
    shown = min(mean for mean in means if mean >= best - 3 * (best - usual))
    spread = max(mean_and_std([trial])[1] for trial in trials)
    margin = spread + 0.06 * (best - shown) or 0.1
    return max(0.0, shown - margin), best + margin


@own_style()
def history(trials: Sequence[FrozenTrial]) -> Figure:
    """The accuracy of each trial, and the best so far; what lies below the axis is marked at its edge."""
    ended = sorted((trial for trial in trials if trial.value is not None), key=number_of)
    complete, pruned = ([t for t in ended if t.state == state] for state in (TrialState.COMPLETE, TrialState.PRUNED))
    figure = drawing.own_figure()
    axes = figure.add_subplot()
    numbers = list(map(number_of, complete))
    means, stds = zip(*(mean_and_std([trial]) for trial in complete), strict=True)
    label = "complete trial" + (" (± std over seeds)" if any(stds) else "")
    axes.errorbar(numbers, means, stds, fmt="o", color=BLUE, label=label)
    axes.step(numbers, np.maximum.accumulate(means), where="post", color=VERMILLION, linewidth=2, label="best so far")
    if pruned:
        values = [100 * (trial.value or 0) for trial in pruned]
        axes.plot(list(map(number_of, pruned)), values, "x", color=GREY, label="pruned trial, at its last epoch")
    low, high = limits(complete)
    axes.set_ylim(low, high)
    if hidden := [number_of(trial) for trial in ended if 100 * (trial.value or 0) < low]:
        axes.plot(hidden, [low] * len(hidden), "v", color=BLACK, clip_on=False, label=f"trial below {low:.2f} %")
    failed = sum(trial.state == TrialState.FAIL for trial in trials)
    title = f"The best trial: {max(means):.2f} %" + (f"; {failed} failed, without a mark" if failed else "")
    drawing.style(axes, title, "trial", ACCURACY, int_x_ticks=True)
    drawing.legend_below(figure, *axes.get_legend_handles_labels())
    return figure


@own_style()
def against_each(complete: Sequence[FrozenTrial], names: list[str], plan: Plan) -> Figure:
    """The accuracy against each setting: every trial with its error bar over seeds; for a list also the means.

    Of a grid of two lists the trials with the same value of the other setting are joined to curves.
    """
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = drawing.own_figure((2.2 + 2.6 * columns, 1.2 + 2.8 * rows))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    low, high = limits(complete)
    for panel, name in itertools.zip_longest(panels.flat, names):
        if name is None:
            panel.set_axis_off()
            continue
        place = scale(panel, "x", name, plan)
        other = next((each for each in names if each != name), name)
        joined = len(names) < 3 and all(isinstance(plan.space[each], Choices) for each in names)
        curves = grouped(complete, other if joined else "")
        for number, ((value,), trials) in enumerate(curves.items()):
            ordered = sorted(trials, key=lambda trial: place(trial.params[name]))
            means, stds = zip(*(mean_and_std([trial]) for trial in ordered), strict=True)
            label = f"{other} {value}" if joined and other != name else None
            panel.errorbar(
                [place(trial.params[name]) for trial in ordered], means, stds, fmt="o-" if joined else "o",
                color=drawing.curve_style(number, len(curves))[0], markersize=4, capsize=3, label=label,
            )  # fmt: skip
        drawing.style(panel, "", name, "")
        if len(curves) > 1:
            panel.legend(fontsize="x-small")
        panel.set_ylim(low, high)
    hidden = sum(100 * (trial.value or 0) < low for trial in complete)
    figure.supylabel(ACCURACY)
    spread = " (± std over seeds)" if plan.seeds > 1 else ""
    below = f"; {hidden} below {low:.2f} % not shown" if hidden else ""
    drawing.heading(figure, f"The complete trials against each setting{spread}{below}")
    return figure


def grouped(trials: Sequence[FrozenTrial], *names: str) -> dict[tuple[str, ...], list[FrozenTrial]]:
    """The trials by their values of the settings, as text."""
    groups: dict[tuple[str, ...], list[FrozenTrial]] = {}
    for trial in trials:
        groups.setdefault(tuple(show(trial.params.get(name)) for name in names), []).append(trial)
    return groups


def scale(axes: Any, axis: str, name: str, plan: Plan) -> Callable[[Any], float]:
    """Label an axis with the values of a setting; return where on it a value lies."""
    values = plan.space[name]
    if isinstance(values, Choices):
        axes.set(**{f"{axis}ticks": range(len(values.values)), f"{axis}ticklabels": list(map(show, values.values))})
        return values.values.index
    if values.log:
        axes.set(**{f"{axis}scale": "log"})
        drawing.plain_log_ticks(getattr(axes, f"{axis}axis"))
    return float


@own_style()
def over_two(complete: Sequence[FrozenTrial], names: list[str], plan: Plan) -> Figure:
    """The accuracy over two settings: of two lists a heat map with the numbers in its cells, else a point per trial."""
    (x, y), others = names[:2], names[2:]
    figure = drawing.own_figure((8.0, 6.0))
    axes = figure.add_subplot()
    place_x, place_y = scale(axes, "x", x, plan), scale(axes, "y", y, plan)
    low, high = limits(complete)
    title = f"Accuracy over {x} and {y}"
    if isinstance(across := plan.space[x], Choices) and isinstance(up := plan.space[y], Choices):
        cells = np.full((len(up.values), len(across.values)), np.nan)
        several = False
        for trials in grouped(complete, x, y).values():
            column, row = int(place_x(trials[0].params[x])), int(place_y(trials[0].params[y]))
            mean, std = mean_and_std(trials)
            several |= len(percent(trials)) > 1
            cells[row, column] = mean
            text = f"{mean:.2f}" + (f"\n± {std:.2f}" if len(percent(trials)) > 1 else "")
            colour = "black" if mean > (low + high) / 2 else "white"
            axes.text(column, row, text, ha="center", va="center", color=colour)
        for row, column in np.argwhere(np.isnan(cells)):
            axes.text(column, row, "no complete\ntrial", ha="center", va="center")
        shown: Any = axes.imshow(cells, vmin=low, vmax=high, aspect="auto", origin="lower")
        if several:
            title += ": mean ± std over " + " and ".join(["seeds"] * (plan.seeds > 1) + others)
    else:
        ordered = sorted(complete, key=lambda trial: trial.value or 0)
        right, upward = ([place(t.params[name]) for t in ordered] for place, name in ((place_x, x), (place_y, y)))
        values = [100 * (trial.value or 0) for trial in ordered]
        shown = axes.scatter(right, upward, 50, values, vmin=low, vmax=high, edgecolors="black", linewidths=0.5)
    drawing.style(axes, title, x, y)
    drawing.add_colorbar(axes, shown, ACCURACY, extend="min" if min(percent(complete)) < low else "neither")
    return figure


def importances(complete: Sequence[FrozenTrial], names: list[str]) -> dict[str, float]:
    """The share of each setting in what distinguishes the better trials from the others (PED-ANOVA), largest first."""
    study = optuna.create_study(direction="maximize")
    study.add_trials(complete)
    return optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), params=names)


@own_style()
def importance(shares: dict[str, float]) -> Figure:
    figure = drawing.own_figure((8.0, 1.8 + 0.4 * len(shares)))
    axes = figure.add_subplot()
    names = list(shares)[::-1]
    bars = axes.barh(names, [shares[name] for name in names], color=BLUE)
    axes.bar_label(bars, fmt=" %.2f")
    drawing.style(axes, f"{names[-1]} matters most", "share of the importance (PED-ANOVA)", "")
    return figure
