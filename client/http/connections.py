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


class _Stall:
    """The unread bytes of a stalled connection, and the time of its last progress."""

    __slots__ = ("since", "size")

    def __init__(self, size: int, since: float) -> None:
        self.size = size
        self.since = since


class Connections:
    """The connections of one process."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._write_timeout = settings.write_timeout
        self._max_unsent = settings.max_unsent_bytes
        self._metrics = metrics
        self._connections: set[ReceivingProtocol] = set()
        self._stalled: dict[ReceivingProtocol, _Stall] = {}

    def add(self, connection: ReceivingProtocol) -> None:
        """Track a connection."""
        self._connections.add(connection)

    def remove(self, connection: ReceivingProtocol) -> None:
        """Stop tracking a connection."""
        self._connections.discard(connection)
        self._stalled.pop(connection, None)

    def stall(self, connection: ReceivingProtocol) -> None:
        """Mark a connection whose responses are read more slowly than they are written."""
        size = connection.transport.get_write_buffer_size()
        self._stalled[connection] = _Stall(size, connection.loop.time())
        self._enforce_limit()

    def resume(self, connection: ReceivingProtocol) -> None:
        """Unmark a connection whose responses have been read."""
        self._stalled.pop(connection, None)

    async def sweep(self) -> None:
        """Check all deadlines periodically until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = loop.time()
            expired = [connection for connection in self._connections if connection.deadline <= now]
            for connection in expired:
                try:
                    connection.expire()
                except Exception:
                    log.exception("a connection could not be closed")
                    connection.transport.abort()
            try:
                self._sweep_stalled(now)
                self._metrics.publish()
            except Exception:
                log.exception("stalled connections could not be checked, or metrics not published")

    def _sweep_stalled(self, now: float) -> None:
        for connection, stall in list(self._stalled.items()):
            size = connection.transport.get_write_buffer_size()
            if size < stall.size:
                stall.since = now
            elif now - stall.since > self._write_timeout:
                self._abort(connection)
            stall.size = size
        self._enforce_limit()

    def _enforce_limit(self) -> None:
        """Close the connections stalled longest while too many bytes are unread; keep one."""
        total = sum(stall.size for stall in self._stalled.values())
        while total > self._max_unsent and len(self._stalled) > 1:
            connection, _ = min(self._stalled.items(), key=lambda item: item[1].since)
            total -= self._stalled[connection].size
            self._abort(connection)

    def _abort(self, connection: ReceivingProtocol) -> None:
        self._stalled.pop(connection, None)
        self._metrics.slow_readers.inc()
        connection.transport.abort()
