"""CSV files, read in chunks of whole records."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO

from training.data.reading import streams
from training.data.reading.batch import BATCH_ROWS, Parsers, RecordBatch
from training.data.reading.chunked_file import CHUNK_BYTES, ChunkedFile
from training.data.reading.csv_chunk import CsvChunk, CsvLayout
from training.data.reading.csv_header import INDEX_NAME, detect_dialect, read_header
from training.data.reading.formats import HEAD_BYTES
from training.data.reading.quotes import QuoteError, extract_records
from training.errors import DataError

# A quoted field longer than this probably has an unclosed quote.
MAX_RECORD_BYTES = 64 << 20
csv.field_size_limit(MAX_RECORD_BYTES)
REMOVE_QUOTE = (
    'remove the quote, or put the whole field in quotes and double those inside it: "5"" pipe"'
)


class CsvFile(ChunkedFile[CsvChunk]):
    """A CSV file with a header."""

    expected_content = "a header and rows"

    def head(self) -> RecordBatch:
        """Return the first rows as text."""
        batch = self._first_chunk().parse_as_text()
        return replace(batch, frame=batch.frame[:BATCH_ROWS])

    def batch_loaders(self, parsers: Parsers) -> Iterator[Callable[[], RecordBatch]]:
        """Yield, for each batch, a function that reads it."""
        for chunk in self._all_chunks():
            yield partial(chunk.load, parsers)

    def _set_columns(self, first: CsvChunk) -> None:
        header = first.layout.columns
        self.columns = (*header, *self.constants)
        self.separator = first.layout.separator
        if INDEX_NAME.fullmatch(header[0]):
            self.left_out = {header[0]: "pandas or R index, a first column without a name"}

    def _read_chunks(self, stream: BinaryIO | None) -> Iterator[CsvChunk]:
        """Cut the file into chunks of whole records."""
        source = stream or streams.open_stream(self.name)
        with streams.wrap_errors(self.name), source as file:
            head = _read_head(file)
            if not head.strip():
                return
            dialect = detect_dialect(head, is_complete=len(head) < HEAD_BYTES)
            line, separator = dialect.line, dialect.separator
            body = io.BufferedReader(streams.PrefixedStream(head[dialect.start :], file))
            layout: CsvLayout | None = None
            remainder = b""
            while True:
                block = body.read(CHUNK_BYTES)
                data = remainder + block
                if not data:
                    return
                records, end = self._extract_records(data, separator, line, final=not block)
                remainder = data[end:]
                if not records:
                    continue
                start = 0
                if layout is None:
                    columns, start = read_header(self.name, line, records, separator)
                    layout = CsvLayout(self.name, columns, separator.decode(), self.constants)
                start = len(records) - len(records[start:].lstrip(b"\r\n"))
                if start < len(records):
                    first = line + records.count(b"\n", 0, start)
                    yield CsvChunk(layout, first, records[start:] if start else records)
                line += records.count(b"\n")

    def _extract_records(
        self, data: bytes, separator: bytes, line: int, final: bool
    ) -> tuple[bytes, int]:
        """Return whole records as RFC 4180 and their length in the data.

        Raises:
            DataError: there is a NUL byte, a misplaced quote, or a record that is too long.
        """
        nul = data.find(b"\0")
        if nul >= 0:
            line += data.count(b"\n", 0, nul)
            raise DataError(
                f"{self.name} line {line}: expected text, got a NUL byte; the file is damaged, or "
                "not a CSV file"
            )
        try:
            records, end = extract_records(data, separator, final)
            if not end and len(data) > MAX_RECORD_BYTES:
                extract_records(data, separator, final=True)
                raise DataError(
                    f"{self.name} line {line}: expected a record of at most "
                    f"{MAX_RECORD_BYTES >> 20} MB"
                )
        except QuoteError as error:
            first = line + data.count(b"\n", 0, error.opening)
            message = f"{self.name} line {first}: a quote opens a field here"
            if error.closing is None:
                raise DataError(f"{message} and is never closed; {REMOVE_QUOTE}") from None
            last = line + data.count(b"\n", 0, error.closing)
            text = data[error.closing : error.closing + 20].splitlines()[0].decode(errors="replace")
            where = "" if last == first else f" on line {last}"
            raise DataError(
                f"{message} and is closed{where} before {text!r}; {REMOVE_QUOTE}"
            ) from None
        return records, end


def _read_head(file: BinaryIO) -> bytes:
    """Return at least the first line and enough to guess the separator."""
    head = b""
    while len(head) < HEAD_BYTES or b"\n" not in head[-HEAD_BYTES:]:
        block = file.read(HEAD_BYTES)
        if not block:
            break
        head += block
    return head
