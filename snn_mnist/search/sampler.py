"""How the settings of a trial are drawn: by Optuna's samplers, as a function of -seed and the trial's number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from snn_mnist.search.plan import Plan
from snn_mnist.search.space import grid
from snn_mnist.search.trials import number_of, standing


class ByNumber(BaseSampler):
    """Draws a trial with a generator of its own.

    So a study that goes on does not repeat the draws that it began with, no two workers draw alike, and a study of one
    worker is the same each time.
    """

    def __init__(self, seed: int, make: Callable[[int], BaseSampler]) -> None:
        self.seed, self.make = seed, make

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self.sampler = self.make(int(np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0]))
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn = self.sampler.sample_relative(study, trial, search_space)
        return {name: rounded(value, search_space[name]) for name, value in drawn.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        drawn = self.sampler.sample_independent(study, trial, param_name, param_distribution)
        return rounded(drawn, param_distribution)


def rounded(value: Any, distribution: BaseDistribution) -> Any:
    """A drawn float to four digits, as a person types it, within the limits of its range."""
    if not isinstance(distribution, FloatDistribution):
        return value
    return min(max(float(f"{value:.4g}"), distribution.low), distribution.high)


class InOrder(BaseSampler):
    """Every point of a grid once, whatever the workers: the point of a trial follows from its number.

    Optuna's GridSampler draws from the points that are left, and two workers may draw the same one.
    """

    def __init__(self, points: Sequence[dict[str, Any]]) -> None:
        self.points = points

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        new = [each for each in study.get_trials(deepcopy=False) if number_of(each) == each.number]
        place = sum(each.number < number_of(trial) for each in new)
        if place >= len(self.points):  # in the place of a trial that was lost
            done = [each.params for each in standing(study)]
            place = next((i for i, point in enumerate(self.points) if point not in done), 0)
        self.point = self.points[place]
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.point[param_name]


def new_sampler(plan: Plan) -> BaseSampler:
    if plan.sampler == "grid":
        return InOrder(grid(plan.space))
    if plan.sampler == "random":
        return ByNumber(plan.fixed["seed"], lambda seed: RandomSampler(seed=seed))
    return ByNumber(plan.fixed["seed"], lambda seed: TPESampler(seed=seed, constant_liar=True))
