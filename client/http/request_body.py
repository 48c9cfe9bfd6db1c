"""Content encodings of request bodies, decompressed within limits."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator

from client.errors import ClientError

# zlib's `wbits` for each Content-Encoding.
WINDOW_BITS = {
    "gzip": 16 + zlib.MAX_WBITS,
    "x-gzip": 16 + zlib.MAX_WBITS,
    "deflate": zlib.MAX_WBITS,
}
# Bodies are decompressed in pieces of this size.
PIECE_BYTES = 2**16
# A larger body that is held whole may be at most MAX_RATIO times its compressed size; numbers
# compress to a quarter.
SMALL_BYTES = 2**20
MAX_RATIO = 100


async def inflate(
    chunks: AsyncIterator[bytes], encoding: str | None, max_bytes: int
) -> AsyncIterator[bytes]:
    """Yield a body in pieces, decompressed.

    Raises:
        ClientError: as for `decoded`.
    """
    decompressor = _decompressor(encoding)
    size = 0
    async for piece in chunks:
        if decompressor is None:
            yield piece
            continue
        for chunk in decompressor.decompress(piece):
            size += len(chunk)
            if size > max_bytes:
                raise too_large(max_bytes)
            yield chunk
            # A small piece may decompress to a large one: let other requests run.
            await asyncio.sleep(0)
    if decompressor is not None:
        decompressor.end()


def decoded(body: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """Return a body, decompressed.

    Raises:
        ClientError: 413, the result is too large; 400, the body has another encoding; 415, the
            encoding is unknown.
    """
    decompressor = _decompressor(encoding)
    if decompressor is None:
        return body
    chunks, size = [], 0
    limit = min(max_bytes, max(SMALL_BYTES, MAX_RATIO * len(body)))
    for chunk in decompressor.decompress(body):
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise too_large(max_bytes, encoded=True)
    decompressor.end()
    return b"".join(chunks)


class _Decompressor:
    """Decompresses piece by piece; gzip may have several members (RFC 1952, section 2.2)."""

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._zlib = zlib.decompressobj(window_bits)

    def decompress(self, piece: bytes) -> Iterator[bytes]:
        """Yield a piece, decompressed, in pieces of at most `PIECE_BYTES`.

        Raises:
            ClientError: the piece does not have the declared encoding.
        """
        while piece:
            if self._zlib.eof:
                if self._window_bits <= zlib.MAX_WBITS:
                    raise _mismatch("there is data after its end")
                self._zlib = zlib.decompressobj(self._window_bits)
            try:
                plain = self._zlib.decompress(piece, PIECE_BYTES)
            except zlib.error as error:
                raise _mismatch(str(error)) from error
            piece = self._zlib.unconsumed_tail or self._zlib.unused_data
            if plain:
                yield plain

    def end(self) -> None:
        """Check that the body is complete.

        Raises:
            ClientError: the body is truncated.
        """
        if not self._zlib.eof:
            raise _mismatch("it is truncated")


def _decompressor(encoding: str | None) -> _Decompressor | None:
    """Return a decompressor for an encoding, None for `identity` or no encoding."""
    name = (encoding or "").strip().lower()
    if name in ("", "identity"):
        return None
    if name not in WINDOW_BITS:
        raise ClientError(
            f"Content-Encoding: expected gzip, deflate or a plain body, got {name[:40]}", 415
        )
    return _Decompressor(WINDOW_BITS[name])


def _mismatch(why: str) -> ClientError:
    return ClientError(f"the body does not match its Content-Encoding: {why}")


def too_late(seconds: float) -> ClientError:
    """Return the error for a body that did not arrive in time."""
    return ClientError(f"the body did not arrive in time; expected it within {seconds:g} s", 408)


def too_large(max_bytes: int, *, encoded: bool = False) -> ClientError:
    """Return the error for a body over the limit."""
    ratio = f", and at most {MAX_RATIO} times its compressed size" if encoded else ""
    return ClientError(f"the body is too large; expected at most {max_bytes} bytes{ratio}", 413)
