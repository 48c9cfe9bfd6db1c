"""Fits shared by several processes."""
