"""Values not seen in training: out of range, unseen categories, or missing.

The model predicts them like any others, but with unknown quality. So they are counted, or rejected.
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


class _Numbers:
    """The numeric columns that an input holds side by side."""

    def __init__(self, name: str, columns: tuple[Column, ...]) -> None:
        # Non-numeric columns have no range.
        ranges = [column.range for column in columns]
        self.numeric = np.array([of is not None for of in ranges])
        self.name = name
        self.columns = columns
        self._low = np.array([-np.inf if of is None else of[0] for of in ranges])
        self._high = np.array([np.inf if of is None else of[1] for of in ranges])
        self._ends: dict[np.dtype[np.generic], tuple[Array, Array]] = {}

    def ends(self, dtype: np.dtype[np.generic]) -> tuple[Array, Array]:
        """Return the minimums and maximums in the precision of a dtype."""
        if dtype.kind != "f":
            return self._low, self._high
        ends = self._ends.get(dtype)
        if ends is None:
            with np.errstate(over="ignore"):
                ends = self._ends[dtype] = self._low.astype(dtype), self._high.astype(dtype)
        return ends

    def find(self, values: Array) -> Iterator[Finding]:
        """Yield values that are out of range or missing."""
        width = len(self.columns)
        if values.dtype.kind not in "fiu" or values.ndim not in (1, 2):
            return
        if values.size != len(values) * width:
            return  # the server will reject it
        values = values.reshape(-1, width)
        low, high = self.ends(values.dtype)
        outside = ~((values >= low) & (values <= high))
        outside &= self.numeric
        if not outside.any():
            return
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros_like(outside)
        for place in np.flatnonzero(outside.any(axis=0)).tolist():
            column, cells = self.columns[place], values[:, place]
            show = column.shown if column.expected else str
            ends = f"from {show(low[place])} to {show(high[place])}"
            expected = f"{column.expected or 'a number'} {ends}"
            none = missing[:, place] & (column.missing or column.mode is not None)
            for kind, mask in ((MISSING, none), (OUT_OF_RANGE, outside[:, place] & ~none)):
                rows = np.flatnonzero(mask)
                if len(rows):
                    yield Finding(kind, column.name, rows, expected, show(cells[rows[0]]))


class _Categories:
    """A column of categories, one value per row."""

    def __init__(self, name: str, column: Column) -> None:
        self.name = name
        self._column = column
        self._texts = {text.encode() for text in column.vocabulary} | {b""}
        self._integers = {int(t) for t in column.vocabulary if _INTEGER.fullmatch(t)}
        self._integers.add(MISSING_INTEGER)

    def find(self, values: Array) -> Iterator[Finding]:
        """Yield values that are unseen or missing."""
        if values.ndim != 1 or values.dtype.kind not in "Oi":
            return
        if values.dtype == np.int8 and self._column.kind == "boolean":
            missing = np.flatnonzero(values < 0)
            if len(missing):
                yield Finding(MISSING, self._column.name, missing, "true or false", None)
            return
        texts = values.dtype.kind == "O"
        known, none = (self._texts, b"") if texts else (self._integers, MISSING_INTEGER)
        cells = values.tolist()
        if known.issuperset(cells) and none not in cells:
            return
        for kind, rows in (
            (MISSING, [i for i, cell in enumerate(cells) if cell == none]),
            (UNSEEN, [i for i, cell in enumerate(cells) if cell not in known]),
        ):
            if rows:
                at = np.array(rows)
                yield Finding(kind, self._column.name, at, self._expected(), cells[rows[0]])

    def _expected(self) -> str:
        shown = ", ".join(self._column.vocabulary[:10])
        more = ", ..." if len(self._column.vocabulary) > 10 else ""
        return f"one of {shown}{more}"


def find(call: Call, schema: Schema) -> list[Finding]:
    """Return the values of a call that were not seen in training."""
    return [
        finding
        for check in _checks(schema, call.signature_name)
        if (values := call.inputs.get(check.name)) is not None
        for finding in check.find(values)
    ]


def refuse(findings: list[Finding], *kinds: str, rows_before: int = 0) -> None:
    """Raise an error for the first value of some kinds.

    Args:
        findings: the findings of a call.
        kinds: the kinds to reject.
        rows_before: number of the request's rows in earlier calls.

    Raises:
        ClientError: it names the row, the column, the value and what was expected.
    """
    refused = [finding for finding in findings if finding.kind in kinds]
    if refused:
        raise min(refused, key=lambda finding: int(finding.rows[0])).error(rows_before)


def rows_of(findings: list[Finding], *kinds: str) -> list[int]:
    """Return the indexes of the rows with values of some kinds, in order."""
    return sorted({int(row) for f in findings if f.kind in kinds for row in f.rows})


def count(findings: list[Finding], kind: str) -> Mapping[str, int]:
    """Return how many values of one kind there are, by column."""
    return {f.column: len(f.rows) for f in findings if f.kind == kind}


def _checks(schema: Schema, signature_name: str) -> tuple[_Numbers | _Categories, ...]:
    checks: tuple[_Numbers | _Categories, ...] | None = schema.derived.get((find, signature_name))
    described = schema.described.get(signature_name)
    if checks is not None or described is None:
        return checks or ()
    found: list[_Numbers | _Categories] = []
    for name, columns in described.items():
        if any(column.range is not None for column in columns):
            found.append(_Numbers(name, tuple(columns)))
        elif len(columns) == 1 and columns[0].vocabulary:
            found.append(_Categories(name, columns[0]))
    checks = schema.derived[find, signature_name] = tuple(found)
    return checks
