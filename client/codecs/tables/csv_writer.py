"""Responses as CSV or TSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from client.codecs.json_outputs import encode_column
from client.codecs.tables.options import ERROR, TableOptions
from client.codecs.tables.rows import TableRows
from client.codecs.tables.values import expand_to_rows, number_texts, prepare_outputs
from client.serving.columns.base import PLAIN_NUMBER, trim_cell
from client.serving.tensors import Array

# Spreadsheets evaluate text that begins with one of these as a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class CsvWriter:
    """Writes a header with the column names, and a line for each row.

    Outputs with several values per row, and strings that are not UTF-8, are JSON in a cell.
    """

    can_report_errors = False

    def __init__(self, options: TableOptions, separator: str = ",") -> None:
        self._options = options
        self._separator = separator.encode()
        self._special = frozenset(f'{separator}"\r\n')
        self._header_written = False

    def write(self, rows: TableRows, outputs: Mapping[str, Array]) -> bytes:
        """Return the lines of some rows; the first call also returns the header.

        Raises:
            ClientError: the outputs do not have a value for each row.
        """
        outputs = prepare_outputs(outputs)
        cells: list[Sequence[bytes]] = [
            list(map(self._encode_value, v)) for v in rows.copied_columns.values()
        ]
        for name, array in outputs.items():
            cells.append(expand_to_rows(self._encode_cells(name, array), rows, b""))
        names = [*rows.copied_columns, *outputs]
        if self._options.errors_in_rows:
            names.append(ERROR)
            cells.append([self._encode_value(rows.errors.get(i)) for i in range(rows.count)])
        lines = list(map(self._separator.join, zip(*cells, strict=True)))
        if not self._header_written:
            self._header_written = True
            lines.insert(0, self._separator.join(map(self._encode_text, names)))
        return b"".join([line + b"\n" for line in lines])

    def end(self) -> bytes:
        """Return nothing: CSV and TSV have no end marker."""
        return b""

    def _encode_cells(self, name: str, array: Array) -> list[bytes]:
        numbers = number_texts(array)
        if numbers is not None:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return [str(value).encode() for value in array]
            return numbers
        texts = encode_column(name, array)
        if array.ndim != 1:
            return [self._encode_text(text.decode()) for text in texts]
        # A string's JSON is a string, or an object if the bytes are not UTF-8.
        cells = {text: self._encode_text(_decode_json(text)) for text in set(texts)}
        return [cells[text] for text in texts]

    def _encode_value(self, value: Any) -> bytes:
        if value is None:
            return b""
        return self._encode_text(value if type(value) is str else orjson.dumps(value).decode())

    def _encode_text(self, text: str) -> bytes:
        if text.startswith(FORMULA_STARTS) and self._options.csv_guard and not _is_number(text):
            text = f"'{text}"
        if text and self._special.isdisjoint(text):
            return text.encode()
        # Quote empty strings too: a single empty cell without quotes would be an empty line.
        return b'"' + text.replace('"', '""').encode() + b'"'


def _is_number(text: str) -> bool:
    return PLAIN_NUMBER.fullmatch(trim_cell(text).replace(",", ".", 1)) is not None


def _decode_json(json_text: bytes) -> str:
    value = orjson.loads(json_text)
    return value if isinstance(value, str) else json_text.decode()
