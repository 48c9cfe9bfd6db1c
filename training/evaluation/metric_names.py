"""Names of the metrics, apart from their functions, which take seconds to import."""

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
# The metrics shown in lists of versions.
LISTED = ("accuracy", "auc", "log_loss")
