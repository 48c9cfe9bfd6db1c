"""Files of rows to files of predictions, in calls of bounded size."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click
import orjson

from client.codecs import Call
from client.codecs.tables import (
    ARROW,
    CSV,
    NDJSON,
    NPY,
    TableLayout,
    TableWriter,
    table_reader,
    table_writer,
)
from client.codecs.tables.layout import ROWS_PER_CALL, Place
from client.codecs.tables.ndjson import JsonWriter, call_of_rows
from client.errors import ClientError
from client.http.messages import JSON
from client.serving.client import ServingClient, Target
from client.serving.schema import Schema

CHUNK_BYTES = 2**18

FORMATS = {"csv": CSV, "json": JSON, "ndjson": NDJSON, "arrow": ARROW, "npy": NPY}
_SUFFIXES = {f".{name}": kind for name, kind in FORMATS.items()} | {
    ".jsonl": NDJSON,
    ".arrows": ARROW,
}
_BEGINNINGS = {b"\x93NUMPY": NPY, b"\xff\xff\xff\xff": ARROW}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def predict_file(
    server: ServingClient, target: Target, path: Path, file_format: str | None
) -> None:
    """Predict a file's rows and write the answer to standard output, in the same form.

    A file of any size passes in little memory; only JSON is read as a whole.

    Args:
        server: the model server to ask.
        target: the model, and the version if one is asked for.
        path: the file; `-` is standard input.
        file_format: one of `FORMATS`; None tells it by the file's name, or else its beginning.

    Raises:
        ClientError: a row is wrong, or the server cannot answer; the message names the line. Rows
            before it may have been answered.
        OSError: the file cannot be read.
    """
    if str(path) == "-":
        _predict(server, target, sys.stdin.buffer, FORMATS.get(file_format or ""), None)
        return
    kind = FORMATS[file_format] if file_format else _SUFFIXES.get(path.suffix.lower())
    with path.open("rb") as file:
        _predict(server, target, file, kind, path.stat().st_size)


def _predict(
    server: ServingClient, target: Target, file: BinaryIO, kind: str | None, size: int | None
) -> None:
    head = file.read(CHUNK_BYTES)
    kind = kind or _guessed(head)
    out = sys.stdout.buffer
    with click.progressbar(
        _nothing(),
        length=size or None,  # of what has no known length no share is shown
        label="predict",
        file=sys.stderr,
        hidden=len(head) < CHUNK_BYTES,
    ) as bar:

        def chunks() -> Iterator[bytes]:
            chunk = head
            while chunk:
                yield chunk
                bar.update(len(chunk))
                chunk = file.read(CHUNK_BYTES)

        schema = server.schema(target)
        if kind == JSON:
            layout, calls = _json_calls(b"".join(chunks()), schema)
            writer: TableWriter = JsonWriter(b"[\n", b",\n", b"\n]\n")
        else:
            layout = TableLayout.of(schema)
            calls = _table_calls(kind, layout, chunks())
            writer = table_writer(kind)
        for call in calls:
            prediction = server.predict(
                target,
                call.inputs,
                signature_name=call.signature_name,
                signature=schema.signatures[call.signature_name],
            )
            if prediction.version != schema.version:
                schema = _followed(server, target, layout, schema)
            out.write(writer.write(prediction.outputs))
        out.write(writer.end())
        out.flush()


def _guessed(head: bytes) -> str:
    """Tell a file's form by its beginning."""
    for beginning, kind in _BEGINNINGS.items():
        if head.startswith(beginning):
            return kind
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if text[:1] == b"{":
        try:
            first = orjson.loads(text.partition(b"\n")[0])
        except orjson.JSONDecodeError:
            return JSON
        return JSON if "instances" in first else NDJSON
    return JSON if text[:1] == b"[" else CSV


def _table_calls(kind: str, layout: TableLayout, chunks: Iterator[bytes]) -> Iterator[Call]:
    reader = table_reader(kind, layout)
    for chunk in chunks:
        yield from reader.feed(chunk)
    yield from reader.finish()


def _json_calls(data: bytes, schema: Schema) -> tuple[TableLayout, Iterator[Call]]:
    """Read a list of rows, or `{"instances": [row, …], "signature_name": …}`."""
    try:
        body = orjson.loads(data.removeprefix(_BYTE_ORDER_MARK))
    except orjson.JSONDecodeError as error:
        raise ClientError(f"not JSON: {error}") from error
    wrapped = body if isinstance(body, dict) else {"instances": body}
    rows, name = wrapped.get("instances"), wrapped.get("signature_name", "")
    if not isinstance(rows, list) or wrapped.keys() - {"instances", "signature_name"}:
        raise ClientError(
            'expected a list of rows or {"instances": [row, ...]}, '
            'with "signature_name" if another signature than the default is meant'
        )
    if not isinstance(name, str):
        raise ClientError("signature_name: expected a string")
    if not rows:
        raise ClientError("expected at least one row, got none")
    layout = TableLayout.of(schema, name)

    def calls() -> Iterator[Call]:
        for start in range(0, len(rows), ROWS_PER_CALL):
            some = rows[start : start + ROWS_PER_CALL]
            yield call_of_rows(some, layout, _place(start))

    return layout, calls()


def _place(start: int) -> Place:
    return lambda index: f"instances[{start + index}]"


def _nothing() -> Iterator[int]:
    yield from ()


def _followed(server: ServingClient, target: Target, layout: TableLayout, old: Schema) -> Schema:
    """Return the schema of the version that answers now, if it reads the rows as they were read."""
    new = server.schema(target)
    if not layout.holds_for(new):
        raise ClientError(
            f"version {old.version} of the model gave way to version {new.version}, which reads "
            "rows in another way; start again, or ask for one with --version"
        )
    return new
