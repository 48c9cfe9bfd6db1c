"""Blocks of whole lines, so that memory use does not grow with the table."""

from __future__ import annotations

from collections.abc import Iterator

from client.errors import ClientError

BLOCK_BYTES = 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# Signatures (magic numbers) of files that are not text.
_SIGNATURES = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\x1f\x8b": "gzip; send it with Content-Encoding: gzip",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\xfd7zXZ": "xz",
    b"PAR1": "Parquet",
    b"ARROW1": "an Arrow or Feather file",
    b"\xff\xff\xff\xff": "an Arrow stream; say so in Content-Type",
    b"\x93NUMPY": "an npy file; say so in Content-Type",
    b"\xff\xfe": "UTF-16; write UTF-8",
    b"\xfe\xff": "UTF-16; write UTF-8",
}


def check_text(head: bytes | bytearray) -> None:
    """Reject a table in a known binary format.

    Raises:
        ClientError: the table begins with the signature of another format.
    """
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            raise ClientError(f"expected lines of text in UTF-8, got {name}")


class LineBlocks:
    """Collects bytes, and returns them in blocks of about a megabyte of whole lines.

    Attributes:
        line: number, from 1, of the first line that has not been returned.
    """

    def __init__(self) -> None:
        self.line = 1
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Add bytes, and yield every full block.

        Raises:
            ClientError: a line is longer than a block.
        """
        for start in range(0, len(chunk), BLOCK_BYTES):
            self._pending += chunk[start : start + BLOCK_BYTES]
            if len(self._pending) >= BLOCK_BYTES:
                end = self._pending.rfind(b"\n") + 1
                if not end:
                    check_text(self._pending)
                    raise ClientError(
                        f"line {self.line}: expected at most {BLOCK_BYTES} bytes in a line"
                    )
                block = bytes(self._pending[:end])
                del self._pending[:end]
                self.line += block.count(b"\n")
                yield block

    def flush(self) -> bytes:
        """Return the remaining bytes."""
        block = bytes(self._pending)
        self._pending.clear()
        self.line += block.count(b"\n")
        return block

    def put_back(self, lines: bytes) -> None:
        """Take back the last lines of the last block, which hold an incomplete record.

        Raises:
            ClientError: the lines fill half a block.
        """
        self.line -= lines.count(b"\n")
        if len(lines) >= BLOCK_BYTES // 2:
            raise ClientError(
                f"line {self.line}: expected the quoted cell to end within {BLOCK_BYTES // 2} bytes"
            )
        self._pending[:0] = lines


def decode_block(block: bytes, line: int) -> str:
    """Decode a block.

    Args:
        block: whole lines.
        line: number of the first line.

    Raises:
        ClientError: the block is not UTF-8.
    """
    try:
        return block.decode()
    except UnicodeDecodeError as error:
        number = line + block.count(b"\n", 0, error.start)
        raise ClientError(f"line {number}: expected UTF-8, got byte {block[error.start]}") from None
