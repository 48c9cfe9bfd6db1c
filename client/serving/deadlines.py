"""Deadlines, and one timer for all of them."""

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
    """The time by which a response is due, shared by all calls made for it.

    Attributes:
        end: the time, by the clock `now`.
    """

    __slots__ = ("end",)

    def __init__(self, seconds: float) -> None:
        self.end = now() + seconds

    def remaining(self) -> float:
        """Return the remaining seconds, at least 0."""
        return max(0.0, self.end - now())


class Watch(Generic[T]):
    """Calls a function with each item whose deadline has passed.

    A timer for each request would cost more than everything else the event loop does for it, and
    few would fire. One timer is set for the earliest deadline, and reset when it fires.
    """

    def __init__(self, expire: Callable[[T], object]) -> None:
        """Create an empty watch.

        Args:
            expire: called on the event loop with each late item.
        """
        self._expire = expire
        self._ends: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf

    def add(self, item: T, end: float) -> None:
        """Watch a hashable item until `end`, or until it is removed."""
        self._ends[item] = end
        if end < self._next:
            self._set_timer(end)

    def remove(self, item: T) -> None:
        """Stop watching an item."""
        self._ends.pop(item, None)

    def _set_timer(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = moment
        seconds = max(0.0, moment - now())
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire_late)

    def _expire_late(self) -> None:
        self._timer, self._next = None, math.inf
        moment = now()
        late = [item for item, end in self._ends.items() if end <= moment]
        for item in late:
            del self._ends[item]
            self._expire(item)
        if self._ends:
            self._set_timer(min(self._ends.values()))
