"""Responses as JSON, and as lines of JSON."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from client.codecs.json_outputs import encode_objects, encode_rows
from client.codecs.tables.options import ERROR, TableOptions
from client.codecs.tables.rows import TableRows
from client.codecs.tables.values import checked, spread
from client.errors import ClientError
from client.serving.tensors import Array

# Limit for the names of copied columns in the rows of a call, each of which repeats them.
MAX_NAME_BYTES = 128 * 2**20


class NdjsonWriter:
    """Writes each row as a line: an object with a value for each output."""

    can_report_errors = True

    def write(self, rows: TableRows, outputs: Mapping[str, Array]) -> bytes:
        """Return the lines for some rows.

        Raises:
            ClientError: the outputs do not have a value for each row, or have no JSON form.
        """
        return b"".join([text + b"\n" for text in _objects(rows, outputs)])

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
        beginning: bytes = b'{"predictions":[',
        separator: bytes = b",",
        ending: bytes = b"]}\n",
    ) -> None:
        self._as_objects = options.passes_columns or options.errors_in_rows
        self._before = beginning
        self._separator = separator
        self._ending = ending

    def write(self, rows: TableRows, outputs: Mapping[str, Array]) -> bytes:
        """Return the JSON for some rows.

        Raises:
            ClientError: the outputs do not have a value for each row, or have no JSON form.
        """
        texts = _objects(rows, outputs) if self._as_objects else encode_rows(checked(outputs))
        before, self._before = self._before, self._separator
        return before + self._separator.join(texts)

    def end(self) -> bytes:
        """Return the end of the document."""
        return self._ending


def _objects(rows: TableRows, outputs: Mapping[str, Array]) -> list[bytes]:
    """Return the JSON object of each row: copied columns, and outputs or an error."""
    texts = list(spread(encode_objects(checked(outputs)), rows, b""))
    for index, message in rows.errors.items():
        texts[index] = orjson.dumps({ERROR: message})
    if not rows.kept:
        return texts
    keys = [orjson.dumps(name) + b":" for name in rows.kept]
    if rows.count * sum(map(len, keys)) > MAX_NAME_BYTES:
        raise ClientError(
            f"the names of the copied columns take more than {MAX_NAME_BYTES} bytes in "
            f"{rows.count} rows; keep fewer columns, or request another type with Accept",
            413,
        )
    before = [b"{"] * rows.count
    for key, values in zip(keys, rows.kept.values(), strict=True):
        before = [
            b + key + orjson.dumps(value) + b"," for b, value in zip(before, values, strict=True)
        ]
    return [b + text[1:] for b, text in zip(before, texts, strict=True)]
