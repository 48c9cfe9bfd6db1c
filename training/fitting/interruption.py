"""Handling of SIGINT and SIGTERM: immediate, or in a fit after the current step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Turns both signals into KeyboardInterrupt, or while deferred into a request to stop.

    Attributes:
        requested: whether a signal arrived while deferred.
        number: number of the last signal.
    """

    def __init__(self) -> None:
        self.requested = False
        self.number = int(signal.SIGINT)
        self._deferred = False

    def install(self) -> None:
        """Install the handler for both signals."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Turn the first signal into a request; a second one interrupts immediately."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _handle(self, number: int, frame: object) -> None:
        self.number = number
        if self._deferred and not self.requested:
            self.requested = True
        else:
            raise KeyboardInterrupt
