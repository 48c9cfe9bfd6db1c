"""How good a fitted model is on rows it has not seen."""

from __future__ import annotations

from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from training.dataset import Floats


def evaluate(labels: Floats, probabilities: Floats, threshold: float) -> dict[str, float]:
    """Return accuracy at the threshold, log-loss (mean, in nats) and area under the ROC curve.

    Args:
        labels: `[rows]`, 0 or 1, both present.
        probabilities: `[rows]`, of class 1.
        threshold: rows at or above it are called class 1.
    """
    return {
        "accuracy": float(accuracy_score(labels, probabilities >= threshold)),
        "log_loss": float(log_loss(labels, probabilities)),
        "auc": float(roc_auc_score(labels, probabilities)),
    }
