"""SIGINT and SIGTERM: at once where nothing is lost, after the current step while fitting."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Turns both signals into KeyboardInterrupt, or while deferred into a request.

    Attributes:
        requested: whether a signal came while deferred.
        number: of the last signal.
    """

    def __init__(self) -> None:
        self.requested = False
        self.number = int(signal.SIGINT)
        self._deferred = False

    def install(self) -> None:
        """Take care of both signals from now on."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the first signal be a request; a second one does not wait."""
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
