"""Responses as JSON and as newline-delimited JSON."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from client.codecs.json_outputs import encode_objects, encode_rows
from client.codecs.tables.options import ERROR, TableOptions
from client.codecs.tables.rows import TableRows
from client.codecs.tables.values import expand_to_rows, prepare_outputs
from client.errors import ClientError
from client.serving.tensors import Array

# Limit for the names of copied columns in the rows of one call; each row repeats them.
MAX_NAME_BYTES = 128 * 2**20


class NdjsonWriter:
    """Writes each row as a line: an object with a value for each output."""

    can_report_errors = True

    def write(self, rows: TableRows, outputs: Mapping[str, Array]) -> bytes:
        """Return the lines for some rows.

        Raises:
            ClientError: the outputs do not have a value for each row, or have no JSON form.
        """
        return b"".join([text + b"\n" for text in _encode_objects(rows, outputs)])

    def end(self) -> bytes:
        """Return nothing: lines of JSON have no end marker."""
        return b""


class JsonWriter:
    """Writes `{"predictions": [row, ...]}`, as TensorFlow Serving does.

    A row is an object, or the value of the only output if there is nothing else to write.
    """

    can_report_errors = False

    def __init__(
        self,
        options: TableOptions,
        prefix: bytes = b'{"predictions":[',
        separator: bytes = b",",
        suffix: bytes = b"]}\n",
    ) -> None:
        self._as_objects = options.passes_columns or options.errors_in_rows
        self._opening = prefix
        self._separator = separator
        self._suffix = suffix

    def write(self, rows: TableRows, outputs: Mapping[str, Array]) -> bytes:
        """Return the JSON for some rows.

        Raises:
            ClientError: the outputs do not have a value for each row, or have no JSON form.
        """
        texts = (
            _encode_objects(rows, outputs)
            if self._as_objects
            else encode_rows(prepare_outputs(outputs))
        )
        opening, self._opening = self._opening, self._separator
        return opening + self._separator.join(texts)

    def end(self) -> bytes:
        """Return the end of the document."""
        return self._suffix


def _encode_objects(rows: TableRows, outputs: Mapping[str, Array]) -> list[bytes]:
    """Return the JSON object of each row: copied columns, and outputs or an error."""
    texts = list(expand_to_rows(encode_objects(prepare_outputs(outputs)), rows, b""))
    for index, message in rows.errors.items():
        texts[index] = orjson.dumps({ERROR: message})
    if not rows.copied_columns:
        return texts
    keys = [orjson.dumps(name) + b":" for name in rows.copied_columns]
    if rows.count * sum(map(len, keys)) > MAX_NAME_BYTES:
        raise ClientError(
            f"the names of the copied columns take more than {MAX_NAME_BYTES} bytes in "
            f"{rows.count} rows; keep fewer columns, or request another type with Accept",
            413,
        )
    openings = [b"{"] * rows.count
    for key, values in zip(keys, rows.copied_columns.values(), strict=True):
        openings = [
            o + key + orjson.dumps(value) + b"," for o, value in zip(openings, values, strict=True)
        ]
    return [o + text[1:] for o, text in zip(openings, texts, strict=True)]
