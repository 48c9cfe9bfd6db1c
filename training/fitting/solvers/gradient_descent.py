"""Gradient descent, the course's update: θ := θ − α ∂J/∂θ, all rows at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.errors import DivergedError
from training.fitting.objective import Objective
from training.fitting.solvers.state import State, is_servable


@dataclass(frozen=True)
class GradientDescent:
    """Full-batch gradient descent from θ = 0.

    Attributes:
        learning_rate: α; None uses the objective's safe learning rate.
    """

    learning_rate: float | None = None

    def start(self, objective: Objective) -> State:
        """Return the state before the first step."""
        alpha = self.learning_rate
        if alpha is None:
            alpha = objective.safe_learning_rate()
        return State(np.zeros(objective.width + 1), memory={"learning_rate": np.array(alpha)})

    def step(self, objective: Objective, state: State) -> State:
        """Take one step.

        Raises:
            DivergedError: the cost is no longer finite.
        """
        cost, gradient = objective.cost_and_gradient(state.theta)
        alpha = float(state.memory["learning_rate"])
        theta = state.theta - alpha * gradient
        if not (np.isfinite(cost) and is_servable(theta)):
            raise DivergedError(
                f"the cost diverged at iteration {state.steps + 1} with learning rate {alpha:g}; "
                "choose a smaller --learning-rate, or leave it out for a safe one"
            )
        return State(theta, cost, float(np.abs(gradient).max()), state.steps + 1, state.memory)
