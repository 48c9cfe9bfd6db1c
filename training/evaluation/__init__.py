"""Metrics on the held-out rows, the report, and the candidate they belong to."""
