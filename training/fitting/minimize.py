"""The fitting loop: solver steps, stopping criteria and interruption."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from training.features.columns import Floats
from training.fitting import checkpoint
from training.fitting.checkpoint import Progress
from training.fitting.objective import Objective
from training.fitting.solvers import Optimizer

Reason = Literal["tolerance", "iterations", "early stopping", "precision"]


class InterruptedFitError(KeyboardInterrupt):
    """The fit was interrupted; `progress` is its progress so far."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(f"--resume continues after step {progress.state.steps}")
        self.progress = progress


@dataclass
class Interruptible:
    """Work after a fit; `progress` is saved if the work is interrupted."""

    progress: Progress | None = None


@contextmanager
def saved_on_interrupt(path: Path | None, identity: Mapping[str, Any]) -> Iterator[Interruptible]:
    """Save a checkpoint if the work inside is interrupted.

    Args:
        path: path of the checkpoint; None saves nothing.
        identity: see `checkpoint.save`.

    Raises:
        InterruptedFitError: instead of KeyboardInterrupt, if there is something to resume.
    """
    work = Interruptible()
    try:
        yield work
    except KeyboardInterrupt as interrupted:
        if isinstance(interrupted, InterruptedFitError):
            work.progress = interrupted.progress
        if work.progress is None:
            raise  # a second signal, which does not wait for the step to end
        if path is not None:
            checkpoint.save(path, work.progress, identity)
        raise InterruptedFitError(work.progress) from None


@dataclass(frozen=True)
class Stopping:
    """The stopping criteria.

    Attributes:
        max_steps: maximum number of steps.
        tolerance: largest criterion of the solver at which the fit stops.
        patience: number of steps without a lower validation cost; None never stops early.
    """

    max_steps: int
    tolerance: float
    patience: int | None = None


@dataclass(frozen=True)
class Fit:
    """Fitted parameters `[features + 1]`, progress, and the reason for stopping."""

    theta: Floats
    progress: Progress
    reason: Reason

    @property
    def converged(self) -> bool:
        """Whether the fit stopped for a reason other than the iteration limit."""
        return self.reason != "iterations"


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
    """Take steps until a stopping criterion is met.

    Args:
        optimizer: the solver.
        objective: the cost to minimise.
        stopping: when to stop.
        validation: the cost over the validation rows; required with patience.
        progress: the progress to resume from; None starts from the beginning.
        report: called after each step with the number of steps and the cost.
        interrupted: returns whether to stop before the next step.

    Raises:
        DivergedError: the cost is no longer finite.
        InterruptedFitError: `interrupted` returned True.
    """
    if progress is None:
        state = optimizer.start(objective)
        progress = Progress(state, [], [], state.theta)
        _record(progress, validation)
    while True:
        state = progress.state
        # All workers must stop at the same step, even if only one was interrupted.
        if objective.workers.sum(np.array([float(interrupted())]))[0]:
            raise InterruptedFitError(progress)
        reason = _stop_reason(progress, stopping)
        if reason is not None:
            theta = progress.best if stopping.patience is not None else state.theta
            return Fit(theta, progress, reason)
        progress.state = optimizer.step(objective, state)
        if not progress.state.finished:  # otherwise the solver took no step
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


def _stop_reason(progress: Progress, stopping: Stopping) -> Reason | None:
    state = progress.state
    if state.criterion <= stopping.tolerance:
        return "tolerance"
    if state.finished:
        return "precision"
    if stopping.patience is not None:
        costs = progress.validation_costs
        if len(costs) - 1 - costs.index(min(costs)) >= stopping.patience:
            return "early stopping"
    return "iterations" if state.steps >= stopping.max_steps else None
