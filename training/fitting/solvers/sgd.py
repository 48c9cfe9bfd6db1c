"""Stochastic gradient descent: mini-batches with momentum.

    v := μ v − α ∂J_B/∂θ,   θ := θ + v

where J_B is the cost of the rows of a mini-batch, ridge included. The L1 part of the penalty is a
proximal step, which makes weights exactly 0: w := sign(w) max(|w| − α λ₁ / ((1 − μ) Σ r), 0), where
1 / (1 − μ) is the factor by which momentum amplifies a constant gradient. α falls from its start to
0 along half a cosine over all epochs (Loshchilov and Hutter 2017), so that the noise of
mini-batches vanishes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from training.errors import DivergedError
from training.fitting.feature_blocks import Blocks
from training.fitting.logistic_regression import CURVATURE, propagate
from training.fitting.objective import Objective
from training.fitting.solvers.state import State, is_servable
from training.settings import LossName


@dataclass(frozen=True)
class StochasticGradientDescent:
    """Mini-batches in an order that depends on the seed and the epoch; a step is an epoch.

    The state's cost is the mean over the epoch's mini-batches plus the penalty at its end; its
    criterion is the change of that cost from the last epoch.

    Attributes:
        blocks: the rows.
        epochs: number of epochs over which the learning rate falls to 0.
        learning_rate: α at the start; None infers it from the rows.
        momentum: μ.
        batch_size: rows per mini-batch.
        seed: seed of the order of the mini-batches.
    """

    blocks: Blocks
    epochs: int
    learning_rate: float | None
    momentum: float
    batch_size: int
    seed: int

    def start(self, objective: Objective) -> State:
        """Return the state before the first step."""
        theta = np.zeros(objective.width + 1)
        alpha = self.learning_rate
        if alpha is None:
            # A row's second derivative is at most c |x|² + λ₂ / Σ r, and momentum amplifies steps
            # by 1 / (1 − μ).
            mean_square = objective.mean_square_length()
            ridge = objective.penalty.l2 / objective.total_weight
            alpha = (1 - self.momentum) / (CURVATURE[objective.loss] * mean_square + ridge)
        return State(
            theta, memory={"velocity": np.zeros_like(theta), "learning_rate": np.array(alpha)}
        )

    def step(self, objective: Objective, state: State) -> State:
        """Run one epoch.

        Raises:
            DivergedError: the cost is no longer finite.
        """
        alpha = float(state.memory["learning_rate"])
        theta, velocity, loss, weight = state.theta, state.memory["velocity"], 0.0, 0.0
        random = np.random.default_rng([self.seed, state.steps])
        # The mean over the mini-batches, some of which are short. Over an epoch, the gradients of
        # all rows and of the penalty then have the same proportion as in J.
        batch_weight = objective.total_weight / self.blocks.batches(self.batch_size)
        for index, block in enumerate(self.blocks.shuffled(random)):
            progress = min(1.0, (state.steps + index / len(self.blocks)) / self.epochs)
            dtype = block.features.dtype
            rates = [
                alpha * (1 + math.cos(math.pi * progress)) / 2,
                self.momentum,
                batch_weight,
                objective.penalty.l2 / objective.total_weight,
                objective.penalty.l1 / (1 - self.momentum) / objective.total_weight,
            ]
            parameters, block_loss = _descend(
                tf.constant([theta, velocity], dtype),
                *block,
                tf.constant(rates, dtype),
                tf.constant(self.batch_size),
                objective.loss,
            )
            theta, velocity = parameters.numpy().astype(np.float64)
            loss += float(block_loss)
            weight += float(tf.reduce_sum(block.row_weights))
            if not (np.isfinite(loss) and is_servable(theta)):
                raise DivergedError(
                    f"the cost diverged in epoch {state.steps + 1} with learning rate {alpha:g}; "
                    "choose a smaller --learning-rate, or leave it out for a safe one"
                )
        cost = loss / weight + objective.penalty.value(theta[:-1]) / objective.total_weight
        return State(
            theta,
            cost,
            abs(cost - state.cost) if state.steps else math.inf,
            state.steps + 1,
            {**state.memory, "velocity": velocity},
        )


@tf.function(autograph=False, reduce_retracing=True)
def _descend(
    parameters: Any,
    features: Any,
    labels: Any,
    row_weights: Any,
    rates: Any,
    batch_size: Any,
    loss: LossName,
) -> Any:
    """Update [θ, v] over the mini-batches of a block; return them and the summed loss."""
    alpha, momentum, batch_weight, l2, l1 = tf.unstack(rates)
    rows = tf.shape(features)[0]

    def update(begin: Any, theta: Any, velocity: Any, total: Any) -> Any:
        batch = slice(begin, begin + batch_size)
        loss_sum, dw, db = propagate(
            theta[:-1], theta[-1], features[batch], labels[batch], row_weights[batch], loss
        )
        # Divide a smaller last batch by the same weight, so that it has less effect.
        gradient = tf.concat([dw / batch_weight + l2 * theta[:-1], [db / batch_weight]], 0)
        velocity = momentum * velocity - alpha * gradient
        theta = theta + velocity
        weights = tf.sign(theta[:-1]) * tf.nn.relu(tf.abs(theta[:-1]) - alpha * l1)
        return begin + batch_size, tf.concat([weights, theta[-1:]], 0), velocity, total + loss_sum

    start = (tf.constant(0), parameters[0], parameters[1], tf.zeros([], features.dtype))
    _, theta, velocity, total = tf.while_loop(lambda begin, *_: begin < rows, update, start)
    return tf.stack([theta, velocity]), total
