"""Request bodies that are read while they arrive, with a bounded buffer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from client.errors import ClientError
from client.http.request_body import too_large


class TruncatedBodyError(ClientError):
    """The connection was closed, or became unreadable, before the body was complete."""

    def __init__(self) -> None:
        super().__init__("the body is truncated: it ended before all of it arrived")


class BodyStream:
    """Passes a body in pieces from a connection to a task."""

    def __init__(self, flow: FlowControl, max_bytes: int) -> None:
        self._flow = flow
        self._max_bytes = max_bytes
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._received = 0
        self._ended = False
        self._error: ClientError | None = None
        self._event = asyncio.Event()

    def feed(self, piece: bytes) -> None:
        """Add a piece."""
        self._received += len(piece)
        if self._received > self._max_bytes:
            self.fail(too_large(self._max_bytes))
            return
        self._pieces.append(piece)
        self._buffered += len(piece)
        if self._buffered > HIGH_WATER_LIMIT:
            self._flow.pause_reading()
        self._event.set()

    def end(self) -> None:
        """Mark the body as complete."""
        self._ended = True
        self._event.set()

    def fail(self, error: ClientError) -> None:
        """Make the reader raise an error, unless the body is complete."""
        if not self._ended and self._error is None:
            self._error = error
            self._event.set()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body.

        Raises:
            ClientError: the error passed to `fail`.
        """
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._buffered -= len(piece)
                yield piece
            if self._error is not None:
                raise self._error
            if self._ended:
                return
            self._event.clear()
            self._flow.resume_reading()
            await self._event.wait()
