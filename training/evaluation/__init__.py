"""Metrics on the held-out rows, and the report."""
