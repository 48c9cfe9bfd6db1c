"""Newton's method: iteratively reweighted least squares.

θ := θ − t H⁻¹ ∂J/∂θ with the Hessian H, by Cholesky. t is 1 unless that would raise the cost. If H
is singular (duplicate columns, separable classes, no ridge), the smallest multiple of the identity
that makes it positive definite is added.

H costs more than everything else, so it is recomputed only if the last step did not reduce the
gradient to a tenth (Shamanskii 1967). With many rows, the first H and the start come from a sample.
Its solution is within the sampling error of the minimum, where H changes little, so a few passes
for the gradient suffice (sub-sampled Newton, Roosta-Khorasani and Mahoney 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.features.columns import Floats
from training.fitting.objective import Objective
from training.fitting.solvers.state import (
    HALVINGS,
    HALVINGS_IN_NOISE,
    NOISE,
    SUFFICIENT_DECREASE,
    State,
    largest,
    warm_start,
)

GOOD_CUT = 0.1


@dataclass(frozen=True)
class Newton:
    """Newton's method with backtracking.

    Attributes:
        tolerance: tolerance at which the fit will stop.
        sample: a sample of the rows, to start from; None starts from 0.
    """

    tolerance: float
    sample: Objective | None = None

    def start(self, objective: Objective) -> State:
        """Return the state before the first step; its cost and criterion are those at θ."""
        theta = warm_start(Newton(self.tolerance), objective, self.sample, self.tolerance)
        if self.sample is None:
            cost, gradient, second = objective.cost_gradient_and_curvature(theta)
        else:
            cost, gradient = objective.cost_and_gradient(theta)
            _, _, second = self.sample.cost_gradient_and_curvature(theta)
        fresh = np.array(self.sample is None)
        memory = {"gradient": gradient, "second": second, "fresh": fresh}
        return State(theta, cost, largest(gradient), 0, memory)

    def step(self, objective: Objective, state: State) -> State:
        """Take one step; the new state's cost and criterion are those at its θ."""
        direction = -solve_positive(state.memory["second"], state.memory["gradient"])
        slope = float(state.memory["gradient"] @ direction)
        for halvings in range(HALVINGS):
            scale = 0.5**halvings
            theta = state.theta + scale * direction
            cost, gradient = objective.cost_and_gradient(theta)
            noise = -scale * slope < NOISE * state.cost
            if noise:
                # The cost is too inexact to judge the step. With the exact Hessian, a short enough
                # step reduces every component of the gradient; failing that is rounding.
                accepted = largest(gradient) < state.criterion
            else:
                accepted = cost <= state.cost + SUFFICIENT_DECREASE * scale * slope
            if accepted:
                cut = largest(gradient) <= GOOD_CUT * state.criterion
                return self._arrived(objective, state, theta, cost, gradient, cut)
            if noise and halvings >= HALVINGS_IN_NOISE:
                break
        if state.memory["fresh"]:
            return state.at_its_end()
        gradient = state.memory["gradient"]
        return self._arrived(objective, state, state.theta, state.cost, gradient, False)

    def _arrived(
        self,
        objective: Objective,
        state: State,
        theta: Floats,
        cost: float,
        gradient: Floats,
        cut: bool,
    ) -> State:
        second = state.memory["second"]
        if not cut and largest(gradient) > self.tolerance:
            _, _, second = objective.cost_gradient_and_curvature(theta)
        fresh = np.array(second is not state.memory["second"])
        memory = {"gradient": gradient, "second": second, "fresh": fresh}
        return State(theta, cost, largest(gradient), state.steps + 1, memory)


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
