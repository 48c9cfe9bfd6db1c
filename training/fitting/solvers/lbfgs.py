"""L-BFGS: a quasi-Newton method whose inverse Hessian is approximated from the last few steps.

Nocedal and Wright, Numerical Optimization, algorithms 7.4 (two-loop recursion) and 3.1
(backtracking).
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

MAX_PAIRS = 10


@dataclass(frozen=True)
class Lbfgs:
    """Limited-memory BFGS with backtracking.

    Attributes:
        tolerance: tolerance of the sample's solution.
        sample: a sample of the rows, whose solution is the start; None starts from 0.
    """

    tolerance: float
    sample: Objective | None = None

    def start(self, objective: Objective) -> State:
        """Return the state before the first step; its cost and criterion are those at θ."""
        theta = warm_start(Lbfgs(self.tolerance), objective, self.sample, self.tolerance)
        cost, gradient = objective.cost_and_gradient(theta)
        no_pairs = np.zeros((0, len(theta)))
        memory = {"gradient": gradient, "steps": no_pairs, "changes": no_pairs}
        return State(theta, cost, max_abs(gradient), 0, memory)

    def step(self, objective: Objective, state: State) -> State:
        """Take one step; the new state's cost and criterion are those at its θ."""
        gradient = state.memory["gradient"]
        steps, changes = state.memory["steps"], state.memory["changes"]
        direction = -_apply_inverse_hessian(gradient, steps, changes)
        if not len(steps):
            direction = direction / max(1.0, float(np.linalg.norm(gradient)))
        slope = float(gradient @ direction)
        for halvings in range(MAX_HALVINGS):
            scale = 0.5**halvings
            theta = state.theta + scale * direction
            cost, new_gradient = objective.cost_and_gradient(theta)
            is_noise = -scale * slope < NOISE * state.cost
            is_better = is_noise and max_abs(new_gradient) < state.criterion
            bound = state.cost + SUFFICIENT_DECREASE * scale * slope
            if is_better or (cost <= bound and cost < state.cost):
                break
            if is_noise and halvings >= MAX_HALVINGS_IN_NOISE:
                return state.as_finished()
        else:
            return state.as_finished()
        step, change = theta - state.theta, new_gradient - gradient
        if step @ change > 0:  # otherwise the approximation would not be positive definite
            steps = np.vstack([steps, step])[-MAX_PAIRS:]
            changes = np.vstack([changes, change])[-MAX_PAIRS:]
        memory = {"gradient": new_gradient, "steps": steps, "changes": changes}
        return State(theta, cost, max_abs(new_gradient), state.steps + 1, memory)


def _apply_inverse_hessian(gradient: Floats, steps: Floats, changes: Floats) -> Floats:
    """Return the approximate inverse Hessian times the gradient."""
    if not len(steps):
        return gradient
    rho = 1.0 / np.einsum("ij,ij->i", steps, changes)
    alphas = np.zeros(len(steps))
    result = gradient.copy()
    for i in reversed(range(len(steps))):
        alphas[i] = rho[i] * (steps[i] @ result)
        result -= alphas[i] * changes[i]
    result *= (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for i in range(len(steps)):
        result += (alphas[i] - rho[i] * (changes[i] @ result)) * steps[i]
    return result
