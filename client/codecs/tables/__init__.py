"""Tables: bodies of many rows in binary or text, and the answers to them.

A table is read in pieces, so that one of any size passes in bounded memory:

    reader = table_reader(media_type(content_type), TableLayout.of(schema, signature_name, outputs))
    writer = table_writer(negotiate(accept, media_type(content_type)))
    for chunk in body:
        for call in reader.feed(chunk):
            send(writer.write(predict(call)))
    for call in reader.finish():
        send(writer.write(predict(call)))
    send(writer.end())

Whatever is wrong is a `ClientError`. Once something was sent, its status cannot be told any more:
where `writer.can_tell_errors`, a last line `{"error": …}` says what was wrong
(`application/x-ndjson`); in the other formats nobody could tell an error from a row, so an answer
is kept until it is whole.

A table is read as one version of the model wants it. If an answer comes from another version, go on
only if `reader.layout.holds_for` that one's schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from client.codecs import Call
from client.codecs.content_types import (
    ARROW,
    CSV,
    NDJSON,
    NPY,
    READABLE,
    WRITABLE,
    media_type,
    negotiate,
)
from client.codecs.tables.csv_table import CsvReader, CsvWriter
from client.codecs.tables.layout import TableLayout
from client.codecs.tables.ndjson import JsonWriter, NdjsonReader, NdjsonWriter
from client.codecs.tables.npy import NpyReader, NpyWriter
from client.errors import ClientError
from client.http.messages import JSON
from client.serving.tensors import Array

__all__ = [
    "ARROW",
    "CSV",
    "NDJSON",
    "NPY",
    "READABLE",
    "WRITABLE",
    "TableLayout",
    "TableReader",
    "TableWriter",
    "media_type",
    "negotiate",
    "table_reader",
    "table_writer",
]


class TableReader(Protocol):
    """Reads a table in pieces.

    Attributes:
        layout: as which it is read.
    """

    layout: TableLayout

    def feed(self, chunk: bytes) -> Iterator[Call]:
        """Take the next bytes, and give the calls for the rows that are whole.

        Raises:
            ClientError: it names the line or the row, and the column.
        """

    def finish(self) -> Iterator[Call]:
        """Give the calls for what is left.

        Raises:
            ClientError: as in `feed`, or the table is cut short, or there was no row at all.
        """


class TableWriter(Protocol):
    """Writes an answer in pieces.

    Attributes:
        can_tell_errors: whether a reader of the answer would notice a line that is an error.
    """

    can_tell_errors: bool

    def write(self, outputs: Mapping[str, Array]) -> bytes:
        """Return the bytes for the outputs of one call, which may be none.

        Raises:
            ClientError: the outputs have no form in this type.
        """

    def end(self) -> bytes:
        """Return the bytes that close the answer."""


def table_reader(content_type: str, layout: TableLayout) -> TableReader:
    """Return a reader of tables of one media type.

    Raises:
        ClientError: 415, it is none of `READABLE`; 400, the model's inputs do not fit into it.
    """
    if content_type == CSV:
        return CsvReader(layout)
    if content_type == NDJSON:
        return NdjsonReader(layout)
    if content_type == NPY:
        return NpyReader(layout)
    if content_type == ARROW:
        # Loaded when it is first needed: most workers never see a table.
        from client.codecs.tables.arrow.reader import ArrowReader

        return ArrowReader(layout)
    raise ClientError(
        f'Content-Type: expected one of {JSON}, {", ".join(READABLE)}, got "{content_type[:100]}"',
        415,
    )


def table_writer(content_type: str) -> TableWriter:
    """Return a writer of answers of one media type, as `negotiate` has found it.

    Raises:
        ClientError: 406, it is none of `WRITABLE`.
    """
    if content_type == JSON:
        return JsonWriter()
    if content_type == CSV:
        return CsvWriter()
    if content_type == NDJSON:
        return NdjsonWriter()
    if content_type == NPY:
        return NpyWriter()
    if content_type == ARROW:
        from client.codecs.tables.arrow.writer import ArrowWriter

        return ArrowWriter()
    raise ClientError(f'Accept: expected one of {", ".join(WRITABLE)}, got "{content_type}"', 406)
