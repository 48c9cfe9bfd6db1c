"""Moments by which something must have happened, and what happens if it has not."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# The clock of all deadlines.
now = time.monotonic


class Deadline:
    """A moment by which an answer must be there, whatever number of calls it takes.

    Attributes:
        end: the moment, by the clock `now`.
    """

    __slots__ = ("end",)

    def __init__(self, seconds: float) -> None:
        self.end = now() + seconds

    def left(self) -> float:
        """Return the seconds that are left, never less than nothing."""
        return max(0.0, self.end - now())


class Watch(Generic[T]):
    """Ends what takes too long, with one timer for all that is watched.

    A timer for each request costs more than everything else the event loop does for it, and hardly
    any ever goes off. Here one is set for the earliest deadline, and sets itself again.
    """

    def __init__(self, end: Callable[[T], object]) -> None:
        """Watch nothing yet.

        Args:
            end: called, on the event loop, with what was not done in time.
        """
        self._end = end
        self._watched: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf

    def add(self, watched: T, end: float) -> None:
        """Watch something, which must be hashable, until that moment or until it is removed."""
        self._watched[watched] = end
        if end < self._next:
            self._set(end)

    def remove(self, watched: T) -> None:
        """Watch something no longer."""
        self._watched.pop(watched, None)

    def _set(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = moment
        seconds = max(0.0, moment - now())
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer, self._next = None, math.inf
        moment = now()
        late = [watched for watched, end in self._watched.items() if end <= moment]
        for watched in late:
            del self._watched[watched]
            self._end(watched)
        if self._watched:
            self._set(min(self._watched.values()))
