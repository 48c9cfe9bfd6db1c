"""Steps of an optimizer until there is a reason to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.features.columns import Floats
from training.fitting.checkpoint import Progress
from training.fitting.objective import Objective
from training.fitting.solvers import Optimizer

Reason = Literal["tolerance", "iterations", "early stopping", "precision"]


class InterruptedFitError(KeyboardInterrupt):
    """Somebody asked to stop; `progress` is how far the fit has come."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(f"--resume goes on from iteration {progress.state.steps}")
        self.progress = progress


@dataclass(frozen=True)
class Stopping:
    """When to stop.

    Attributes:
        iterations: after so many steps.
        tolerance: as soon as the optimizer's criterion is no larger.
        patience: after so many steps without a lower cost of the validation rows; None never.
    """

    iterations: int
    tolerance: float
    patience: int | None = None


@dataclass(frozen=True)
class Fit:
    """Fitted parameters `[features + 1]`, how it went, and why it stopped."""

    theta: Floats
    progress: Progress
    reason: Reason


def descend(
    optimizer: Optimizer,
    objective: Objective,
    stopping: Stopping,
    *,
    validation: Objective | None = None,
    progress: Progress | None = None,
    report: Callable[[int, float], None] = lambda steps, cost: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Fit:
    """Take steps until there is a reason to stop.

    Args:
        optimizer: takes the steps.
        objective: the cost to minimise.
        stopping: when to stop.
        validation: the cost of rows that are not fitted; needed for patience.
        progress: where to go on; None starts anew.
        report: called after each step with their number and the cost.
        interrupted: whether somebody asked to stop.

    Raises:
        DivergedError: the cost left the finite numbers.
        InterruptedFitError: `interrupted` said so.
    """
    if progress is None:
        state = optimizer.start(objective)
        progress = Progress(state, [], [], state.theta)
        _record(progress, validation)
    while True:
        state = progress.state
        # All workers must stop at the same step, whoever was asked.
        if objective.workers.sum(np.array([float(interrupted())]))[0]:
            raise InterruptedFitError(progress)
        reason = _reason(progress, stopping)
        if reason is not None:
            theta = progress.best if stopping.patience is not None else state.theta
            return Fit(theta, progress, reason)
        progress.state = optimizer.step(objective, state)
        _record(progress, validation)
        report(progress.state.steps, progress.state.cost)


def _record(progress: Progress, validation: Objective | None) -> None:
    state = progress.state
    if math.isfinite(state.cost):
        progress.costs.append(state.cost)
    if validation is not None:
        cost, _ = validation.cost_and_gradient(state.theta)
        if cost < min(progress.validation_costs, default=math.inf):
            progress.best = state.theta
        progress.validation_costs.append(cost)


def _reason(progress: Progress, stopping: Stopping) -> Reason | None:
    state = progress.state
    if state.criterion <= stopping.tolerance:
        return "tolerance"
    if state.finished:
        return "precision"
    if stopping.patience is not None:
        costs = progress.validation_costs
        if len(costs) - 1 - costs.index(min(costs)) >= stopping.patience:
            return "early stopping"
    return "iterations" if state.steps >= stopping.iterations else None
