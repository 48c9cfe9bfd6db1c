"""The messages of an Arrow IPC stream, cut out of bytes that come in pieces.

https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc:
each message is ff ff ff ff, the length of its metadata as four bytes, the metadata, and a body. The
numbers of fields and kinds are those of Message.fbs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from client.codecs.tables.arrow.flatbuffers import Table
from client.errors import ClientError

SCHEMA, DICTIONARY, BATCH = 1, 2, 3
# A schema of ten thousand columns has about 2 MB.
MAX_METADATA_BYTES = 4 * 2**20
MAX_BODY_BYTES = 64 * 2**20

_CONTINUATION = b"\xff\xff\xff\xff"


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a stream.

    Attributes:
        kind: `SCHEMA`, `DICTIONARY` or `BATCH`.
        header: what it says.
        body: the bytes that it says where to find in.
    """

    kind: int
    header: Table
    body: memoryview


class Messages:
    """Collects bytes and gives the messages that are whole."""

    def __init__(self) -> None:
        self._pending = bytearray()
        # Bytes that are needed before anything can be done.
        self._needed = 8
        self._has_ended = False

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Take the next bytes, and give the messages that are whole.

        Raises:
            ClientError: they are no Arrow stream, or a message is too large.
            BrokenError: a message's metadata cannot be read.
        """
        self._pending += chunk
        while len(self._pending) >= self._needed and not self._has_ended:
            message = self._next()
            if message is not None:
                yield message
        if self._has_ended and self._pending:
            raise ClientError("the Arrow stream goes on after its end")

    def finish(self) -> None:
        """Check that nothing is left.

        Raises:
            ClientError: the stream ends within a message.
        """
        if self._pending:
            raise ClientError("the Arrow stream ends within a message")

    def _next(self) -> Message | None:
        """Return the message at the beginning, or None and note how many bytes it needs."""
        pending = self._pending
        length = int.from_bytes(pending[4:8], "little")
        if pending[:4] != _CONTINUATION or length > MAX_METADATA_BYTES:
            raise ClientError("the body is no stream of Arrow's IPC format")
        if length == 0:
            self._has_ended = True
            del pending[:8]
            return None
        begin = 8 + length
        if len(pending) < begin:
            self._needed = begin
            return None
        root = Table.root(bytes(pending[8:begin]))
        size = root.number(3, "<q")
        if not 0 <= size <= MAX_BODY_BYTES:
            raise ClientError(
                f"the Arrow stream has a message of {size} bytes; expected at most "
                f"{MAX_BODY_BYTES}: write the table in smaller batches",
                413,
            )
        end = begin + size
        if len(pending) < end:
            self._needed = end
            return None
        with memoryview(pending) as whole:
            body = memoryview(bytes(whole[begin:end]))
        del pending[:end]
        self._needed = 8
        return Message(root.number(1, "<B"), root.table(2), body)
