"""Benchmarks that measure all sides in one run, repeatedly, and report medians and ratios."""
