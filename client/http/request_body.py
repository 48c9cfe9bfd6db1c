"""Request bodies: read whole before anything is done with them, within bounds of size and time."""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

from client.errors import ClientError
from client.serving import deadlines
from client.serving.deadlines import Watch

Receive = Callable[[], Awaitable[dict[str, Any]]]

# What tells zlib which form to expect, by the name of the encoding.
WINDOW_BITS = {
    "gzip": 16 + zlib.MAX_WBITS,
    "x-gzip": 16 + zlib.MAX_WBITS,
    "deflate": zlib.MAX_WBITS,
}
# What a compressed body is made into at a time.
PIECE_BYTES = 2**16


class CutShortError(ClientError):
    """The caller has gone, or has sent nonsense, before the body was whole."""

    def __init__(self) -> None:
        super().__init__("the body is cut short: it ended before all of it had come")


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
            ClientError: it is too large (413), came too late (408), is cut short (400), or is
                encoded in a way that is not known (415).
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
            message = _coming(await receive())
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
            most_bytes: of all of them, as sent and also when their encoding is undone.

        Raises:
            ClientError: as `read`; the time counts for each piece anew.
        """
        unzip = _unzip(headers.get("content-encoding"))
        sent, size, more = 0, 0, True
        while more:
            try:
                message = _coming(await asyncio.wait_for(receive(), self._seconds))
            except asyncio.TimeoutError:
                raise _late(self._seconds) from None
            more = message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            sent += len(piece)
            if sent > most_bytes:
                raise too_large(most_bytes)
            if unzip is None:
                yield piece
                continue
            for chunk in unzip.undone(piece):
                size += len(chunk)
                if size > most_bytes:
                    raise too_large(most_bytes)
                yield chunk
                # A little that was sent may be very much, and others are waiting.
                await asyncio.sleep(0)
        if unzip is not None:
            unzip.end()

    async def _rest(self, first: bytes, length: int | None, receive: Receive) -> bytes:
        chunks, size = [first], len(first)
        more = True
        while more and size != length:
            message = _coming(await receive())
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
    unzip = _unzip(encoding)
    if unzip is None:
        return body
    chunks, size = [], 0
    for chunk in unzip.undone(body):
        chunks.append(chunk)
        size += len(chunk)
        if size > most_bytes:
            raise too_large(most_bytes)
    unzip.end()
    return b"".join(chunks)


class _Unzip:
    """Undoes a compression piece by piece.

    gzip may come in several members, one after the other (RFC 1952, section 2.2).
    """

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._zlib = zlib.decompressobj(window_bits)

    def undone(self, piece: bytes) -> Iterator[bytes]:
        """Give what a piece becomes, in pieces of `PIECE_BYTES` at the most.

        Raises:
            ClientError: it is not what was said.
        """
        while piece:
            if self._zlib.eof:
                if self._window_bits <= zlib.MAX_WBITS:
                    raise _not_as_said("there is more behind its end")
                self._zlib = zlib.decompressobj(self._window_bits)
            try:
                plain = self._zlib.decompress(piece, PIECE_BYTES)
            except zlib.error as error:
                raise _not_as_said(str(error)) from error
            piece = self._zlib.unconsumed_tail or self._zlib.unused_data
            if plain:
                yield plain

    def end(self) -> None:
        """See that nothing is missing.

        Raises:
            ClientError: something is.
        """
        if not self._zlib.eof:
            raise _not_as_said("it is cut short")


def _unzip(encoding: str | None) -> _Unzip | None:
    """Return what undoes an encoding, None if there is none to undo."""
    name = (encoding or "").strip().lower()
    if name in ("", "identity"):
        return None
    if name not in WINDOW_BITS:
        raise ClientError(
            f"Content-Encoding: expected gzip, deflate or a plain body, got {name[:40]}", 415
        )
    return _Unzip(WINDOW_BITS[name])


def _coming(message: dict[str, Any]) -> dict[str, Any]:
    if message["type"] == "http.disconnect":
        raise CutShortError
    return message


def _not_as_said(why: str) -> ClientError:
    return ClientError(f"the body is not what Content-Encoding says: {why}")


def _late(seconds: float) -> ClientError:
    return ClientError(f"the body did not arrive in time; expected it within {seconds:g} s", 408)


def too_large(most_bytes: int) -> ClientError:
    """Return the error of a body over the limit."""
    return ClientError(f"the body is too large; expected at most {most_bytes} bytes", 413)
