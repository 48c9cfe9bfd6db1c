r"""The formulas of logistic regression, as derived in section 1.2 of the course.

With rows in X `[m, n]`, labels y `[m]`, weights w `[n]` and bias b:

    z = X w + b                       log-odds
    a = σ(z) = 1 / (1 + e⁻ᶻ)          probability of class 1

the two losses of a row are

    cross-entropy   −(y log a + (1 − y) log(1 − a))
    squared         (a − y)² / 2

By the chain rule, with da/dz = a (1 − a):

    dz = a − y                        cross-entropy: a (1 − a) cancels
    dz = (a − y) a (1 − a)            squared
    dw = Xᵀ dz,   db = Σ dz

The row weights r `[m]` multiply losses and dz. All results here are sums over rows, so that the
results of several blocks can be added; the cost is J = (Σ r loss + Ω(w)) / Σ r, see
`objective.py`. With equal weights and without a penalty it is the course's mean.

The course writes one sample per column, `[n, m]`; there, the gradient is `dw = X dzᵀ / m`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from training.settings import LossName

# The largest |d²loss/dz²|. Cross-entropy: a (1 − a) at a = 1/2. Squared, for y = 0:
# a² (1 − a) (2 − 3a), whose derivative is 0 at a = (15 − √33) / 24; y = 1 is its mirror image.
CURVATURE: dict[LossName, float] = {"cross-entropy": 0.25, "squared": 0.0771}


class Gradients(NamedTuple):
    """Summed loss (scalar) and its derivatives: dw `[n]`, db (scalar)."""

    loss: Any
    dw: Any
    db: Any


def propagate(
    weights: Any, bias: Any, features: Any, labels: Any, row_weights: Any, loss: LossName
) -> Gradients:
    """Compute the loss and its derivatives for all rows at once.

    Args:
        weights: float tensor `[n]`.
        bias: scalar tensor.
        features: tensor `[m, n]`.
        labels: tensor `[m]`, 0 or 1.
        row_weights: tensor `[m]`.
        loss: "cross-entropy" or "squared".
    """
    z = tf.linalg.matvec(features, weights) + bias
    a = tf.sigmoid(z)
    if loss == "cross-entropy":
        # softplus(z) − y z equals −(y log a + (1 − y) log(1 − a)), but stays finite where a rounds
        # to 0 or 1.
        losses = tf.math.softplus(z) - labels * z
        dz = row_weights * (a - labels)
    else:
        losses = (a - labels) ** 2 / 2
        dz = row_weights * (a - labels) * a * (1 - a)
    dw = tf.linalg.matvec(features, dz, transpose_a=True)
    return Gradients(tf.reduce_sum(row_weights * losses), dw, tf.reduce_sum(dz))


def curvature(weights: Any, bias: Any, features: Any, row_weights: Any, loss: LossName) -> Any:
    """Return the Hessian of the summed loss, `[n + 1, n + 1]`, with the bias last.

    For cross-entropy it is Xᵀ diag(r a (1 − a)) X, which is also the expected information that
    iteratively reweighted least squares uses. The squared loss is not convex; for it this is the
    Gauss-Newton part Xᵀ diag(r (a (1 − a))²) X, which has no negative eigenvalue.
    """
    a = tf.sigmoid(tf.linalg.matvec(features, weights) + bias)
    slope = a * (1 - a)
    return gram(features, row_weights * (slope if loss == "cross-entropy" else slope**2))


def gram(features: Any, row_weights: Any) -> Any:
    """Return Xᵀ diag(r) X, `[n + 1, n + 1]`, where X ends with a column of ones."""
    scaled = features * row_weights[:, tf.newaxis]
    square = tf.matmul(features, scaled, transpose_a=True)
    border = tf.reduce_sum(scaled, axis=0)[:, tf.newaxis]
    corner = tf.reshape(tf.reduce_sum(row_weights), [1, 1])
    return tf.concat(
        [tf.concat([square, border], 1), tf.concat([tf.transpose(border), corner], 1)], 0
    )
