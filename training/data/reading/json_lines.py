"""JSON Lines: one object per line; its keys are the columns."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, BinaryIO

import polars as pl

from training.data.reading import streams
from training.data.reading.batch import (
    BATCH_ROWS,
    Parsers,
    RecordBatch,
    parse_columns,
    with_constants,
)
from training.data.reading.chunked_file import CHUNK_BYTES, ChunkedFile
from training.data.reading.formats import BYTE_ORDER_MARK
from training.errors import DataError

MAX_LINE_BYTES = 64 << 20


class JsonLinesFile(ChunkedFile["_JsonChunk"]):
    """A file of JSON objects; its columns are the keys of the first chunk."""

    expected_content = "JSON objects"

    def head(self) -> RecordBatch:
        """Return the first rows, with JSON's types."""
        chunk = self._first_chunk()
        frame = chunk.frame()[:BATCH_ROWS]
        return RecordBatch(with_constants(frame, self.constants), chunk.location)

    def batch_loaders(self, parsers: Parsers) -> Iterator[Callable[[], RecordBatch]]:
        """Yield, for each batch, a function that reads it."""
        for chunk in self._all_chunks():
            yield partial(chunk.load, parsers, self._keys, self.constants)

    def _set_columns(self, first: _JsonChunk) -> None:
        self._keys = tuple(first.frame().columns)
        self.columns = (*self._keys, *self.constants)

    def _read_chunks(self, stream: BinaryIO | None) -> Iterator[_JsonChunk]:
        with streams.wrap_errors(self.name), stream or streams.open_stream(self.name) as file:
            line, remainder = 1, b""
            while True:
                block = file.read(CHUNK_BYTES)
                data = remainder + block
                if not data:
                    return
                end = data.rfind(b"\n") + 1 if block else len(data)
                if not end and len(data) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{self.name} line {line}: expected a line of at most "
                        f"{MAX_LINE_BYTES >> 20} MB"
                    )
                remainder, data = data[end:], data[:end]
                newlines = data.count(b"\n")
                if line == 1:
                    data = data.removeprefix(BYTE_ORDER_MARK)
                if data.strip():
                    yield _JsonChunk(self.name, line, data)
                line += newlines


class _JsonChunk:
    """Whole lines."""

    def __init__(self, name: str, line: int, data: bytes) -> None:
        self.name, self.line, self.data = name, line, data

    def load(
        self, parsers: Parsers, keys: tuple[str, ...], constants: Mapping[str, str]
    ) -> RecordBatch:
        """Parse the columns that have a parser.

        Raises:
            DataError: a line is malformed, or a value is not of its column's kind.
        """
        frame = self.frame()
        for key in frame.columns:
            if key not in keys:
                line = next(line for line, record in self._parse_objects() if key in record)
                raise DataError(
                    f"{self.name} line {line}: the key {key!r} is not in the first lines; add it "
                    "to the first line with the value null"
                )
        nulls = [pl.lit(None).alias(key) for key in keys if key not in frame.columns]
        frame = with_constants(frame.with_columns(nulls), constants)
        return parse_columns(RecordBatch(frame, self.location, self.cell), parsers)

    def frame(self) -> pl.DataFrame:
        """Parse all keys.

        Raises:
            DataError: a line is malformed.
        """
        try:
            return pl.read_ndjson(io.BytesIO(self.data), infer_schema_length=None)
        except pl.exceptions.PolarsError:
            # NaN, values of several types under one key, or a malformed line.
            return self._parse_mixed()

    def location(self, row: int) -> str:
        """Return the location of a row, for errors."""
        return f"{self.name} line {self._parse_object(row)[0]}"

    def cell(self, row: int, key: str) -> str:
        """Return a value as JSON."""
        return json.dumps(self._parse_object(row)[1].get(key))

    def _parse_object(self, row: int) -> tuple[int, dict[str, Any]]:
        return next(islice(self._parse_objects(), row, None))

    def _parse_mixed(self) -> pl.DataFrame:
        records = [record for _, record in self._parse_objects()]
        keys = dict.fromkeys(key for record in records for key in record)
        return pl.DataFrame([_to_series(key, [r.get(key) for r in records]) for key in keys])

    def _parse_objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, text in enumerate(self.data.split(b"\n")):
            if not text.strip():
                continue
            location = f"{self.name} line {self.line + number}"
            try:
                record = json.loads(text)
            except UnicodeDecodeError as error:
                byte = text[error.start]
                raise DataError(f"{location}: expected UTF-8, got the byte 0x{byte:02x}") from error
            except ValueError as error:
                start = text[:40].decode(errors="replace")
                raise DataError(
                    f"{location}: expected a JSON object, got {start!r}: {error}"
                ) from error
            if not isinstance(record, dict):
                raise DataError(
                    f"{location}: expected a JSON object, got {json.dumps(record)[:40]}"
                )
            yield self.line + number, record


def _to_series(name: str, values: list[Any]) -> pl.Series:
    types = {type(value) for value in values if value is not None}
    if types <= {int, float}:
        return pl.Series(name, values, pl.Float64).fill_nan(None)
    if types <= {bool} or types <= {str}:
        return pl.Series(name, values)
    return pl.Series(name, [_to_text(value) for value in values], pl.String)


def _to_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
