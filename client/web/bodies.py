"""Request bodies: read whole before anything is done with them, within bounds of size and time."""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from client import deadlines
from client.deadlines import Watch
from client.errors import ClientError

Receive = Callable[[], Awaitable[dict[str, Any]]]

# What tells zlib which form to expect, by the name of the encoding.
WINDOW_BITS = {
    "gzip": 16 + zlib.MAX_WBITS,
    "x-gzip": 16 + zlib.MAX_WBITS,
    "deflate": zlib.MAX_WBITS,
}
# Of what one piece of a compressed body is made into at a time.
PIECE_BYTES = 2**20


class DisconnectedError(Exception):
    """The caller has gone before the request was whole."""


class Bodies:
    """Reads bodies; what stalls is given up, and holds up nothing but itself."""

    def __init__(self, most_bytes: int, seconds: float) -> None:
        """Prepare.

        Args:
            most_bytes: of a body, as sent and also when it is decompressed.
            seconds: in which a body must have arrived.
        """
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._late: set[asyncio.Task[Any]] = set()
        self._watch = Watch(self._give_up)

    async def read(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        """Return a request's body.

        Args:
            headers: of the request, by name in lower case.
            receive: ASGI's.

        Raises:
            ClientError: it is too large (413), came too late (408), or is encoded in a way that is
                not known (415).
            DisconnectedError: the caller has gone.
        """
        said = headers.get("content-length")
        if said is None and headers.get("transfer-encoding") is None:
            return b""
        length = int(said) if said is not None else None
        if length is not None and length > self._most_bytes:
            raise too_large(self._most_bytes)
        task = asyncio.current_task()
        assert task is not None
        self._watch.add(task, deadlines.now() + self._seconds)
        try:
            message = await receive()
            body: bytes = message.get("body", b"")
            # When all is there, the message that says so need not be waited for.
            if len(body) != length and message.get("more_body"):
                body = await self._rest(body, length, receive)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            self._late.remove(task)
            if sys.version_info >= (3, 11):
                task.uncancel()
            raise _late(self._seconds) from None
        finally:
            self._watch.remove(task)
        encoding = headers.get("content-encoding")
        return body if encoding is None else decoded(body, encoding, self._most_bytes)

    async def chunks(
        self, headers: Mapping[str, str], receive: Receive, most_bytes: int
    ) -> AsyncIterator[bytes]:
        """Give a body in the pieces that it comes in.

        Args:
            headers: of the request, by name in lower case.
            receive: ASGI's.
            most_bytes: of all of them, when their encoding is undone.

        Raises:
            ClientError, DisconnectedError: as `read`; the time counts for each piece anew.
        """
        unzip = _decompressor(headers.get("content-encoding"))
        size, more = 0, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), self._seconds)
            except asyncio.TimeoutError:
                raise _late(self._seconds) from None
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            more = message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            while piece:
                chunk = piece
                if unzip is not None:
                    chunk = _decompressed(unzip, piece)
                piece = unzip.unconsumed_tail if unzip is not None else b""
                size += len(chunk)
                if size > most_bytes:
                    raise too_large(most_bytes)
                yield chunk
        if unzip is not None and not unzip.eof:
            raise ClientError("the body is not what Content-Encoding says: it is cut short")

    async def _rest(self, first: bytes, length: int | None, receive: Receive) -> bytes:
        chunks, size = [first], len(first)
        more = True
        while more and size != length:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._most_bytes:
                raise too_large(self._most_bytes)
            more = message.get("more_body", False)
        return b"".join(chunks)

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        self._late.add(task)
        task.cancel()


def decoded(body: bytes, encoding: str | None, most_bytes: int) -> bytes:
    """Return what a body is when its encoding is undone.

    Raises:
        ClientError: it is too large then (413), or is not encoded so (400), or in a way that is not
            known (415).
    """
    unzip = _decompressor(encoding)
    if unzip is None:
        return body
    plain = _decompressed(unzip, body, most_bytes + 1)
    if len(plain) > most_bytes:
        raise too_large(most_bytes)
    if not unzip.eof:
        raise ClientError("the body is not what Content-Encoding says: it is cut short")
    return plain


def _decompressor(encoding: str | None) -> Any:
    """Return what undoes an encoding, None if there is none to undo."""
    if encoding is None or encoding == "identity":
        return None
    if encoding not in WINDOW_BITS:
        raise ClientError(
            f"Content-Encoding: expected gzip, deflate or a plain body, got {encoding[:40]}", 415
        )
    return zlib.decompressobj(WINDOW_BITS[encoding])


def _decompressed(unzip: Any, piece: bytes, most_bytes: int = PIECE_BYTES) -> bytes:
    try:
        plain: bytes = unzip.decompress(piece, most_bytes)
    except zlib.error as error:
        raise ClientError(f"the body is not what Content-Encoding says: {error}") from error
    return plain


def _late(seconds: float) -> ClientError:
    return ClientError(f"the body did not arrive in time; expected it within {seconds:g} s", 408)


def too_large(most_bytes: int) -> ClientError:
    """Return the error of a body over the limit."""
    return ClientError(f"the body is too large; expected at most {most_bytes} bytes", 413)
