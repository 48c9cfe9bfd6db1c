"""Metric names, separate from the metric functions, which take seconds to import."""

LOWER_IS_BETTER = ("log_loss", "brier", "calibration_error")
METRICS = (
    "accuracy",
    "precision",
    "recall",
    "f1",
    "auc",
    "average_precision",
    *LOWER_IS_BETTER,
)
# The metrics shown in short listings.
SUMMARY_METRICS = ("accuracy", "auc", "log_loss")
