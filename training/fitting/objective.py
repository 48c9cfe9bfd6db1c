"""The cost J and its derivatives, summed over all blocks and all workers.

    J(w, b) = (Σ r loss + Ω(w)) / Σ r

Ω is the penalty, see `penalty.py`. With equal row weights and no penalty, J is the mean loss.
Parameters are one vector θ = [w, b].
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from training.features.columns import Floats
from training.fitting.feature_blocks import Block
from training.fitting.logistic_regression import CURVATURE, curvature, gram, propagate
from training.fitting.penalty import Penalty
from training.settings import LossName
from training.workers.collectives import Workers


class Objective:
    """The cost as a function of θ, `[features + 1]`. Each method is one pass over the rows."""

    def __init__(
        self,
        blocks: Iterable[Block],
        width: int,
        *,
        total_weight: float,
        penalty: Penalty,
        loss: LossName,
        workers: Workers,
    ) -> None:
        """Define the cost over the rows of all workers.

        `blocks` are this worker's rows; `total_weight` is Σ r over the rows of all workers.
        """
        self.blocks = blocks
        self.width = width
        self.total_weight = total_weight
        self.penalty = penalty
        self.loss: LossName = loss
        self.workers = workers

    def cost_and_gradient(self, theta: Floats) -> tuple[float, Floats]:
        """Return J and its gradient `[features + 1]`."""
        sums = self._sum(_first_order, theta, 1 + self.width + 1)
        return self._add_penalty(theta, sums)

    def cost_gradient_and_curvature(self, theta: Floats) -> tuple[float, Floats, Floats]:
        """Return J, its gradient and its Hessian, see `curvature`."""
        size = self.width + 1
        sums = self._sum(_second_order, theta, 1 + size + size * size)
        cost, gradient = self._add_penalty(theta, sums[: 1 + size])
        hessian = sums[1 + size :].reshape(size, size) / self.total_weight
        hessian[np.diag_indices(self.width)] += self.penalty.l2 / self.total_weight
        return cost, gradient, hessian

    def safe_learning_rate(self) -> float:
        """Return α = 1 / L, for which gradient descent never increases J.

        L bounds J's second derivative: L = c λmax(Xᵀ diag(r) X / Σ r) + λ₂ / Σ r, where X has a
        column of ones for the bias and c is the loss's `CURVATURE` (Nesterov, Introductory Lectures
        on Convex Optimization, 1.2.3).
        """
        largest = float(np.linalg.eigvalsh(self._second_moments())[-1])
        return 1.0 / (CURVATURE[self.loss] * largest + self.penalty.l2 / self.total_weight)

    def mean_square_length(self) -> float:
        """Return the mean of |x|² over the rows, the bias's 1 included."""
        return float(np.trace(self._second_moments()))

    def _second_moments(self) -> Floats:
        size = self.width + 1
        return self._sum(_gram, np.zeros(size), size * size).reshape(size, -1) / self.total_weight

    def _add_penalty(self, theta: Floats, sums: Floats) -> tuple[float, Floats]:
        weights = theta[:-1]
        cost = (sums[0] + self.penalty.value(weights)) / self.total_weight
        gradient = np.append(self.penalty.gradient(weights, sums[1:-1]), sums[-1])
        return float(cost), gradient / self.total_weight

    def _sum(self, block_sums: Any, theta: Floats, size: int) -> Floats:
        """Return the sums `[size]` of `block_sums` over all blocks and workers."""
        total = np.zeros(size)
        for block in self.blocks:
            parameters = tf.constant(theta, block.features.dtype)
            total += block_sums(parameters, *block, self.loss).numpy()
        return self.workers.sum(total)


def _first_order_sums(
    theta: Any, features: Any, labels: Any, row_weights: Any, loss: LossName
) -> Any:
    loss_sum, dw, db = propagate(theta[:-1], theta[-1], features, labels, row_weights, loss)
    return tf.concat([[loss_sum], dw, [db]], 0)


def _second_order_sums(
    theta: Any, features: Any, labels: Any, row_weights: Any, loss: LossName
) -> Any:
    first_order = _first_order_sums(theta, features, labels, row_weights, loss)
    hessian = curvature(theta[:-1], theta[-1], features, row_weights, loss)
    return tf.concat([first_order, tf.reshape(hessian, [-1])], 0)


def _gram_sums(theta: Any, features: Any, labels: Any, row_weights: Any, loss: LossName) -> Any:
    return tf.reshape(gram(features, row_weights), [-1])


_first_order, _second_order, _gram = (
    tf.function(sums, autograph=False, reduce_retracing=True)
    for sums in (_first_order_sums, _second_order_sums, _gram_sums)
)
