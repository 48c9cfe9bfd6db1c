"""Errors that are not programming errors; their messages are shown to users."""

from __future__ import annotations


class TrainingError(Exception):
    """The job cannot be done."""


class DataError(TrainingError):
    """The table cannot be used; the message names the place and the reason."""


class EmptyFileError(DataError):
    """A file has no rows."""


class DivergedError(TrainingError):
    """The cost is no longer finite."""


class ResumeError(TrainingError):
    """There is no checkpoint to resume from, or it belongs to another fit."""


class WorkersError(TrainingError):
    """The workers cannot find each other, or one of them has ended."""


class RollbackError(TrainingError):
    """There is no version to go back to; the message says why."""


class RefusedError(TrainingError):
    """The candidate is not published; the message is the reason, in one line."""
