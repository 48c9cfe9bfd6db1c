"""Errors that commands report in one line."""

from __future__ import annotations


class MonitoringError(Exception):
    """An expected error, such as a missing file; the message says how to fix it."""
