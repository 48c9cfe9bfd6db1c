"""Measurements: both sides in one run, several repeats, medians and ratios."""
