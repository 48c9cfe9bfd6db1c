"""A stream of text in blocks of whole lines, so that tables of any size pass in little memory."""

from __future__ import annotations

from collections.abc import Iterator

from client.errors import ClientError

BLOCK_BYTES = 2**20


class LineBlocks:
    """Collects bytes as they come and gives them back in blocks of some 2^20 bytes of whole lines.

    Attributes:
        line: number of the first line that was not yet given, the file's first being 1.
    """

    def __init__(self) -> None:
        self.line = 1
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take the next bytes, and give every block that is full.

        Raises:
            ClientError: a line is longer than a block.
        """
        for start in range(0, len(chunk), BLOCK_BYTES):
            self._pending += chunk[start : start + BLOCK_BYTES]
            if len(self._pending) >= BLOCK_BYTES:
                end = self._pending.rfind(b"\n") + 1
                if not end:
                    raise ClientError(
                        f"line {self.line}: expected at most {BLOCK_BYTES} bytes in a line"
                    )
                block = bytes(self._pending[:end])
                del self._pending[:end]
                self.line += block.count(b"\n")
                yield block

    def rest(self) -> bytes:
        """Return what was not yet given."""
        block = bytes(self._pending)
        self._pending.clear()
        self.line += block.count(b"\n")
        return block

    def put_back(self, lines: bytes) -> None:
        """Take back the last lines of the block that was given last: they need more to follow.

        Raises:
            ClientError: they fill a block alone.
        """
        self.line -= lines.count(b"\n")
        if len(lines) >= BLOCK_BYTES // 2:
            raise ClientError(
                f"line {self.line}: a quoted cell begins that does not end within "
                f"{BLOCK_BYTES // 2} bytes"
            )
        self._pending[:0] = lines


def decoded(block: bytes, line: int) -> str:
    """Return the text of a block.

    Args:
        block: whole lines.
        line: number of the first.

    Raises:
        ClientError: it is not UTF-8; the message names the line.
    """
    try:
        return block.decode()
    except UnicodeDecodeError as error:
        wrong = line + block.count(b"\n", 0, error.start)
        raise ClientError(f"line {wrong}: expected UTF-8, got byte {block[error.start]}") from None
