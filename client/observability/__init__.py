"""Metrics, traces and the timing of requests."""
