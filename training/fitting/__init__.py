"""Objective, solvers, and fits that can be resumed."""
