"""Rows of a table: the call that predicts them, and the columns copied to the response."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from client.codecs import Call
from client.errors import ClientError
from client.serving.tensors import Array

Inputs = Mapping[str, Array]


@dataclass(frozen=True)
class TableRows:
    """Some rows of a table.

    Attributes:
        call: the call that predicts the rows without errors; None if there are none.
        count: number of rows, including those with errors.
        copied_columns: a JSON value for each row, by column name.
        errors: errors of the rows that are not predicted, by row index.
    """

    call: Call | None
    count: int
    copied_columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)

    @property
    def predicted_indexes(self) -> list[int]:
        """Indexes of the rows that the call predicts."""
        return [index for index in range(self.count) if index not in self.errors]

    def with_errors(self, errors: Mapping[int, str]) -> TableRows:
        """Return the rows with additional errors, and a call without those rows."""
        if not errors or self.call is None:
            return self
        indexes = self.predicted_indexes
        remaining = [i for i, index in enumerate(indexes) if index not in errors]
        inputs = {name: values[remaining] for name, values in self.call.inputs.items()}
        call = self.call._replace(inputs=inputs) if remaining else None
        return replace(self, call=call, errors={**self.errors, **errors})


def read_rows(
    read: Callable[[int, int], Inputs], count: int, *, errors_in_rows: bool
) -> tuple[Inputs | None, dict[int, str]]:
    """Read rows, finding invalid ones by bisection, so that valid ones are read many at a time.

    Args:
        read: returns the inputs for a half-open range of rows.
        count: number of rows.
        errors_in_rows: whether to return errors by row.

    Returns:
        The inputs, None if no row is valid, and the errors by row.

    Raises:
        ClientError: a row cannot be read, and `errors_in_rows` is not set.
    """
    if not errors_in_rows:
        return read(0, count), {}
    chunks: list[Inputs] = []
    errors: dict[int, str] = {}
    pending = [(0, count)]
    while pending:
        start, stop = pending.pop()
        try:
            chunk = read(start, stop)
        except ClientError as error:
            if stop - start == 1:
                errors[start] = error.message
            else:
                middle = (start + stop) // 2
                pending += [(middle, stop), (start, middle)]
            continue
        message = _mismatch(chunk, chunks[0]) if chunks else None
        if message is None:
            chunks.append(chunk)
        else:
            errors.update(dict.fromkeys(range(start, stop), message))
    if len(chunks) <= 1:
        return (chunks[0] if chunks else None), errors
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}, errors


def _mismatch(chunk: Inputs, first: Inputs) -> str | None:
    """Return an error if rows differ in shape from the first ones, with which they are sent."""
    for name, array in chunk.items():
        shape, expected = list(array.shape[1:]), list(first[name].shape[1:])
        if shape != expected:
            return f'column "{name}": expected shape {expected} as in earlier rows, got {shape}'
    return None
