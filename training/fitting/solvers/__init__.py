"""Solvers; each continues from the state that its last step returned."""

from training.fitting.solvers.gradient_descent import GradientDescent
from training.fitting.solvers.lbfgs import Lbfgs
from training.fitting.solvers.newton import Newton
from training.fitting.solvers.sgd import StochasticGradientDescent
from training.fitting.solvers.state import Optimizer, State

__all__ = ["GradientDescent", "Lbfgs", "Newton", "Optimizer", "State", "StochasticGradientDescent"]
