"""The state of a solver between two steps, and its start from a sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from training.features.columns import Floats
from training.fitting.objective import Objective

MAX_SAMPLE_STEPS = 100
# Line search: the sufficient fraction of the predicted decrease (Armijo), and limits on halvings.
SUFFICIENT_DECREASE = 1e-4
MAX_HALVINGS = 30
MAX_HALVINGS_IN_NOISE = 4
# The relative accuracy of float32 sums. The cost cannot judge a step that gains less; the gradient,
# which is near 0, can.
NOISE = 1e-6


@dataclass(frozen=True)
class State:
    """Everything that the next step depends on, so that a fit can be resumed.

    Attributes:
        theta: parameters `[features + 1]`, the bias last.
        cost: J.
        criterion: compared with the tolerance: the largest |∂J/∂θ|; for sgd, the change in J.
        steps: number of steps.
        memory: arrays that the solver carries from step to step.
        finished: whether the solver cannot improve further.
    """

    theta: Floats
    cost: float = math.nan
    criterion: float = math.inf
    steps: int = 0
    memory: Mapping[str, Floats] = field(default_factory=dict)
    finished: bool = False

    def as_finished(self) -> State:
        """Return the same state, marked as finished."""
        return replace(self, finished=True)


class Optimizer(Protocol):
    """Minimises an `Objective` step by step."""

    def start(self, objective: Objective) -> State:
        """Return the state before the first step."""

    def step(self, objective: Objective, state: State) -> State:
        """Take one step.

        Raises:
            DivergedError: the cost is no longer finite.
        """


def max_abs(gradient: Floats) -> float:
    """Return the largest absolute component."""
    return float(np.abs(gradient).max())


def is_servable(theta: Floats) -> bool:
    """Return whether all parameters are finite in float32, the type that is served."""
    return max_abs(theta) <= float(np.finfo(np.float32).max)


def warm_start(
    optimizer: Optimizer, objective: Objective, sample: Objective | None, tolerance: float
) -> Floats:
    """Return the parameters to start from: the solution for a sample, or 0 without one."""
    zero = np.zeros(objective.width + 1)
    if sample is None:
        return zero
    state = optimizer.start(sample)
    while state.criterion > tolerance and state.steps < MAX_SAMPLE_STEPS and not state.finished:
        state = optimizer.step(sample, state)
    return state.theta if np.isfinite(state.theta).all() else zero
