"""The cut-out: stops a failing canary without waiting for the controller's verdict."""

from __future__ import annotations

from collections import deque

RECENT_CALLS = 20
MAX_FAILURES = 10


class CutOut:
    """Counts the failures among a canary's most recent calls."""

    def __init__(self) -> None:
        self._failures: deque[bool] = deque(maxlen=RECENT_CALLS)

    def record(self, failed: bool) -> bool:
        """Record a call, and return whether to stop sending requests to the canary."""
        self._failures.append(failed)
        return sum(self._failures) >= MAX_FAILURES
