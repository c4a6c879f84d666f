"""The figures of a study: Optuna's own, in this program's style.

Optuna draws with pyplot in the style of ggplot; both are undone here, for neither belongs to this program's process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from snn_mnist.search.messages import counted, short
from snn_mnist.search.plan import Plan
from snn_mnist.search.trials import number_of
from snn_mnist.settings.words import show
from snn_mnist.visualizing import drawing
from snn_mnist.visualizing.run_figures import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCURACY = "held-out accuracy in %"
SMALL = 8  # points
FEWEST = 4  # complete trials below which no importance is computed; nor where all are equally accurate


def write_figures(trials: Sequence[FrozenTrial], plan: Plan) -> list[Path]:
    """history.png, settings.png, importance.png and contour.png, as far as the finished trials allow them."""
    import matplotlib

    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    near, far = without_outliers(complete)
    note = f" ({counted(len(far), 'trial')} below {100 * (near[-1].value or 0):.2f} % not shown)" if far else ""
    names = [name for name in plan.space if len({trial.params[name] for trial in near}) > 1]
    figures = {}
    with matplotlib.rc_context({"figure.dpi": drawing.DPI}):
        figures["history.png"] = history(as_study(trials), near, note)
        if names:
            figures["settings.png"] = settings(as_study(near), names, note)
        if len(names) > 1 and len(complete) >= FEWEST and len({trial.value for trial in complete}) > 1:
            figures["importance.png"], ordered = importance(as_study(complete), names)
            figures["contour.png"] = contour(as_study(near), ordered[:2], note)
    return [write(plan.folder / name, figure) for name, figure in figures.items()]


def without_outliers(complete: Sequence[FrozenTrial]) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """The trials, best first, and those so far below the others that they would squeeze them into a line."""
    ordered = sorted(complete, key=lambda trial: -(trial.value or 0))
    values = np.array([trial.value for trial in ordered])
    best, usual = values[0], np.quantile(values, 0.2)
    count = int((values >= best - 2 * (best - usual)).sum()) if best > usual else len(ordered)
    return ordered[:count], ordered[count:]


def as_study(trials: Sequence[FrozenTrial]) -> optuna.Study:
    """A study in memory of these trials under the numbers of their directories, accuracies in percent."""
    study = optuna.create_study(direction="maximize")
    by_number = {number_of(trial): trial for trial in trials}
    for number in range(max(by_number) + 1):
        trial = by_number.get(number)
        if trial is None or trial.value is None:  # keeps the place of a number
            study.add_trial(optuna.create_trial(state=TrialState.FAIL))
        else:
            study.add_trial(optuna.create_trial(
                state=trial.state, value=100 * trial.value, params=trial.params, distributions=trial.distributions,
            ))  # fmt: skip
    return study


# ---------------------------------------------------------------------------- the figures


def history(study: optuna.Study, near: Sequence[FrozenTrial], note: str) -> Figure:
    """The accuracy of each complete trial, and the best so far."""
    figure, axes = restyled(optuna.visualization.matplotlib.plot_optimization_history(study), drawing.SIZE)
    (points, *_), (line,) = axes[0].collections, axes[0].lines
    points.set(color=drawing.BLUE)
    line.set(color=drawing.VERMILLION, linewidth=2, alpha=1)
    axes[0].get_legend().remove()
    low, high = 100 * (near[-1].value or 0), 100 * (near[0].value or 0)
    margin = 0.06 * (high - low) or 0.1
    axes[0].set_ylim(low - margin, high + margin)
    drawing.style(axes[0], f"The best trial: {high:.2f} %{note}", "trial", ACCURACY, int_x_ticks=True)
    drawing.legend_below(figure, [points, line], ["a complete trial", "best so far"])
    return figure


def settings(study: optuna.Study, names: list[str], note: str) -> Figure:
    """The accuracy against each setting."""
    columns = min(len(names), 5)
    rows = -(-len(names) // columns)
    figure, axes = restyled(
        optuna.visualization.matplotlib.plot_slice(study, names), (1.5 + 1.9 * columns, 1.0 + 2.0 * rows)
    )
    *panels, bar = axes
    bar.remove()
    places = figure.add_gridspec(rows, columns)
    for index, (panel, name) in enumerate(zip(panels, sorted(names), strict=True)):
        panel.set_subplotspec(places[index // columns, index % columns])
        drawing.style(panel, "", name, "")
        panel.tick_params(labelleft=index % columns == 0, labelbottom=True, labelsize=SMALL)
        panel.xaxis.label.set_size(SMALL + 1)
        plain_ticks(panel.xaxis)
        panel.collections[0].set(cmap="viridis", edgecolors="none", sizes=[16])
    bar = drawing.add_colorbar(np.array(panels), panels[0].collections[0], "trial").ax
    plain(bar)
    bar.tick_params(labelsize=SMALL)
    bar.yaxis.label.set_size(SMALL + 1)
    figure.supylabel(ACCURACY, fontsize=SMALL + 1)
    figure.suptitle(f"The complete trials against each setting{note}", fontsize=SMALL + 2, x=0.01, ha="left")
    return figure


def importance(study: optuna.Study, names: list[str]) -> tuple[Figure, list[str]]:
    """How much each setting tells the better trials from the others (PED-ANOVA); the settings, most important first."""
    evaluator = PedAnovaImportanceEvaluator()
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)
    plot = optuna.visualization.matplotlib.plot_param_importances(study, evaluator=evaluator, params=names)
    figure, axes = restyled(plot, (8.0, 1.8 + 0.4 * len(names)))
    for patch in axes[0].patches:
        patch.set_color(drawing.BLUE)
    for text in axes[0].texts:
        text.set(fontsize=0.9 * drawing.text_size(figure), text=f" {text.get_text()}")
    axes[0].get_legend().remove()
    drawing.style(axes[0], f"{next(iter(shares))} matters most", "share of the importance (PED-ANOVA)", "")
    return figure, list(shares)


def contour(study: optuna.Study, names: list[str], note: str) -> Figure:
    """The accuracy over two settings, interpolated between the trials (points)."""
    from matplotlib.contour import ContourSet

    figure, axes = restyled(optuna.visualization.matplotlib.plot_contour(study, names), (8.0, 6.0))
    panel, *bars = axes
    for bar in bars:  # Optuna's colour bar has a grid that the layout can't use
        bar.remove()
    panel.set_subplotspec(figure.add_gridspec(1, 1)[0])
    for filled in (each for each in panel.collections if isinstance(each, ContourSet) and each.filled):
        filled.set_cmap("viridis")
        plain(drawing.add_colorbar(panel, filled, ACCURACY).ax)
    title = f"The two settings that matter most{note}"
    drawing.style(panel, title, panel.get_xlabel(), panel.get_ylabel())
    for axis in (panel.xaxis, panel.yaxis):
        plain_ticks(axis)
    return figure


# ---------------------------------------------------------------------------- style


def restyled(plot: Any, size: tuple[float, float]) -> tuple[Figure, list[Any]]:
    """The figure of Optuna's axes, and all its axes, without the colours of ggplot; pyplot forgets it."""
    from matplotlib import pyplot

    figure: Figure = np.ravel(plot)[0].figure
    pyplot.close(figure)
    figure.set_layout_engine("constrained")
    figure.set_size_inches(size)
    figure.set_facecolor("white")
    figure.suptitle("")
    for axes in figure.axes:
        plain(axes)
    return figure, figure.axes


def plain(axes: Any) -> None:
    axes.set_title("")
    axes.set_facecolor("white")
    axes.grid(color="#b0b0b0", alpha=0.3, linestyle="-")
    axes.tick_params(which="both", colors="black")
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color("black")
    for spine in axes.spines.values():
        spine.set(edgecolor="black", linewidth=0.8)


def plain_ticks(axis: Any) -> None:
    """A few ticks as the settings are typed: 'atan' without the quotes, None as none, 0.001 instead of 10^-3."""
    from matplotlib.category import StrCategoryFormatter
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    formatter = axis.get_major_formatter()
    if isinstance(formatter, StrCategoryFormatter) or isinstance(axis.get_major_locator(), FixedLocator):
        ticks = range(round(sum(map(abs, axis.get_view_interval()))) + 1)
        texts = [typed(formatter(tick, tick)) for tick in ticks]
        while texts and not texts[-1]:
            texts.pop()
        axis.set_ticks(list(range(len(texts))), texts)
        if sum(map(len, texts)) > 16 and axis.axis_name == "x":
            for label in axis.get_ticklabels():
                label.set(rotation=30, ha="right")
    elif axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 3) if high > 10 * low else (1, 2, 5), numticks=6))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def typed(text: str) -> str:
    """A value of Optuna's label, as repr or str made it."""
    text = text.strip("'")
    if text in ("None", "True", "False"):
        return show({"None": None, "True": True, "False": False}[text])
    try:
        return short(float(text)).removesuffix(".0")
    except ValueError:
        return text
