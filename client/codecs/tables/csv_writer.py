"""Responses as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from client.codecs.json_outputs import encode_column
from client.codecs.tables.options import ERROR, TableOptions
from client.codecs.tables.rows import TableRows
from client.codecs.tables.values import checked, number_texts, spread
from client.serving.columns.base import PLAIN_NUMBER, word_of
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
        self._has_header = False

    def write(self, rows: TableRows, outputs: Mapping[str, Array]) -> bytes:
        """Return the lines for some rows, after the header if they are the first.

        Raises:
            ClientError: the outputs do not have a value for each row.
        """
        outputs = checked(outputs)
        cells: list[Sequence[bytes]] = [list(map(self._cell, v)) for v in rows.kept.values()]
        for name, array in outputs.items():
            cells.append(spread(self._cells(name, array), rows, b""))
        names = [*rows.kept, *outputs]
        if self._options.errors_in_rows:
            names.append(ERROR)
            cells.append([self._cell(rows.errors.get(i)) for i in range(rows.count)])
        lines = list(map(self._separator.join, zip(*cells, strict=True)))
        if not self._has_header:
            self._has_header = True
            lines.insert(0, self._separator.join(map(self._text, names)))
        return b"".join([line + b"\n" for line in lines])

    def end(self) -> bytes:
        """Return nothing: CSV has no end marker."""
        return b""

    def _cells(self, name: str, array: Array) -> list[bytes]:
        numbers = number_texts(array)
        if numbers is not None:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return [str(value).encode() for value in array]
            return numbers
        texts = encode_column(name, array)
        if array.ndim != 1:
            return [self._text(text.decode()) for text in texts]
        # The JSON of a string is a string, or an object if it is not UTF-8.
        cells = {text: self._text(_string(text)) for text in set(texts)}
        return [cells[text] for text in texts]

    def _cell(self, value: Any) -> bytes:
        if value is None:
            return b""
        return self._text(value if type(value) is str else orjson.dumps(value).decode())

    def _text(self, text: str) -> bytes:
        if text.startswith(FORMULA_STARTS) and self._options.csv_guard and not _is_number(text):
            text = f"'{text}"
        if text and self._special.isdisjoint(text):
            return text.encode()
        # Quote empty strings too: a line of one unquoted empty cell would not be a row.
        return b'"' + text.replace('"', '""').encode() + b'"'


def _is_number(text: str) -> bool:
    return PLAIN_NUMBER.fullmatch(word_of(text).replace(",", ".", 1)) is not None


def _string(json_text: bytes) -> str:
    value = orjson.loads(json_text)
    return value if isinstance(value, str) else json_text.decode()
