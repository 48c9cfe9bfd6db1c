"""CSV files, read in chunks of whole lines."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl

from training.data.reading.part import (
    ROWS_PER_PART,
    File,
    Parsers,
    Part,
    converted,
    csv_dtypes,
    missing_marks,
)
from training.errors import DataError

CHUNK_BYTES = 8 << 20
# A field that is quoted over more than this is a quote that somebody forgot to close.
LONGEST_CHUNK_BYTES = 256 << 20
SEPARATORS = ",;\t|"
GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
csv.field_size_limit(LONGEST_CHUNK_BYTES)


class CsvFile(File):
    """A CSV file with a header, gzipped or not; the header tells the separator."""

    def __init__(self, name: str, stream: BinaryIO | None = None) -> None:
        """Look at the file's beginning.

        Args:
            name: its path, or what to call the stream.
            stream: read from it, once, in place of the path.

        Raises:
            DataError: it cannot be read, or does not begin with a header.
        """
        self.name = name
        self._chunks: Iterator[_Chunk] | None = None
        chunks = self._read_chunks(stream)
        head = next(chunks, None)
        if head is None:
            raise DataError(f"{name}: expected a header and rows, found nothing")
        self.columns = head.header
        self.separator = head.separator
        self.is_stream = stream is not None
        # A stream cannot be read again. Of a file nothing is kept: there may be thousands.
        self._head: _Chunk | None = None
        if stream is not None:
            self._head, self._chunks = head, chain([head], chunks)

    def head(self) -> Part:
        """Return the first rows as text."""
        chunk = self._head or next(self._read_chunks(None))
        return Part(chunk.as_texts()[:ROWS_PER_PART], chunk.place)

    def parts(self, parsers: Parsers) -> Iterator[Callable[[], Part]]:
        """Yield a function for each part, which reads it."""
        for chunk in self._chunks or self._read_chunks(None):
            yield _loader(chunk, parsers)

    def _read_chunks(self, stream: BinaryIO | None) -> Iterator[_Chunk]:
        """Cut the file into chunks of whole records."""
        with _opened(self.name, stream) as file:
            line = 1
            header: tuple[str, ...] | None = None
            separator = ","
            rest = b""
            while True:
                more = file.read(CHUNK_BYTES)
                data = rest + more
                cut = _end_of_records(data) if more else len(data)
                if not cut:
                    if not more:
                        return
                    if len(data) > LONGEST_CHUNK_BYTES:
                        raise DataError(f"{self.name} line {line}: a quote is never closed")
                    rest = data
                    continue
                if not more and data.count(b'"') % 2:
                    line += data.count(b"\n", 0, _end_of_records(data))
                    raise DataError(f"{self.name} line {line}: a quote is never closed")
                rest, data = data[cut:], data[:cut]
                if header is None:
                    start, separator, header = _read_header(self.name, data)
                    line += data.count(b"\n", 0, start)
                    data = data[start:]
                blank = len(data) - len(data.lstrip(b"\r\n"))
                line += data.count(b"\n", 0, blank)
                if blank < len(data):
                    yield _Chunk(self.name, line, header, separator, data[blank:])
                line += data.count(b"\n", blank)


class _Chunk:
    """Whole records of a CSV file, as bytes."""

    def __init__(
        self, name: str, line: int, header: tuple[str, ...], separator: str, data: bytes
    ) -> None:
        self.name = name
        self.line = line
        self.header = header
        self.separator = separator
        self.data = data

    def load(self, parsers: Parsers) -> Part:
        """Parse the columns that have a parser.

        Raises:
            DataError: the chunk is malformed, or a value is not of its column's kind.
        """
        try:
            frame = self._parse(csv_dtypes(self.header, parsers), parsers, missing_marks(parsers))
        except pl.exceptions.PolarsError:
            # Spaces around a number, or something wrong: slower, but this way can tell.
            return converted(Part(self.as_texts(), self.place), parsers)
        return converted(Part(self._without_blank_lines(frame), self.place), parsers)

    def as_texts(self) -> pl.DataFrame:
        """Parse all columns as text.

        Raises:
            DataError: the chunk is malformed.
        """
        try:
            frame = self._parse(dict.fromkeys(self.header, pl.String), self.header, [])
        except pl.exceptions.PolarsError as error:
            self._check_text()
            self._blank_records()
            reason = str(error).splitlines()[0]  # the others are for polars' callers
            raise DataError(f"{self.name}, from line {self.line} on: {reason}") from error
        return self._without_blank_lines(frame)

    def place(self, row: int) -> str:
        """Say where a row stands; only errors ask, so this may walk through the chunk."""
        records = (line for line, fields in self._records() if fields)
        return f"{self.name} line {next(line for i, line in enumerate(records) if i == row)}"

    def _parse(
        self,
        schema: Mapping[str, type[pl.DataType]],
        columns: Collection[str],
        missing: Sequence[str],
    ) -> pl.DataFrame:
        return pl.read_csv(
            self.data,
            has_header=False,
            schema=dict(schema),
            # The last one too: it tells whether a record is too short.
            columns=sorted({self.header.index(c) for c in columns} | {len(self.header) - 1}),
            separator=self.separator,
            null_values=list(missing),
        )

    def _without_blank_lines(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Drop the rows that polars makes of blank lines; it fills up short records silently."""
        if not frame[self.header[-1]].null_count():
            return frame  # each record has a last field
        separators = self.data.count(self.separator.encode())
        if b'"' not in self.data and separators == len(frame) * (len(self.header) - 1):
            return frame
        blank = self._blank_records()
        if not blank:
            return frame
        kept = pl.Series(range(len(frame))).is_in(blank).not_()
        return frame.filter(kept)

    def _blank_records(self) -> list[int]:
        """Return which records are blank lines.

        Raises:
            DataError: a record has too few or too many fields.
        """
        blank = []
        for index, (line, fields) in enumerate(self._records()):
            if not fields:
                blank.append(index)
            elif len(fields) != len(self.header):
                raise DataError(
                    f"{self.name} line {line}: expected {len(self.header)} fields like the header, "
                    f"got {len(fields)}"
                )
        return blank

    def _check_text(self) -> None:
        try:
            self.data.decode()
        except UnicodeDecodeError as error:
            line = self.line + self.data.count(b"\n", 0, error.start)
            byte = self.data[error.start]
            raise DataError(
                f"{self.name} line {line}: expected UTF-8, got the byte 0x{byte:02x}"
            ) from error

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each record's first line and its fields."""
        text = io.StringIO(self.data.decode(errors="replace"), newline="")
        reader = csv.reader(text, delimiter=self.separator)
        before = 0
        for fields in reader:
            yield self.line + before, fields
            before = reader.line_num


def _loader(chunk: _Chunk, parsers: Parsers) -> Callable[[], Part]:
    return lambda: chunk.load(parsers)


@contextmanager
def _opened(name: str, stream: BinaryIO | None) -> Iterator[BinaryIO]:
    """Open a file that may be gzipped.

    Raises:
        DataError: it cannot be read.
    """
    try:
        raw = stream or Path(name).open("rb")  # noqa: SIM115
        with raw, io.BufferedReader(cast(io.RawIOBase, raw), CHUNK_BYTES) as buffered:
            if buffered.peek(2)[:2] == GZIP_MAGIC:
                with gzip.open(buffered) as unzipped:
                    yield cast(BinaryIO, unzipped)
            else:
                yield buffered
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: cannot be read: {error}") from error


def _end_of_records(data: bytes) -> int:
    """Return where the last whole record ends: after a line break outside quotes."""
    end = data.rfind(b"\n") + 1
    odd = data.count(b'"', 0, end) % 2
    while end and odd:
        earlier = data.rfind(b"\n", 0, end - 1) + 1
        odd ^= data.count(b'"', earlier, end) % 2
        end = earlier
    return end


def _read_header(name: str, data: bytes) -> tuple[int, str, tuple[str, ...]]:
    """Return where the rows begin, the separator, and the names of the columns.

    Raises:
        DataError: the first line is no header.
    """
    begin = len(BYTE_ORDER_MARK) if data.startswith(BYTE_ORDER_MARK) else 0
    try:
        end = data.find(b"\n", begin) + 1 or len(data)
        while data.count(b'"', begin, end) % 2 and end < len(data):  # a line break in a name
            end = data.find(b"\n", end) + 1 or len(data)
        text = data[begin:end].decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{name} line 1: expected a CSV header in UTF-8, got {error}") from error
    separator = max(SEPARATORS, key=text.count)
    try:
        fields = next(csv.reader([text], delimiter=separator), [])
    except csv.Error as error:
        raise DataError(f"{name} line 1: expected lines that end in LF or CRLF") from error
    header = tuple(field.strip() for field in fields)
    if not any(header):
        raise DataError(f"{name} line 1: expected a header with the names of the columns")
    for index, column in enumerate(header):
        if not column:
            raise DataError(f"{name} line 1: column {index + 1} has no name")
        if header.index(column) != index:
            raise DataError(f"{name} line 1: two columns have the name {column!r}")
    if all(_is_number(column) for column in header):
        raise DataError(f"{name} line 1: expected the names of the columns, got numbers")
    return end, separator, header


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
