"""Columns: kinds, parsing of cells, and features."""
