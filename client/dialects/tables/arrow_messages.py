"""The messages of an Arrow IPC stream, cut out of bytes that come in pieces.

https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc:
each message is ff ff ff ff, the length of its metadata as four bytes, the metadata, a FlatBuffers
table, and a body. What of the metadata is needed to find the next message, and to bound what a
message may cost, is read here; nanoarrow reads the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from client.errors import ClientError

SCHEMA, DICTIONARY, BATCH = 1, 2, 3
# A schema of ten thousand columns has about 2 MB.
MOST_METADATA = 16 * 2**20
MOST_BODY = 64 * 2**20

_CONTINUATION = b"\xff\xff\xff\xff"


@dataclass(frozen=True)
class Message:
    """A message of a stream.

    Attributes:
        kind: `SCHEMA`, `DICTIONARY` or `BATCH`.
        data: all of it, as it came.
        rows: of a batch or a dictionary.
        dictionary: a dictionary's number.
        is_delta: whether a dictionary continues the one of its number.
    """

    kind: int
    data: bytes
    rows: int = 0
    dictionary: int = 0
    is_delta: bool = False


class Messages:
    """Collects bytes and gives the messages that are whole."""

    def __init__(self) -> None:
        self._pending = bytearray()
        # Bytes that are needed before anything can be done.
        self._needed = 8
        self.has_ended = False

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Take the next bytes, and give the messages that are whole.

        Raises:
            ClientError: they are no Arrow stream, or a message is too large.
        """
        self._pending += chunk
        while len(self._pending) >= self._needed and not self.has_ended:
            message = self._next()
            if message is not None:
                yield message
        if self.has_ended and self._pending:
            raise ClientError("the Arrow stream goes on after its end")

    def finish(self) -> None:
        """Check that nothing is left.

        Raises:
            ClientError: the stream ends within a message.
        """
        if self._pending:
            raise ClientError("the Arrow stream ends within a message")

    def _next(self) -> Message | None:
        """Return the message at the beginning, or None and say how many bytes it needs."""
        pending = self._pending
        length = int.from_bytes(pending[4:8], "little")
        if pending[:4] != _CONTINUATION or length > MOST_METADATA:
            raise ClientError("the body is no stream of Arrow's IPC format")
        if length == 0:
            self.has_ended = True
            del pending[:8]
            return None
        end = 8 + length
        if len(pending) < end:
            self._needed = end
            return None
        try:
            message, body = _read(bytes(pending[8:end]))
        except (struct.error, IndexError):
            raise ClientError("the Arrow stream has a message that cannot be read") from None
        if not 0 <= body <= MOST_BODY:
            raise ClientError(
                f"the Arrow stream has a message of {body} bytes; expected at most {MOST_BODY}: "
                "write the table in smaller batches",
                413,
            )
        end += body
        if len(pending) < end:
            self._needed = end
            return None
        if not 0 <= message.rows <= 8 * body:
            raise ClientError(f"the Arrow stream has {message.rows} rows in {body} bytes")
        data = bytes(pending[:end])
        del pending[:end]
        self._needed = 8
        return Message(message.kind, data, message.rows, message.dictionary, message.is_delta)


def _read(metadata: bytes) -> tuple[Message, int]:
    """Return a message without its data, and the length of its body."""
    root = _Table(metadata, _Table(metadata, 0).number("<I", 0))
    kind = root.field(1, "<B")
    message, header = Message(kind, b""), root.table(2)
    if kind == DICTIONARY:
        batch = header.table(1)
        is_delta = bool(header.field(2, "<B"))
        message = Message(kind, b"", batch.field(0, "<q"), header.field(0, "<q"), is_delta)
    elif kind == BATCH:
        batch = header
        message = Message(kind, b"", batch.field(0, "<q"))
    elif kind != SCHEMA:
        raise ClientError(f"the Arrow stream has a message of kind {kind}")
    if kind != SCHEMA and batch.place(3) is not None:
        # What a compressed body grows to is known only when it has grown.
        raise ClientError(
            "the Arrow stream is compressed inside; write it without, and compress the body with "
            "Content-Encoding"
        )
    return message, root.field(3, "<q")


@dataclass(frozen=True)
class _Table:
    """A table of FlatBuffers (https://flatbuffers.dev/internals), at a place of some bytes."""

    data: bytes
    at: int

    def number(self, form: str, at: int) -> int:
        if at < 0:
            raise IndexError
        value: int = struct.unpack_from(form, self.data, at)[0]
        return value

    def place(self, index: int) -> int | None:
        """Return where a field is, None if it is left out."""
        layout = self.at - self.number("<i", self.at)
        entry = 4 + 2 * index
        offset = self.number("<H", layout + entry) if entry < self.number("<H", layout) else 0
        return self.at + offset if offset else None

    def field(self, index: int, form: str) -> int:
        place = self.place(index)
        return 0 if place is None else self.number(form, place)

    def table(self, index: int) -> _Table:
        place = self.place(index)
        if place is None:
            raise IndexError
        return _Table(self.data, place + self.number("<I", place))
