r"""Logistic regression by gradient descent, as section 1.2 of the course derives it.

With rows in X `[m, n]`, labels y `[m]`, weights w `[n]` and bias b:

    z = X w + b                       log-odds
    a = σ(z) = 1 / (1 + e⁻ᶻ)          probability of class 1

the two losses of a row are

    cross-entropy   −(y log a + (1 − y) log(1 − a))
    squared         (a − y)² / 2

and the cost is their mean plus a ridge, J = mean(loss) + λ wᵀw / 2m. By the chain rule through that
graph, with da/dz = a (1 − a):

    dz = a − y                        cross-entropy: a (1 − a) cancels
    dz = (a − y) a (1 − a)            squared
    dw = Xᵀ dz / m + λ w / m,   db = mean(dz)
    w := w − α dw,   b := b − α db

The course writes one sample per column, `[n, m]`, where this is `dw = X dzᵀ / m`. The ridge is not
the course's: it gives the cost a minimum even if a hyperplane separates the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from training.dataset import Floats

Loss = Literal["cross-entropy", "squared"]

STEPS_PER_REPORT = 50
# The largest |d²loss/dz²|. Cross-entropy: a (1 − a) at a = 1/2. Squared, for y = 0:
# a² (1 − a) (2 − 3a), whose derivative is 0 at a = (15 − √33) / 24; y = 1 is its mirror image.
CURVATURE: dict[Loss, float] = {"cross-entropy": 0.25, "squared": 0.0771}


class Gradients(NamedTuple):
    """Cost J (scalar) and its derivatives: dw `[n]`, db (scalar), all float64."""

    cost: Any
    dw: Any
    db: Any


class Fit(NamedTuple):
    """A fitted model: weights `[n]`, bias, learning rate used, and J before each update."""

    weights: Floats
    bias: float
    learning_rate: float
    costs: Floats


def propagate(
    weights: Any, bias: Any, features: Any, labels: Any, l2: Any, loss: Loss = "cross-entropy"
) -> Gradients:
    """Go forward to the cost and back to its derivatives, all rows at once.

    Args:
        weights: float64 tensor `[n]`.
        bias: float64 scalar tensor.
        features: float64 tensor `[m, n]`.
        labels: float64 tensor `[m]`, 0 or 1.
        l2: λ, float64 scalar, in units of one row's loss (scikit-learn's 1/C).
        loss: which loss of a row.
    """
    rows = tf.cast(tf.shape(features)[0], tf.float64)
    z = tf.linalg.matvec(features, weights) + bias
    a = tf.sigmoid(z)
    if loss == "cross-entropy":
        # softplus(z) − y z equals −(y log a + (1 − y) log(1 − a)); unlike it, it stays finite where
        # a rounds to 0 or 1.
        losses = tf.math.softplus(z) - labels * z
        dz = a - labels
    else:
        losses = (a - labels) ** 2 / 2
        dz = (a - labels) * a * (1 - a)
    cost = tf.reduce_mean(losses) + l2 * tf.reduce_sum(weights**2) / (2 * rows)
    dw = tf.linalg.matvec(features, dz, transpose_a=True) / rows + l2 * weights / rows
    db = tf.reduce_mean(dz)
    return Gradients(cost, dw, db)


def safe_learning_rate(features: Floats, l2: float, loss: Loss = "cross-entropy") -> float:
    """Return α = 1 / L, with which gradient descent on J never goes up.

    L bounds J's second derivative: L = c λmax(XᵀX / m) + λ / m, where X has a column of ones for
    the bias and c is the loss's `CURVATURE` (Nesterov, Introductory Lectures on Convex
    Optimization, 1.2.3).
    """
    rows = len(features)
    design = np.column_stack([features, np.ones(rows)])
    largest = float(np.linalg.eigvalsh(design.T @ design / rows)[-1])
    return 1.0 / (CURVATURE[loss] * largest + l2 / rows)


def optimize(
    features: Floats,
    labels: Floats,
    *,
    iterations: int,
    learning_rate: float | None = None,
    l2: float = 1.0,
    loss: Loss = "cross-entropy",
    report: Callable[[int, float], None] = lambda iteration, cost: None,
) -> Fit:
    """Fit by full-batch gradient descent from w = 0, b = 0.

    Args:
        features: `[m, n]`, standardised.
        labels: `[m]`, 0 or 1.
        iterations: number of updates.
        learning_rate: α; None takes `safe_learning_rate`.
        l2: λ.
        loss: which loss of a row to minimise the mean of.
        report: called now and then with the number of updates done and the cost.

    Raises:
        FloatingPointError: the cost left the finite numbers, so α is too large.
    """
    alpha = safe_learning_rate(features, l2, loss) if learning_rate is None else learning_rate
    x, y = tf.constant(features, tf.float64), tf.constant(labels, tf.float64)
    weights = tf.zeros(features.shape[1], tf.float64)
    bias = tf.zeros((), tf.float64)
    costs: list[Floats] = []
    for done in range(0, iterations, STEPS_PER_REPORT):
        steps = min(STEPS_PER_REPORT, iterations - done)
        weights, bias, chunk = _descend(weights, bias, x, y, alpha, l2, tf.constant(steps), loss)
        costs.append(chunk.numpy())
        if not np.isfinite(costs[-1]).all() or not np.isfinite(weights.numpy()).all():
            raise FloatingPointError(
                f"the cost diverged within {done + steps} iterations at learning rate {alpha:g}; "
                "a smaller one, or none (a safe one is then chosen), is needed"
            )
        report(done + steps, float(costs[-1][-1]))
    return Fit(weights.numpy(), float(bias), alpha, np.concatenate(costs))


@tf.function(autograph=False, reduce_retracing=True)
def _descend(
    w: Any, b: Any, x: Any, y: Any, alpha: float, l2: float, steps: Any, loss: Loss
) -> Any:
    def update(step: Any, w: Any, b: Any, costs: Any) -> Any:
        cost, dw, db = propagate(w, b, x, y, l2, loss)
        return step + 1, w - alpha * dw, b - alpha * db, costs.write(step, cost)

    start = (tf.constant(0), w, b, tf.TensorArray(tf.float64, size=steps))
    _, w, b, costs = tf.while_loop(lambda step, *_: step < steps, update, start)
    return w, b, costs.stack()
