"""Errors that the command line reports as one line."""

from __future__ import annotations


class RolloutError(Exception):
    """An action is not possible; the message gives the reason and the alternative."""


class StateError(RolloutError):
    """A rollout file cannot be read or written; the message names the file."""
