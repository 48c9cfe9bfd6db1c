"""The connections of one process: their deadlines, and the limit on unread responses."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from client.observability.metrics import Metrics
from client.settings import Settings

if TYPE_CHECKING:
    from client.http.receiving import ReceivingProtocol

log = logging.getLogger(__name__)

# How often deadlines are checked; a timer for each connection would cost more.
SWEEP_SECONDS = 0.1


class _Stalled:
    """A connection whose responses are not being read: unread bytes, time of the last progress."""

    __slots__ = ("since", "size")

    def __init__(self, size: int, since: float) -> None:
        self.size = size
        self.since = since


class Connections:
    """The connections of one process."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._write_seconds = settings.write_timeout
        self._max_unsent = settings.max_unsent_bytes
        self._metrics = metrics
        self._all: set[ReceivingProtocol] = set()
        self._stalled: dict[ReceivingProtocol, _Stalled] = {}

    def add(self, connection: ReceivingProtocol) -> None:
        """Track a connection."""
        self._all.add(connection)

    def remove(self, connection: ReceivingProtocol) -> None:
        """Stop tracking a connection."""
        self._all.discard(connection)
        self._stalled.pop(connection, None)

    def stall(self, connection: ReceivingProtocol) -> None:
        """Mark a connection whose responses are read more slowly than they are written."""
        size = connection.transport.get_write_buffer_size()
        self._stalled[connection] = _Stalled(size, connection.loop.time())
        self._bound()

    def resume(self, connection: ReceivingProtocol) -> None:
        """Unmark a connection whose responses were read."""
        self._stalled.pop(connection, None)

    async def sweep(self) -> None:
        """Check all deadlines periodically until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = loop.time()
            for connection in [one for one in self._all if one.deadline <= now]:
                try:
                    connection.late()
                except Exception:
                    log.exception("a connection could not be closed")
                    connection.transport.abort()
            try:
                self._sweep_stalled(now)
                self._metrics.publish()
            except Exception:
                log.exception("connections could not be checked")

    def _sweep_stalled(self, now: float) -> None:
        for connection, stalled in list(self._stalled.items()):
            size = connection.transport.get_write_buffer_size()
            if size < stalled.size:
                stalled.since = now
            elif now - stalled.since > self._write_seconds:
                self._abort(connection)
            stalled.size = size
        self._bound()

    def _bound(self) -> None:
        """While too many bytes are unread, close the connection stalled longest; keep one."""
        total = sum(stalled.size for stalled in self._stalled.values())
        while total > self._max_unsent and len(self._stalled) > 1:
            connection = min(self._stalled, key=lambda one: self._stalled[one].since)
            total -= self._stalled[connection].size
            self._abort(connection)

    def _abort(self, connection: ReceivingProtocol) -> None:
        self._stalled.pop(connection, None)
        self._metrics.slow_readers.inc()
        connection.transport.abort()
