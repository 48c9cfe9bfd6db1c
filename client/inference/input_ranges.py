"""Values not seen in training: out of range, unseen categories, or missing.

The model predicts them like any others, but with unknown quality, so they are counted or refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from client.codecs.batches import Call
from client.errors import ClientError
from client.serving.columns import Column
from client.serving.columns.base import MISSING_INTEGER
from client.serving.schema import Schema
from client.serving.tensors import Array

_INTEGER = re.compile(r"-?\d{1,19}", re.ASCII)
OUT_OF_RANGE, UNSEEN, MISSING = "out of range", "unseen", "missing"


class Finding(NamedTuple):
    """Values of one kind in one column.

    Attributes:
        kind: `OUT_OF_RANGE`, `UNSEEN` or `MISSING`.
        column: the column's name.
        rows: indexes of the rows that hold them.
        expected: the values seen in training.
        value: the value in the first of the rows.
    """

    kind: str
    column: str
    rows: Array
    expected: str
    value: object

    def error(self, rows_before: int = 0) -> ClientError:
        """Return the error for the first of these values."""
        where = f'row {rows_before + int(self.rows[0]) + 1}, column "{self.column}"'
        value = self.value
        if self.kind == MISSING:
            return ClientError(f"{where}: expected a value, got none")
        if isinstance(value, bytes):
            text = value[:40].decode(errors="replace")
            return ClientError(f'{where}: expected {self.expected}, got the string "{text}"')
        return ClientError(f"{where}: expected {self.expected}, as in training, got {value}")


class _NumberCheck:
    """A check of the numeric columns that an input holds side by side."""

    def __init__(self, name: str, columns: tuple[Column, ...]) -> None:
        # Non-numeric columns have no range.
        ranges = [column.range for column in columns]
        self._is_numeric = np.array([bounds is not None for bounds in ranges])
        self.name = name
        self.columns = columns
        self._low = np.array([-np.inf if bounds is None else bounds[0] for bounds in ranges])
        self._high = np.array([np.inf if bounds is None else bounds[1] for bounds in ranges])
        self._bounds: dict[np.dtype[np.generic], tuple[Array, Array]] = {}

    def bounds(self, dtype: np.dtype[np.generic]) -> tuple[Array, Array]:
        """Return the minimums and maximums in the precision of a dtype."""
        if dtype.kind != "f":
            return self._low, self._high
        bounds = self._bounds.get(dtype)
        if bounds is None:
            with np.errstate(over="ignore"):
                bounds = self._bounds[dtype] = self._low.astype(dtype), self._high.astype(dtype)
        return bounds

    def find(self, values: Array) -> Iterator[Finding]:
        """Yield the values that are out of range or missing, by column."""
        width = len(self.columns)
        if values.dtype.kind not in "fiu" or values.ndim not in (1, 2):
            return
        if values.size != len(values) * width:
            return  # the server will reject it
        values = values.reshape(-1, width)
        low, high = self.bounds(values.dtype)
        outside = ~((values >= low) & (values <= high))
        outside &= self._is_numeric
        if not outside.any():
            return
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros_like(outside)
        for index in np.flatnonzero(outside.any(axis=0)).tolist():
            column, cells = self.columns[index], values[:, index]
            show = column.format_number if column.expected else str
            bounds = f"from {show(low[index])} to {show(high[index])}"
            expected = f"{column.expected or 'a number'} {bounds}"
            imputed = missing[:, index] & (column.missing or column.mode is not None)
            for kind, mask in ((MISSING, imputed), (OUT_OF_RANGE, outside[:, index] & ~imputed)):
                rows = np.flatnonzero(mask)
                if len(rows):
                    yield Finding(kind, column.name, rows, expected, show(cells[rows[0]]))


class _CategoryCheck:
    """A check of a column of categories, one value per row."""

    def __init__(self, name: str, column: Column) -> None:
        self.name = name
        self._column = column
        self._texts = {text.encode() for text in column.vocabulary} | {b""}
        self._integers = {int(t) for t in column.vocabulary if _INTEGER.fullmatch(t)}
        self._integers.add(MISSING_INTEGER)

    def find(self, values: Array) -> Iterator[Finding]:
        """Yield the values that are unseen or missing."""
        if values.ndim != 1 or values.dtype.kind not in "Oi":
            return
        if values.dtype == np.int8 and self._column.kind == "boolean":
            missing = np.flatnonzero(values < 0)
            if len(missing):
                yield Finding(MISSING, self._column.name, missing, "true or false", None)
            return
        is_text = values.dtype.kind == "O"
        known, missing_value = (self._texts, b"") if is_text else (self._integers, MISSING_INTEGER)
        cells = values.tolist()
        if known.issuperset(cells) and missing_value not in cells:
            return
        for kind, rows in (
            (MISSING, [i for i, cell in enumerate(cells) if cell == missing_value]),
            (UNSEEN, [i for i, cell in enumerate(cells) if cell not in known]),
        ):
            if rows:
                indexes = np.array(rows)
                yield Finding(kind, self._column.name, indexes, self._expected(), cells[rows[0]])

    def _expected(self) -> str:
        values = ", ".join(self._column.vocabulary[:10])
        more = ", ..." if len(self._column.vocabulary) > 10 else ""
        return f"one of {values}{more}"


def find(call: Call, schema: Schema) -> list[Finding]:
    """Return the values of a call that were not seen in training."""
    return [
        finding
        for check in _checks(schema, call.signature_name)
        if (values := call.inputs.get(check.name)) is not None
        for finding in check.find(values)
    ]


def refuse(findings: list[Finding], *kinds: str, rows_before: int = 0) -> None:
    """Raise an error for the first value of the given kinds.

    Args:
        findings: the findings of a call.
        kinds: the kinds to refuse.
        rows_before: number of the request's rows in earlier calls.

    Raises:
        ClientError: a value is of one of these kinds; the message has the row, the column, the
            value and what was expected.
    """
    refused = [finding for finding in findings if finding.kind in kinds]
    if refused:
        raise min(refused, key=lambda finding: int(finding.rows[0])).error(rows_before)


def affected_rows(findings: list[Finding], *kinds: str) -> list[int]:
    """Return the indexes of the rows with values of the given kinds, in order."""
    return sorted({int(row) for f in findings if f.kind in kinds for row in f.rows})


def count(findings: list[Finding], kind: str) -> Mapping[str, int]:
    """Return how many values of one kind there are, by column."""
    return {f.column: len(f.rows) for f in findings if f.kind == kind}


def _checks(schema: Schema, signature_name: str) -> tuple[_NumberCheck | _CategoryCheck, ...]:
    checks: tuple[_NumberCheck | _CategoryCheck, ...] | None = schema.derived.get(
        (find, signature_name)
    )
    columns_by_input = schema.input_columns.get(signature_name)
    if checks is not None or columns_by_input is None:
        return checks or ()
    created: list[_NumberCheck | _CategoryCheck] = []
    for name, columns in columns_by_input.items():
        if any(column.range is not None for column in columns):
            created.append(_NumberCheck(name, tuple(columns)))
        elif len(columns) == 1 and columns[0].vocabulary:
            created.append(_CategoryCheck(name, columns[0]))
    checks = schema.derived[find, signature_name] = tuple(created)
    return checks
