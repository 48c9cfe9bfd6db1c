"""The metrics by name, apart from what computes them, which takes seconds to import."""

LESS_IS_BETTER = ("log_loss", "brier", "calibration_error")
METRICS = (
    "accuracy",
    "precision",
    "recall",
    "f1",
    "auc",
    "average_precision",
    *LESS_IS_BETTER,
)
