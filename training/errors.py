"""Errors whose messages are shown to users."""

from __future__ import annotations


class TrainingError(Exception):
    """Base class of the training job's errors."""


class DataError(TrainingError):
    """The table cannot be used; the message says where and why."""


class EmptyFileError(DataError):
    """A file has no rows."""


class DivergedError(TrainingError):
    """The cost is no longer finite."""


class ResumeError(TrainingError):
    """There is no checkpoint to resume from, or it belongs to another fit."""


class WorkersError(TrainingError):
    """The workers cannot connect to each other, or one of them has ended."""


class RollbackError(TrainingError):
    """There is no version to roll back to; the message says why."""


class RefusedError(TrainingError):
    """The candidate is not published; the message gives the reason in one line."""
