"""Ways to minimise the cost; each goes on from the state that its last step left."""

from training.optimizers.gradient_descent import GradientDescent
from training.optimizers.lbfgs import Lbfgs
from training.optimizers.newton import Newton
from training.optimizers.sgd import StochasticGradientDescent
from training.optimizers.state import Optimizer, State

__all__ = ["GradientDescent", "Lbfgs", "Newton", "Optimizer", "State", "StochasticGradientDescent"]
