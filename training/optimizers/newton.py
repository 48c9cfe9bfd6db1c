"""Newton's method: iteratively reweighted least squares.

θ := θ − t H⁻¹ ∂J/∂θ with the second derivatives H, by Cholesky. t is 1 unless that would raise the
cost. If H is singular (duplicate columns, classes that can be separated, no ridge), the least
multiple of the identity that makes it positive definite is added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.columns import Floats
from training.objective import Objective
from training.optimizers.state import State, largest, warm_start

SUFFICIENT_DECREASE = 1e-4
HALVINGS = 30
# The relative accuracy of sums in float32: smaller pivots than this are noise.
NOISE = 1e-6
# A step that is to lower the cost by less is nearly always the last.
SHORT_STEP = 1e-3


@dataclass(frozen=True)
class Newton:
    """Newton's method with backtracking.

    Attributes:
        tolerance: at which the fit will stop; steps that get there need no second derivatives.
        sample: some of the rows, whose solution is the start; None starts from 0. It is within the
            sampling error of the minimum, where Newton's method converges quadratically: over many
            rows, one pass with second derivatives and one to confirm are all it takes.
    """

    tolerance: float
    sample: Objective | None = None

    def start(self, objective: Objective) -> State:
        """Return the state before the first step; its cost and criterion are those at θ."""
        theta = warm_start(Newton(self.tolerance), objective, self.sample, self.tolerance)
        return _with_direction(objective, theta, steps=0)

    def step(self, objective: Objective, state: State) -> State:
        """Take one step; the new state's cost and criterion are those at its θ."""
        direction, slope = state.memory["direction"], float(state.memory["slope"])
        if -slope < SHORT_STEP:
            theta = state.theta + direction
            cost, gradient = objective.cost_and_gradient(theta)
            if cost <= state.cost and largest(gradient) <= self.tolerance:
                return State(theta, cost, largest(gradient), state.steps + 1, state.memory)
        for halvings in range(HALVINGS):
            scale = 0.5**halvings
            following = _with_direction(objective, state.theta + scale * direction, state.steps + 1)
            if following.cost <= state.cost + SUFFICIENT_DECREASE * scale * slope:
                return following
            if -scale * slope < np.finfo(np.float32).eps * state.cost:
                break  # what is left to gain drowns in rounding
        return state.at_its_end()


def _with_direction(objective: Objective, theta: Floats, steps: int) -> State:
    cost, gradient, second = objective.cost_gradient_and_curvature(theta)
    if not (np.isfinite(cost) and np.isfinite(second).all()):
        return State(theta, float("inf"), steps=steps)
    direction = -solve_positive(second, gradient)
    memory = {"direction": direction, "slope": np.array(gradient @ direction)}
    return State(theta, cost, largest(gradient), steps, memory)


def solve_positive(matrix: Floats, right: Floats) -> Floats:
    """Solve A x = b by Cholesky, with the ridge that A needs to be safely positive definite.

    Args:
        matrix: A `[n, n]`, symmetric, without negative eigenvalues but for rounding.
        right: b `[n]` or `[n, k]`.
    """
    scale = max(float(np.trace(matrix)) / len(matrix), np.finfo(np.float64).tiny)
    ridge = 0.0
    while True:
        try:
            lower = np.linalg.cholesky(matrix + ridge * np.eye(len(matrix)))
            if np.diag(lower).min() ** 2 >= NOISE * scale * 1e-3:
                return np.linalg.solve(lower.T, np.linalg.solve(lower, right))
        except np.linalg.LinAlgError:
            pass
        ridge = max(10 * ridge, NOISE * scale)
