"""CSV files, read in chunks of whole records."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO

from training.data.reading import streams
from training.data.reading.chunked_file import CHUNK_BYTES, ChunkedFile
from training.data.reading.csv_chunk import Chunk, CsvLayout
from training.data.reading.csv_header import INDEX_NAME, read_beginning, read_header
from training.data.reading.formats import HEAD_BYTES
from training.data.reading.part import ROWS_PER_PART, Parsers, Part
from training.data.reading.quotes import QuoteError, whole_records
from training.errors import DataError

# A quoted field longer than this probably has an unclosed quote.
MAX_RECORD_BYTES = 64 << 20
csv.field_size_limit(MAX_RECORD_BYTES)
REMOVE_QUOTE = (
    'remove the quote, or put the whole field in quotes and double those inside it: "5"" pipe"'
)


class CsvFile(ChunkedFile[Chunk]):
    """A CSV file with a header."""

    begins_with = "a header and rows"

    def head(self) -> Part:
        """Return the first rows as text."""
        part = self._first_chunk().as_texts()
        return replace(part, frame=part.frame[:ROWS_PER_PART])

    def parts(self, parsers: Parsers) -> Iterator[Callable[[], Part]]:
        """Yield, for each part, a function that reads it."""
        for chunk in self._all_chunks():
            yield partial(chunk.load, parsers)

    def _learn(self, first: Chunk) -> None:
        header = first.layout.columns
        self.columns = (*header, *self.constants)
        self.separator = first.layout.separator
        if INDEX_NAME.fullmatch(header[0]):
            self.left_out = {header[0]: "pandas or R index, a first column without a name"}

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
            layout: CsvLayout | None = None
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
                    layout = CsvLayout(self.name, columns, separator.decode(), self.constants)
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
