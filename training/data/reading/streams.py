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

from training.data.reading.formats import TO_CSV, unsupported_format
from training.errors import DataError

BUFFER_BYTES = 64 << 10  # longer reads bypass the buffer
GZIP, BZIP2, XZ, ZSTANDARD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
ZIP = b"PK\x03\x04"
LINES_AT_A_TIME = 50_000
# UTF-32's mark begins with UTF-16's, so it is tested first.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ARROW_STREAM = b"\xff\xff\xff\xff"


class PrefixedStream(io.RawIOBase):
    """A stream preceded by bytes that were read from it."""

    def __init__(self, head: bytes, stream: IO[bytes], owner: object = None) -> None:
        """Prepend `head` to `stream`; keep `owner` alive, whose release would close the stream."""
        self._head, self._stream, self._owner = head, stream, owner

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        if not self._head:
            return cast(Any, self._stream).readinto(buffer) or 0
        count = min(len(buffer), len(self._head))
        buffer[:count], self._head = self._head[:count], self._head[count:]
        return count


class _IteratorStream(io.RawIOBase):
    """A stream over an iterator of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._chunk = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._chunk:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._chunk = chunk
        count = min(len(buffer), len(self._chunk))
        buffer[:count], self._chunk = self._chunk[:count], self._chunk[count:]
        return count


@contextmanager
def open_stream(name: str, stream: BinaryIO | None = None) -> Iterator[BinaryIO]:
    """Open a file, which may be compressed or encoded in UTF-16 or UTF-32.

    Args:
        name: its path, or a name for the stream.
        stream: read instead of the path.

    Raises:
        DataError: the file cannot be read.
    """
    with ExitStack() as stack, wrap_errors(name):
        raw = stack.enter_context(stream or Path(name).open("rb"))  # noqa: SIM115
        file = stack.enter_context(io.BufferedReader(cast(io.RawIOBase, raw), BUFFER_BYTES))
        content = _decompress(name, file, stack, is_path=stream is None)
        start = content.peek(4)[:4]
        encoding = next((e for mark, e in BYTE_ORDER_MARKS if start.startswith(mark)), None)
        if encoding is not None and start != ARROW_STREAM:
            content = _buffer(_transcode(name, content, encoding))
        yield content


@contextmanager
def wrap_errors(name: str) -> Iterator[None]:
    """Raise DataError for errors in reading a file."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name}: cannot be read: {reason}") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise DataError(f"{name}: cannot be read: {error}") from error


def _decompress(
    name: str, file: io.BufferedReader[io.RawIOBase], stack: ExitStack, is_path: bool
) -> io.BufferedReader[Any]:
    """Return the file's content as a stream with `peek`."""
    signature = file.peek(6)[:6]
    if signature.startswith(GZIP):
        return stack.enter_context(cast(Any, gzip.open(file)))
    if signature.startswith(BZIP2) and signature[3:4].isdigit():
        return stack.enter_context(cast(Any, bz2.open(file)))
    if signature.startswith(XZ):
        return stack.enter_context(cast(Any, lzma.open(file)))
    for prefix, description in ((ZSTANDARD, "compressed with Zstandard"), (ZIP, "a zip archive")):
        if signature.startswith(prefix) and not is_path:
            raise DataError(f"{name} is {description}; unpack it first, or name the file")
    if signature.startswith(ZSTANDARD):
        return _buffer(_read_zstandard(name))
    if signature.startswith(ZIP):
        return _open_zip_member(name, stack)
    return file


def _buffer(chunks: Iterator[bytes]) -> io.BufferedReader[Any]:
    return io.BufferedReader(_IteratorStream(chunks), BUFFER_BYTES)


def _read_zstandard(name: str) -> Iterator[bytes]:
    """Decompress with polars: Python has a module for it only from 3.14 on."""
    for frame in pl.scan_lines(name).collect_batches(chunk_size=LINES_AT_A_TIME, lazy=True):
        lines = frame.to_series().to_list()
        yield "\n".join([*lines, ""]).encode()


def _open_zip_member(name: str, stack: ExitStack) -> io.BufferedReader[Any]:
    archive = stack.enter_context(zipfile.ZipFile(name))
    names = archive.namelist()
    if "[Content_Types].xml" in names:
        raise unsupported_format(name, "an Excel workbook or another Office document", TO_CSV)
    if "mimetype" in names:
        raise unsupported_format(name, "an OpenDocument file", TO_CSV)
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
            f"{name}: expected one file in the zip archive, got {listing}; unpack it and name "
            "the file or the directory"
        )
    if members[0].flag_bits & 1:
        raise DataError(f"{name}: the zip archive is encrypted; unpack it first")
    try:
        member: Any = stack.enter_context(archive.open(members[0]))
    except NotImplementedError as error:
        raise DataError(f"{name}: {error}; unpack it first") from error
    return cast("io.BufferedReader[Any]", member)


def _transcode(name: str, stream: IO[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while data := stream.read(BUFFER_BYTES):
            yield decoder.decode(data).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise DataError(f"{name}: expected {encoding.upper()}, got {error}") from error
