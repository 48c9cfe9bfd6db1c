"""Tables: bodies of many rows in binary or text, and the responses to them.

Tables are read incrementally, so memory use does not grow with their size:

    options = TableOptions.from_query(query)
    layout = TableLayout.from_schema(schema, options.signature_name, options.outputs)
    reader = table_reader(request_type, layout, options)
    writer = table_writer(negotiate(accept, request_type), options)
    for chunk in body:
        for rows in reader.feed(chunk):
            send(writer.write(rows, predict(rows.call)))
    ...  # the same with reader.finish()
    send(writer.end())

The status cannot change once part of the response has been sent. If `writer.can_report_errors`, a
last line `{"error": ...}` reports the error; in other formats responses are held until complete.

A table is read for one version of the model. If another version answers, continue only if
`reader.layout.is_compatible_with` its schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from client.codecs.content_types import (
    ARROW,
    CSV,
    NDJSON,
    NPY,
    READABLE,
    TSV,
    WRITABLE,
    is_table,
    media_type,
    negotiate,
)
from client.codecs.response import JSON
from client.codecs.tables.csv_reader import CsvReader
from client.codecs.tables.csv_writer import CsvWriter
from client.codecs.tables.json_writers import JsonWriter, NdjsonWriter
from client.codecs.tables.layout import TableLayout
from client.codecs.tables.ndjson import NdjsonReader
from client.codecs.tables.npy_reader import NpyReader
from client.codecs.tables.npy_writer import NpyWriter
from client.codecs.tables.options import TableOptions
from client.codecs.tables.rows import TableRows
from client.errors import ClientError
from client.serving.tensors import Array

__all__ = [
    "ARROW",
    "CSV",
    "NDJSON",
    "NPY",
    "READABLE",
    "TSV",
    "WRITABLE",
    "TableLayout",
    "TableOptions",
    "TableReader",
    "TableRows",
    "TableWriter",
    "is_table",
    "media_type",
    "negotiate",
    "table_reader",
    "table_writer",
]

TAB = "\t"


class TableReader(Protocol):
    """Reads a table incrementally."""

    layout: TableLayout

    @property
    def ignored_columns(self) -> tuple[str, ...]:
        """Names of unused columns; known once the header has been read."""

    def feed(self, chunk: bytes) -> Iterator[TableRows]:
        """Add bytes, and yield the complete rows.

        Raises:
            ClientError: a row cannot be read; the message has the line or the row, and the column.
        """

    def finish(self) -> Iterator[TableRows]:
        """Yield the remaining rows.

        Raises:
            ClientError: as in `feed`, or the table is truncated or has no rows.
        """


class TableWriter(Protocol):
    """Writes a response incrementally.

    Attributes:
        can_report_errors: whether the format allows an error in a last line.
    """

    can_report_errors: bool

    def write(self, rows: TableRows, outputs: Mapping[str, Array]) -> bytes:
        """Return the bytes, possibly none, for some rows and the outputs of their call.

        Raises:
            ClientError: the format cannot represent the outputs.
        """

    def end(self) -> bytes:
        """Return the last bytes of the response."""


def table_reader(content_type: str, layout: TableLayout, options: TableOptions) -> TableReader:
    """Return a reader of tables of one media type.

    Raises:
        ClientError: 415, the type is not in `READABLE`; 400, it cannot hold the model's inputs.
    """
    if content_type == CSV:
        return CsvReader(layout, options)
    if content_type == TSV:
        return CsvReader(layout, options, TAB)
    if content_type == NDJSON:
        return NdjsonReader(layout, options)
    if content_type == NPY:
        return NpyReader(layout, options)
    if content_type == ARROW:
        # Imported when first needed: most workers never see an Arrow table.
        from client.codecs.tables.arrow.reader import ArrowReader

        return ArrowReader(layout, options)
    raise ClientError(
        f'Content-Type: expected one of {JSON}, {", ".join(READABLE)}, got "{content_type[:100]}"',
        415,
    )


def table_writer(content_type: str, options: TableOptions) -> TableWriter:
    """Return a writer of responses of one media type.

    Raises:
        ClientError: 406, the type is not in `WRITABLE`, or does not support the options.
    """
    if content_type == JSON:
        return JsonWriter(options)
    if content_type == CSV:
        return CsvWriter(options)
    if content_type == TSV:
        return CsvWriter(options, TAB)
    if content_type == NDJSON:
        return NdjsonWriter()
    if content_type == NPY:
        return NpyWriter(options)
    if content_type == ARROW:
        from client.codecs.tables.arrow.writer import ArrowWriter

        return ArrowWriter(options)
    raise ClientError(f'Accept: expected one of {", ".join(WRITABLE)}, got "{content_type}"', 406)
