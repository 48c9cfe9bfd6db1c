"""Decompression of request bodies, within limits."""

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
# Bodies are decompressed in chunks of at most this size.
CHUNK_BYTES = 2**16
# A body that decompresses to more than SMALL_BYTES and is not streamed may be at most MAX_RATIO
# times its compressed size; numbers compress to about a quarter of theirs.
SMALL_BYTES = 2**20
MAX_RATIO = 100


async def inflate(
    chunks: AsyncIterator[bytes], encoding: str | None, max_bytes: int
) -> AsyncIterator[bytes]:
    """Yield a decompressed body in chunks.

    Raises:
        ClientError: as for `decompress`.
    """
    decompressor = _decompressor(encoding)
    size = 0
    async for chunk in chunks:
        if decompressor is None:
            yield chunk
            continue
        for plain in decompressor.decompress(chunk):
            size += len(plain)
            if size > max_bytes:
                raise too_large(max_bytes)
            yield plain
            # A small chunk may decompress to many: let other requests run.
            await asyncio.sleep(0)
    if decompressor is not None:
        decompressor.end()


def decompress(body: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """Return a decompressed body.

    Raises:
        ClientError: 413, the result is too large; 400, the body does not have the encoding; 415,
            the encoding is unknown.
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
            raise too_large(max_bytes, compressed=True)
    decompressor.end()
    return b"".join(chunks)


class _Decompressor:
    """Decompresses chunk by chunk; gzip may have several members (RFC 1952, section 2.2)."""

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._zlib = zlib.decompressobj(window_bits)

    def decompress(self, chunk: bytes) -> Iterator[bytes]:
        """Decompress a chunk, and yield it in chunks of at most `CHUNK_BYTES`.

        Raises:
            ClientError: the chunk does not have the declared encoding.
        """
        while chunk:
            if self._zlib.eof:
                if self._window_bits <= zlib.MAX_WBITS:
                    raise _mismatch("there is data after the compressed stream")
                self._zlib = zlib.decompressobj(self._window_bits)
            try:
                plain = self._zlib.decompress(chunk, CHUNK_BYTES)
            except zlib.error as error:
                raise _mismatch(str(error)) from error
            chunk = self._zlib.unconsumed_tail or self._zlib.unused_data
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


def too_large(max_bytes: int, *, compressed: bool = False) -> ClientError:
    """Return the error for a body over the limit."""
    ratio = f", and at most {MAX_RATIO} times its compressed size" if compressed else ""
    return ClientError(f"the body is too large; expected at most {max_bytes} bytes{ratio}", 413)
