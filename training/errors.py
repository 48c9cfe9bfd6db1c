"""What can go wrong that is not a programming error; each message is meant for people."""

from __future__ import annotations


class TrainingError(Exception):
    """The job cannot be done."""


class DataError(TrainingError):
    """The table cannot be used; the message says where and why."""


class EmptyFileError(DataError):
    """A file has no rows."""


class DivergedError(TrainingError):
    """The cost left the finite numbers."""


class ResumeError(TrainingError):
    """There is nothing to resume, or it belongs to another fit."""


class WorkersError(TrainingError):
    """The workers cannot find one another, or one of them is gone."""


class RefusedError(TrainingError):
    """The candidate is not published; the message is the reason, in one line."""
