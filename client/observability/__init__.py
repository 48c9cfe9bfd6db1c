"""Metrics, traces, drift and the prediction log."""
