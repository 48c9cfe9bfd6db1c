"""Numbers outside the range that their column had in training.

A model answers them as it answers any others, but nobody has measured how well. So they are
counted, or refused.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from client.codecs import Call
from client.errors import ClientError
from client.serving.schema import Column, Schema
from client.serving.tensors import Array


class _Range:
    """The columns that an input holds side by side, and what was seen of each.

    Attributes:
        name: the input's.
        columns: their names.
        missing: whether NaN is a missing value there; None if it is nowhere.
    """

    def __init__(self, name: str, columns: tuple[Column, ...]) -> None:
        # Of what is no number nothing is said, and nothing is outside of that.
        numeric = np.array([column.kind == "numeric" for column in columns])
        missing = np.array([column.missing for column in columns]) | ~numeric
        self.name = name
        self.columns = tuple(column.name for column in columns)
        self.missing = missing if missing.any() else None
        self._low = np.where(numeric, [column.minimum for column in columns], -np.inf)
        self._high = np.where(numeric, [column.maximum for column in columns], np.inf)
        self._ends: dict[np.dtype[np.generic], tuple[Array, Array]] = {}

    def ends(self, dtype: np.dtype[np.generic]) -> tuple[Array, Array]:
        """Return the least and the greatest numbers as numbers of a type have them."""
        if dtype.kind != "f":
            return self._low, self._high
        ends = self._ends.get(dtype)
        if ends is None:
            # The least number in training is as near to that as its own precision allows.
            with np.errstate(over="ignore"):
                ends = self._ends[dtype] = self._low.astype(dtype), self._high.astype(dtype)
        return ends


def count_outside(call: Call, schema: Schema) -> dict[str, int]:
    """Return how many numbers of a call are outside, by column; without those that have none."""
    counts: dict[str, int] = {}
    for of, _, outside in _outside(call, schema):
        per_column = outside.sum(axis=0).tolist()
        counts |= {c: n for c, n in zip(of.columns, per_column, strict=True) if n}
    return counts


def refuse_outside(call: Call, schema: Schema, rows_before: int = 0) -> None:
    """Refuse a call with a number that is outside.

    Args:
        call: what is asked.
        schema: of the version that is asked.
        rows_before: rows of the same request in calls before.

    Raises:
        ClientError: it names the first, its row and column, and the range.
    """
    for of, values, outside in _outside(call, schema):
        row, column = np.argwhere(outside)[0]
        low, high = of.ends(values.dtype)
        raise ClientError(
            f'row {rows_before + row + 1}, column "{of.columns[column]}": expected a number from '
            f"{low[column]} to {high[column]}, as in training, got {values[row, column]}"
        )


def _outside(call: Call, schema: Schema) -> Iterator[tuple[_Range, Array, Array]]:
    """Give the inputs that hold numbers outside: their values `[rows, columns]`, and which."""
    for of in _ranges(schema, call.signature_name):
        values = call.inputs.get(of.name)
        if values is None or values.dtype.kind not in "fiu":
            continue
        width = len(of.columns)
        if values.ndim not in (1, 2) or values.size != len(values) * width:
            continue  # the server is about to refuse it
        values = values.reshape(-1, width)
        low, high = of.ends(values.dtype)
        outside = ~((values >= low) & (values <= high))
        if of.missing is not None and values.dtype.kind == "f":
            outside &= ~(np.isnan(values) & of.missing)
        if outside.any():
            yield of, values, outside


def _ranges(schema: Schema, signature_name: str) -> tuple[_Range, ...]:
    ranges: tuple[_Range, ...] | None = schema.derived.get((_Range, signature_name))
    described = schema.described.get(signature_name)
    if ranges is not None or described is None:
        return ranges or ()
    found = tuple(
        _Range(name, columns)
        for name, columns in described.items()
        if any(column.kind == "numeric" for column in columns)
    )
    schema.derived[_Range, signature_name] = found
    return found
