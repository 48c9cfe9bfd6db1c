"""Request bodies: content encodings are undone within bounds of size and ratio."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator

from client.errors import ClientError

# What tells zlib which form to expect, by the name of the encoding.
WINDOW_BITS = {
    "gzip": 16 + zlib.MAX_WBITS,
    "x-gzip": 16 + zlib.MAX_WBITS,
    "deflate": zlib.MAX_WBITS,
}
# A compressed body is inflated in pieces of this size.
PIECE_BYTES = 2**16
# A larger body may be at most so many times its compressed size; numbers compress to a quarter.
SMALL_BYTES = 2**20
MAX_RATIO = 100


class CutShortError(ClientError):
    """The caller has gone, or has sent nonsense, before the body was whole."""

    def __init__(self) -> None:
        super().__init__("the body is cut short: it ended before all of it had come")


async def inflate(
    chunks: AsyncIterator[bytes], encoding: str | None, max_bytes: int
) -> AsyncIterator[bytes]:
    """Yield a body in pieces, its encoding undone.

    Raises:
        ClientError: as for `decoded`.
    """
    unzip = _unzip(encoding)
    size = 0
    async for piece in chunks:
        if unzip is None:
            yield piece
            continue
        for chunk in unzip.undone(piece):
            size += len(chunk)
            if size > max_bytes:
                raise too_large(max_bytes)
            yield chunk
            # A little that was sent may be very much, and others are waiting.
            await asyncio.sleep(0)
    if unzip is not None:
        unzip.end()


def decoded(body: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """Return a body with its encoding undone.

    Raises:
        ClientError: it is too large then (413), or is not encoded so (400), or in a way that is not
            known (415).
    """
    unzip = _unzip(encoding)
    if unzip is None:
        return body
    chunks, size = [], 0
    most = min(max_bytes, max(SMALL_BYTES, MAX_RATIO * len(body)))
    for chunk in unzip.undone(body):
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            raise too_large(max_bytes, encoded=True)
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


def _not_as_said(why: str) -> ClientError:
    return ClientError(f"the body is not what Content-Encoding says: {why}")


def too_late(seconds: float) -> ClientError:
    """Return the error of a body that did not arrive in time."""
    return ClientError(f"the body did not arrive in time; expected it within {seconds:g} s", 408)


def too_large(max_bytes: int, *, encoded: bool = False) -> ClientError:
    """Return the error of a body over the limit."""
    ratio = f", and at most {MAX_RATIO} times its compressed size" if encoded else ""
    return ClientError(f"the body is too large; expected at most {max_bytes} bytes{ratio}", 413)
