"""Newton's method: iteratively reweighted least squares.

θ := θ − t H⁻¹ ∂J/∂θ with the Hessian H, by Cholesky. t is 1, or is halved until the cost falls
enough. If H is singular (duplicate columns, separable classes, no ridge), a small multiple of the
identity is added to make it positive definite.

H takes most of the time, so it is recomputed only if the last step did not reduce the gradient to a
tenth (Shamanskii 1967). With many rows, the first H and the starting point come from a sample. Its
solution is within the sampling error of the minimum, where H changes little, so a few gradient
passes suffice (sub-sampled Newton, Roosta-Khorasani and Mahoney 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.features.columns import Floats
from training.fitting.objective import Objective
from training.fitting.solvers.state import (
    MAX_HALVINGS,
    MAX_HALVINGS_IN_NOISE,
    NOISE,
    SUFFICIENT_DECREASE,
    State,
    max_abs,
    warm_start,
)

# The Hessian is reused if the last step reduced the gradient to this fraction.
MAX_REUSE_RATIO = 0.1


@dataclass(frozen=True)
class Newton:
    """Newton's method with backtracking.

    Attributes:
        tolerance: the largest |∂J/∂θ| at which the fit stops.
        sample: a sample of the rows, to start from; None starts from 0.
    """

    tolerance: float
    sample: Objective | None = None

    def start(self, objective: Objective) -> State:
        """Return the state before the first step; its cost and criterion are those at θ."""
        theta = warm_start(Newton(self.tolerance), objective, self.sample, self.tolerance)
        if self.sample is None:
            cost, gradient, hessian = objective.cost_gradient_and_curvature(theta)
        else:
            cost, gradient = objective.cost_and_gradient(theta)
            _, _, hessian = self.sample.cost_gradient_and_curvature(theta)
        is_fresh = np.array(self.sample is None)
        memory = {"gradient": gradient, "second": hessian, "fresh": is_fresh}
        return State(theta, cost, max_abs(gradient), 0, memory)

    def step(self, objective: Objective, state: State) -> State:
        """Take one step; the new state's cost and criterion are those at its θ."""
        direction = -solve_positive(state.memory["second"], state.memory["gradient"])
        slope = float(state.memory["gradient"] @ direction)
        for halvings in range(MAX_HALVINGS):
            scale = 0.5**halvings
            theta = state.theta + scale * direction
            cost, gradient = objective.cost_and_gradient(theta)
            is_noise = -scale * slope < NOISE * state.cost
            if is_noise:
                # The cost is too inexact to judge the step. With the exact Hessian, a short enough
                # step reduces every component of the gradient, up to rounding.
                is_accepted = max_abs(gradient) < state.criterion
            else:
                is_accepted = cost <= state.cost + SUFFICIENT_DECREASE * scale * slope
            if is_accepted:
                keep_hessian = max_abs(gradient) <= MAX_REUSE_RATIO * state.criterion
                return self._next_state(objective, state, theta, cost, gradient, keep_hessian)
            if is_noise and halvings >= MAX_HALVINGS_IN_NOISE:
                break
        if state.memory["fresh"]:
            return state.as_finished()
        gradient = state.memory["gradient"]
        return self._next_state(objective, state, state.theta, state.cost, gradient, False)

    def _next_state(
        self,
        objective: Objective,
        state: State,
        theta: Floats,
        cost: float,
        gradient: Floats,
        keep_hessian: bool,
    ) -> State:
        hessian = state.memory["second"]
        if not keep_hessian and max_abs(gradient) > self.tolerance:
            _, _, hessian = objective.cost_gradient_and_curvature(theta)
        is_fresh = np.array(hessian is not state.memory["second"])
        memory = {"gradient": gradient, "second": hessian, "fresh": is_fresh}
        return State(theta, cost, max_abs(gradient), state.steps + 1, memory)


def solve_positive(matrix: Floats, rhs: Floats) -> Floats:
    """Solve A x = b by Cholesky, with the ridge that A needs to be safely positive definite.

    Args:
        matrix: A `[n, n]`, symmetric and, up to rounding, positive semidefinite.
        rhs: b `[n]` or `[n, k]`.
    """
    scale = max(float(np.trace(matrix)) / len(matrix), np.finfo(np.float64).tiny)
    ridge = 0.0
    while True:
        try:
            lower = np.linalg.cholesky(matrix + ridge * np.eye(len(matrix)))
            if np.diag(lower).min() ** 2 >= NOISE * scale * 1e-3:
                return np.linalg.solve(lower.T, np.linalg.solve(lower, rhs))
        except np.linalg.LinAlgError:
            pass
        ridge = max(10 * ridge, NOISE * scale)
