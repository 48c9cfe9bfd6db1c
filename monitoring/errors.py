"""Errors that end a command with one line."""

from __future__ import annotations


class MonitoringError(Exception):
    """Something is missing or cannot be read; the message names it and the fix."""
