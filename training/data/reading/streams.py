"""Files as streams of UTF-8: decompressed, and transcoded from UTF-16."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import polars as pl

from training.data.reading.formats import TO_CSV, refused
from training.errors import DataError

BUFFER_BYTES = 64 << 10  # longer reads go past the buffer, without a copy
GZIP, BZIP2, XZ, ZSTANDARD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
ZIP = b"PK\x03\x04"
LINES_AT_A_TIME = 50_000
# UTF-32's mark begins with UTF-16's, so it goes first.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ARROW_STREAM = b"\xff\xff\xff\xff"


class Rewound(io.RawIOBase):
    """A stream with bytes put back before it."""

    def __init__(self, head: bytes, stream: IO[bytes], owner: object = None) -> None:
        """Put bytes back.

        Args:
            head: the bytes.
            stream: the rest.
            owner: kept alive, since releasing it would close the stream.
        """
        self._head, self._stream, self._owner = head, stream, owner

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, the bytes put back first."""
        if not self._head:
            return cast(Any, self._stream).readinto(buffer) or 0
        count = min(len(buffer), len(self._head))
        buffer[:count], self._head = self._head[:count], self._head[count:]
        return count


class _Generated(io.RawIOBase):
    """A stream over an iterator of bytes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._piece = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = piece
        count = min(len(buffer), len(self._piece))
        buffer[:count], self._piece = self._piece[:count], self._piece[count:]
        return count


@contextmanager
def opened(name: str, stream: BinaryIO | None = None) -> Iterator[BinaryIO]:
    """Open a file, which may be compressed or in UTF-16.

    Args:
        name: its path, or a name for the stream.
        stream: read instead of the path.

    Raises:
        DataError: it cannot be read.
    """
    with ExitStack() as stack, reading(name):
        raw = stack.enter_context(stream or Path(name).open("rb"))  # noqa: SIM115
        file = stack.enter_context(io.BufferedReader(cast(io.RawIOBase, raw), BUFFER_BYTES))
        unpacked = _decompressed(name, file, stack, path=stream is None)
        start = unpacked.peek(4)[:4]
        encoding = next((e for mark, e in BYTE_ORDER_MARKS if start.startswith(mark)), None)
        if encoding is not None and start != ARROW_STREAM:
            unpacked = _buffered(_transcoded(name, unpacked, encoding))
        yield unpacked


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn the errors of reading a file into DataError."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name}: cannot be read: {reason}") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise DataError(f"{name}: cannot be read: {error}") from error


def _decompressed(
    name: str, file: io.BufferedReader[io.RawIOBase], stack: ExitStack, path: bool
) -> io.BufferedReader[Any]:
    """Return the file's content as a stream that can be peeked into."""
    magic = file.peek(6)[:6]
    if magic.startswith(GZIP):
        return stack.enter_context(cast(Any, gzip.open(file)))
    if magic.startswith(BZIP2) and magic[3:4].isdigit():
        return stack.enter_context(cast(Any, bz2.open(file)))
    if magic.startswith(XZ):
        return stack.enter_context(cast(Any, lzma.open(file)))
    for start, what in ((ZSTANDARD, "compressed with Zstandard"), (ZIP, "a zip archive")):
        if magic.startswith(start) and not path:
            raise DataError(f"{name} is {what}; unpack it first, or name the file")
    if magic.startswith(ZSTANDARD):
        return _buffered(_zstandard_lines(name))
    if magic.startswith(ZIP):
        return _zip_member(name, stack)
    return file


def _buffered(pieces: Iterator[bytes]) -> io.BufferedReader[Any]:
    return io.BufferedReader(_Generated(pieces), BUFFER_BYTES)


def _zstandard_lines(name: str) -> Iterator[bytes]:
    """Decompress with polars: Python's own module is new in 3.14."""
    for frame in pl.scan_lines(name).collect_batches(chunk_size=LINES_AT_A_TIME, lazy=True):
        lines = frame.to_series().to_list()
        yield "\n".join([*lines, ""]).encode()


def _zip_member(name: str, stack: ExitStack) -> io.BufferedReader[Any]:
    archive = stack.enter_context(zipfile.ZipFile(name))
    names = archive.namelist()
    if "[Content_Types].xml" in names:
        raise refused(name, "an Excel workbook or another Office document", TO_CSV)
    if "mimetype" in names:
        raise refused(name, "an OpenDocument file", TO_CSV)
    members = [
        member
        for member in archive.infolist()
        if not member.is_dir()
        and not member.filename.startswith("__MACOSX/")
        and not Path(member.filename).name.startswith(".")
    ]
    if len(members) != 1:
        listing = ", ".join(member.filename for member in members[:5]) or "none"
        raise DataError(
            f"{name}: expected one file in the zip archive, got {listing}; unpack it, and give "
            "the file or the directory"
        )
    if members[0].flag_bits & 1:
        raise DataError(f"{name}: the zip archive is encrypted; unpack it first")
    try:
        member: Any = stack.enter_context(archive.open(members[0]))
    except NotImplementedError as error:
        raise DataError(f"{name}: {error}; unpack it first") from error
    return cast("io.BufferedReader[Any]", member)


def _transcoded(name: str, stream: IO[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while data := stream.read(BUFFER_BYTES):
            yield decoder.decode(data).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise DataError(f"{name}: expected {encoding.upper()}, got {error}") from error
