"""Predictions for files, in calls of bounded size."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import click
import orjson

from client.codecs.json.arrays import describe
from client.codecs.response import JSON
from client.codecs.tables import (
    ARROW,
    CSV,
    NDJSON,
    NPY,
    TSV,
    TableLayout,
    TableOptions,
    TableRows,
    TableWriter,
    table_reader,
    table_writer,
)
from client.codecs.tables.json_writers import JsonWriter
from client.codecs.tables.layout import ROWS_PER_CALL, RowLocator
from client.codecs.tables.lines import BYTE_ORDER_MARK
from client.codecs.tables.ndjson import JsonRows
from client.errors import ClientError
from client.serving.client import ServingClient, Target
from client.serving.schema import Schema
from client.serving.tensors import Array

CHUNK_BYTES = 2**18

FORMATS = {"csv": CSV, "tsv": TSV, "json": JSON, "ndjson": NDJSON, "arrow": ARROW, "npy": NPY}
_SUFFIXES = {f".{name}": media_type for name, media_type in FORMATS.items()} | {
    ".jsonl": NDJSON,
    ".arrows": ARROW,
}
_MAGIC = {b"\x93NUMPY": NPY, b"\xff\xff\xff\xff": ARROW}
_GZIP = b"\x1f\x8b"


def predict_file(
    client: ServingClient,
    target: Target,
    path: Path,
    file_format: str | None,
    options: TableOptions,
) -> None:
    """Predict a file's rows and write the predictions to standard output in the same format.

    Memory use does not grow with the file, except for JSON, which is read at once.

    Args:
        client: a client of the model server.
        target: the model, and the version if one is selected.
        path: the file, which may be compressed with gzip; `-` is standard input.
        file_format: one of `FORMATS`; None to infer it from the file's name or first bytes.
        options: the caller's options.

    Raises:
        ClientError: a row is invalid, or the server cannot answer. Earlier rows may already have
            been written.
        OSError: the file cannot be read.
    """
    if str(path) == "-":
        media_type = FORMATS.get(file_format or "")
        _FilePredictor(client, target, options).run(sys.stdin.buffer, media_type, None)
        return
    suffix = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
    media_type = FORMATS[file_format] if file_format else _SUFFIXES.get(suffix.lower())
    with path.open("rb") as file:
        _FilePredictor(client, target, options).run(file, media_type, path.stat().st_size)


class _FilePredictor:
    """Predicts the rows of one file."""

    def __init__(self, client: ServingClient, target: Target, options: TableOptions) -> None:
        self._client = client
        self._target = target
        self._options = options
        self._schema = client.schema(target)

    def run(self, file: BinaryIO, media_type: str | None, size: int | None) -> None:
        """Read a file and write its predictions.

        Args:
            file: the file, open for reading.
            media_type: its media type, None if unknown.
            size: its length in bytes, None if unknown.
        """
        head = file.read(CHUNK_BYTES)
        with click.progressbar(
            iter(()),
            length=size or None,
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

            plain = _decompress(chunks()) if head.startswith(_GZIP) else chunks()
            first = next(plain, b"")
            self._write_predictions(media_type or _guess_type(first), chain((first,), plain))

    def _write_predictions(self, media_type: str, chunks: Iterator[bytes]) -> None:
        options, out = self._options, sys.stdout.buffer
        if media_type == JSON:
            layout, batches = _read_json(b"".join(chunks), self._schema, options)
            writer: TableWriter = JsonWriter(options, b"[\n", b",\n", b"\n]\n")
        else:
            layout = TableLayout.from_schema(self._schema, options.signature_name, options.outputs)
            batches = _read_table(media_type, layout, options, chunks)
            writer = table_writer(media_type, options)
        for rows in batches:
            out.write(writer.write(rows, self._predict(rows, layout)))
        out.write(writer.end())
        out.flush()

    def _predict(self, rows: TableRows, layout: TableLayout) -> Mapping[str, Array]:
        call = rows.call
        if call is None:
            return layout.empty_outputs()
        prediction = self._client.predict(
            self._target,
            call.inputs,
            signature_name=call.signature_name,
            signature=self._schema.signatures[call.signature_name],
            output_filter=call.output_filter,
        )
        if prediction.version != self._schema.version:
            self._follow(layout)
        return prediction.outputs

    def _follow(self, layout: TableLayout) -> None:
        """Continue with the version that answers now, if the table's layout fits it."""
        old, new = self._schema, self._client.schema(self._target)
        if not layout.is_compatible_with(new):
            raise ClientError(
                f"version {old.version} of the model was replaced by version {new.version}, which "
                "has other columns or outputs; start again, or select one with --version"
            )
        self._schema = new


def _decompress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress gzip data, which may have several members."""
    unzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        for chunk in chunks:
            while chunk:
                if unzip.eof:
                    unzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
                plain = unzip.decompress(chunk, CHUNK_BYTES)
                chunk = unzip.unconsumed_tail or unzip.unused_data
                if plain:
                    yield plain
    except zlib.error as error:
        raise ClientError(f"the gzip file is corrupt: {error}") from error
    if not unzip.eof:
        raise ClientError("the gzip file is truncated")


def _guess_type(head: bytes) -> str:
    """Guess a file's media type from its first bytes."""
    for magic, media_type in _MAGIC.items():
        if head.startswith(magic):
            return media_type
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    if text[:1] == b"{":
        try:
            first = orjson.loads(text.partition(b"\n")[0])
        except orjson.JSONDecodeError:
            return JSON
        return JSON if "instances" in first else NDJSON
    return JSON if text[:1] == b"[" else CSV


def _read_table(
    media_type: str, layout: TableLayout, options: TableOptions, chunks: Iterator[bytes]
) -> Iterator[TableRows]:
    reader = table_reader(media_type, layout, options)
    for chunk in chunks:
        yield from reader.feed(chunk)
    yield from reader.finish()
    if reader.ignored_columns:
        click.echo(f"ignored columns: {', '.join(reader.ignored_columns)}", err=True)


def _read_json(
    data: bytes, schema: Schema, options: TableOptions
) -> tuple[TableLayout, Iterator[TableRows]]:
    """Read a list of rows, or `{"instances": [row, ...], "signature_name": ...}`."""
    try:
        body = orjson.loads(data.removeprefix(BYTE_ORDER_MARK))
    except orjson.JSONDecodeError as error:
        raise ClientError(f"not JSON: {error}") from error
    document = body if isinstance(body, dict) else {"instances": body}
    rows, name = document.get("instances"), document.get("signature_name", options.signature_name)
    if not isinstance(rows, list) or document.keys() - {"instances", "signature_name"}:
        raise ClientError(
            'expected a list of rows or {"instances": [row, ...]}, '
            'with "signature_name" for a signature other than the default'
        )
    if not isinstance(name, str):
        raise ClientError(f"signature_name: expected a string, got {describe(name)}")
    if not rows:
        raise ClientError("expected at least one row, got none")
    layout = TableLayout.from_schema(schema, name, options.outputs)
    reader = JsonRows(layout, options, rows[0], "instances[0]: ")

    def batches() -> Iterator[TableRows]:
        for start in range(0, len(rows), ROWS_PER_CALL):
            yield reader.read(rows[start : start + ROWS_PER_CALL], _row_locator(start))

    return layout, batches()


def _row_locator(start: int) -> RowLocator:
    return lambda index: f"instances[{start + index}]"
