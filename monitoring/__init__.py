"""Monitoring: drift, the prediction log, quality from labels, and retraining."""
