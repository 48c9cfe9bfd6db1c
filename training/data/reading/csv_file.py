"""CSV files, read in chunks of whole records."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import BinaryIO

from training.data.reading import streams
from training.data.reading.csv_chunk import Chunk, Layout
from training.data.reading.csv_header import INDEX_NAME, read_beginning, read_header
from training.data.reading.formats import HEAD_BYTES
from training.data.reading.part import ROWS_PER_PART, File, Parsers, Part
from training.data.reading.quotes import QuoteError, whole_records
from training.errors import DataError, EmptyFileError

CHUNK_BYTES = 8 << 20
# A quoted field longer than this probably has an unclosed quote.
MAX_RECORD_BYTES = 64 << 20
csv.field_size_limit(MAX_RECORD_BYTES)
REMOVE_QUOTE = (
    'remove the quote, or put the whole field in quotes and double those inside it: "5"" pipe"'
)


class CsvFile(File):
    """A CSV file with a header."""

    def __init__(
        self,
        name: str,
        stream: BinaryIO | None = None,
        constants: Mapping[str, str] | None = None,
    ) -> None:
        """Read the file's beginning.

        Args:
            name: its path, or a name for the stream.
            stream: UTF-8, read once instead of the path.
            constants: columns in the file's path, with their one value.

        Raises:
            DataError: it cannot be read, or does not begin with a header.
        """
        self.name = name
        self.constants = constants or {}
        self._chunks: Iterator[Chunk] | None = None
        chunks = self._read_chunks(stream)
        head = next(chunks, None)
        if head is None:
            raise EmptyFileError(f"{name}: expected a header and rows, found nothing")
        header = head.layout.columns
        self.columns = (*header, *self.constants)
        self.separator = head.layout.separator
        self.is_stream = stream is not None
        if INDEX_NAME.fullmatch(header[0]):
            self.left_out = {header[0]: "index of pandas or R, a first column without a name"}
        # A stream cannot be read again. For files keep nothing: there may be thousands.
        self._head: Chunk | None = None
        if stream is not None:
            self._head, self._chunks = head, chain([head], chunks)

    def head(self) -> Part:
        """Return the first rows as text."""
        part = (self._head or next(self._read_chunks(None))).as_texts()
        return replace(part, frame=part.frame[:ROWS_PER_PART])

    def parts(self, parsers: Parsers) -> Iterator[Callable[[], Part]]:
        """Yield a function for each part, which reads it."""
        for chunk in self._chunks or self._read_chunks(None):
            yield partial(chunk.load, parsers)

    def _read_chunks(self, stream: BinaryIO | None) -> Iterator[Chunk]:
        """Cut the file into chunks of whole records."""
        source = stream or streams.opened(self.name)
        with streams.reading(self.name), source as file:
            head = _first_bytes(file)
            if not head.strip():
                return
            beginning = read_beginning(head, whole=len(head) < HEAD_BYTES)
            line, separator = beginning.line, beginning.separator
            body = io.BufferedReader(streams.Rewound(head[beginning.start :], file))
            layout: Layout | None = None
            rest = b""
            while True:
                more = body.read(CHUNK_BYTES)
                data = rest + more
                if not data:
                    return
                records, end = self._whole_records(data, separator, line, final=not more)
                rest = data[end:]
                if not records:
                    continue
                start = 0
                if layout is None:
                    columns, start = read_header(self.name, line, records, separator)
                    layout = Layout(self.name, columns, separator.decode(), self.constants)
                start = len(records) - len(records[start:].lstrip(b"\r\n"))
                if start < len(records):
                    first = line + records.count(b"\n", 0, start)
                    yield Chunk(layout, first, records[start:] if start else records)
                line += records.count(b"\n")

    def _whole_records(
        self, data: bytes, separator: bytes, line: int, final: bool
    ) -> tuple[bytes, int]:
        """Return whole records as RFC 4180, and where they end in the data.

        Raises:
            DataError: there is a NUL byte, a quote is wrong, or a record is too long.
        """
        zero = data.find(b"\0")
        if zero >= 0:
            line += data.count(b"\n", 0, zero)
            raise DataError(
                f"{self.name} line {line}: expected text, got a NUL byte; the file is damaged, or "
                "not a CSV file"
            )
        try:
            records, end = whole_records(data, separator, final)
            if not end and len(data) > MAX_RECORD_BYTES:
                whole_records(data, separator, final=True)
                raise DataError(
                    f"{self.name} line {line}: expected a record of at most "
                    f"{MAX_RECORD_BYTES >> 20} MB"
                )
        except QuoteError as error:
            first = line + data.count(b"\n", 0, error.opens)
            place = f"{self.name} line {first}: a quote opens a field here"
            if error.closes is None:
                raise DataError(f"{place} and is never closed; {REMOVE_QUOTE}") from None
            last = line + data.count(b"\n", 0, error.closes)
            text = data[error.closes : error.closes + 20].splitlines()[0].decode(errors="replace")
            where = "" if last == first else f" on line {last}"
            raise DataError(
                f"{place} and is closed{where} before {text!r}; {REMOVE_QUOTE}"
            ) from None
        return records, end


def _first_bytes(file: BinaryIO) -> bytes:
    """Return at least the first line, and enough to guess the separator."""
    head = b""
    while len(head) < HEAD_BYTES or b"\n" not in head[-HEAD_BYTES:]:
        more = file.read(HEAD_BYTES)
        if not more:
            break
        head += more
    return head
