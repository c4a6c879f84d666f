"""The figures of a study: Optuna's, in this program's style."""

from __future__ import annotations

from pathlib import Path

import optuna

from snn_mnist.sweeping.plan import Plan

ACCURACY = "held-out accuracy in %"


def write_figures(study: optuna.Study, plan: Plan) -> list[Path]:
    """history.png, settings.png, importance.png, contour.png, as far as the trials allow them."""
    return []
