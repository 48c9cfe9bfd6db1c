"""Messages of an Arrow IPC stream that arrives in chunks.

https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc:
each message is ff ff ff ff, the length of its metadata in four bytes, the metadata, and a body.
Field and kind numbers are those of Message.fbs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from client.codecs.tables.arrow.flatbuffers import Table
from client.errors import ClientError

SCHEMA, DICTIONARY, BATCH = 1, 2, 3
# The schema of ten thousand columns takes about 2 MB.
MAX_METADATA_BYTES = 4 * 2**20
MAX_BODY_BYTES = 64 * 2**20

_CONTINUATION = b"\xff\xff\xff\xff"


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a stream.

    Attributes:
        kind: `SCHEMA`, `DICTIONARY` or `BATCH`.
        header: the message's metadata.
        body: the bytes that the metadata refers to.
    """

    kind: int
    header: Table
    body: memoryview


class Messages:
    """Collects bytes and yields complete messages."""

    def __init__(self) -> None:
        self._pending = bytearray()
        # Number of bytes that `_next` needs.
        self._needed = 8
        self._has_ended = False

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Add bytes, and yield the complete messages.

        Raises:
            ClientError: the bytes are not an Arrow stream, or a message is too large.
            MalformedError: a message's metadata cannot be read.
        """
        self._pending += chunk
        while len(self._pending) >= self._needed and not self._has_ended:
            message = self._next()
            if message is not None:
                yield message
        if self._has_ended and self._pending:
            raise ClientError("the Arrow stream has data after its end")

    def finish(self) -> None:
        """Check that no incomplete message remains.

        Raises:
            ClientError: the stream ends within a message.
        """
        if self._pending:
            raise ClientError("the Arrow stream ends within a message")

    def _next(self) -> Message | None:
        """Return the next message; if incomplete, record how many bytes it needs."""
        pending = self._pending
        length = int.from_bytes(pending[4:8], "little")
        if pending[:4] != _CONTINUATION or length > MAX_METADATA_BYTES:
            raise ClientError("the body is not an Arrow IPC stream")
        if length == 0:
            self._has_ended = True
            del pending[:8]
            return None
        body_start = 8 + length
        if len(pending) < body_start:
            self._needed = body_start
            return None
        root = Table.root(bytes(pending[8:body_start]))
        size = root.number(3, "<q")
        if not 0 <= size <= MAX_BODY_BYTES:
            raise ClientError(
                f"the Arrow stream has a message of {size} bytes; expected at most "
                f"{MAX_BODY_BYTES}: write the table in smaller batches",
                413,
            )
        end = body_start + size
        if len(pending) < end:
            self._needed = end
            return None
        with memoryview(pending) as view:
            body = memoryview(bytes(view[body_start:end]))
        del pending[:end]
        self._needed = 8
        return Message(root.number(1, "<B"), root.table(2), body)
