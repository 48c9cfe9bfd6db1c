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
    HALVINGS,
    HALVINGS_IN_NOISE,
    NOISE,
    SUFFICIENT_DECREASE,
    State,
    largest,
    warm_start,
)

PAIRS = 10


@dataclass(frozen=True)
class Lbfgs:
    """Limited-memory BFGS with backtracking.

    Attributes:
        tolerance: tolerance of the solution for the sample.
        sample: a sample of the rows, whose solution is the start; None starts from 0.
    """

    tolerance: float
    sample: Objective | None = None

    def start(self, objective: Objective) -> State:
        """Return the state before the first step; its cost and criterion are those at θ."""
        theta = warm_start(Lbfgs(self.tolerance), objective, self.sample, self.tolerance)
        cost, gradient = objective.cost_and_gradient(theta)
        nothing = np.zeros((0, len(theta)))
        memory = {"gradient": gradient, "steps": nothing, "changes": nothing}
        return State(theta, cost, largest(gradient), 0, memory)

    def step(self, objective: Objective, state: State) -> State:
        """Take one step; the new state's cost and criterion are those at its θ."""
        gradient = state.memory["gradient"]
        steps, changes = state.memory["steps"], state.memory["changes"]
        direction = -_times_inverse(gradient, steps, changes)
        if not len(steps):
            direction = direction / max(1.0, float(np.linalg.norm(gradient)))
        slope = float(gradient @ direction)
        for halvings in range(HALVINGS):
            scale = 0.5**halvings
            theta = state.theta + scale * direction
            cost, following = objective.cost_and_gradient(theta)
            noise = -scale * slope < NOISE * state.cost
            better = noise and largest(following) < state.criterion
            enough = state.cost + SUFFICIENT_DECREASE * scale * slope
            if better or (cost <= enough and cost < state.cost):
                break
            if noise and halvings >= HALVINGS_IN_NOISE:
                return state.at_its_end()
        else:
            return state.at_its_end()
        step, change = theta - state.theta, following - gradient
        if step @ change > 0:  # otherwise the approximation would not be positive definite
            steps = np.vstack([steps, step])[-PAIRS:]
            changes = np.vstack([changes, change])[-PAIRS:]
        memory = {"gradient": following, "steps": steps, "changes": changes}
        return State(theta, cost, largest(following), state.steps + 1, memory)


def _times_inverse(gradient: Floats, steps: Floats, changes: Floats) -> Floats:
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
