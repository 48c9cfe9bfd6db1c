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
        call: predicts the rows that have no error; None if all have one.
        count: number of rows, those with errors included.
        kept: copied columns: a JSON value for each row, by name.
        errors: errors of the rows that are not predicted, by index.
    """

    call: Call | None
    count: int
    kept: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)

    @property
    def good(self) -> list[int]:
        """Indexes of the rows that the call predicts."""
        return [index for index in range(self.count) if index not in self.errors]

    def without(self, errors: Mapping[int, str]) -> TableRows:
        """Return the rows with errors for some that the call would have predicted."""
        if not errors or self.call is None:
            return self
        good = self.good
        left = [place for place, index in enumerate(good) if index not in errors]
        inputs = {name: values[left] for name, values in self.call.inputs.items()}
        call = self.call._replace(inputs=inputs) if left else None
        return replace(self, call=call, errors={**self.errors, **errors})


def read_rows(
    read: Callable[[int, int], Inputs], count: int, *, errors_in_rows: bool
) -> tuple[Inputs | None, dict[int, str]]:
    """Read rows; bad ones are found by bisection, so that good ones are read many at a time.

    Args:
        read: returns the inputs for a half-open range of rows.
        count: number of rows.
        errors_in_rows: whether to return errors by row.

    Returns:
        The inputs, None if there are none, and the errors by row.

    Raises:
        ClientError: a row cannot be read, and `errors_in_rows` is not set.
    """
    if not errors_in_rows:
        return read(0, count), {}
    parts: list[Inputs] = []
    errors: dict[int, str] = {}
    pending = [(0, count)]
    while pending:
        start, stop = pending.pop()
        try:
            part = read(start, stop)
        except ClientError as error:
            if stop - start == 1:
                errors[start] = error.message
            else:
                middle = (start + stop) // 2
                pending += [(middle, stop), (start, middle)]
            continue
        message = _mismatch(part, parts[0]) if parts else None
        if message is None:
            parts.append(part)
        else:
            errors.update(dict.fromkeys(range(start, stop), message))
    if len(parts) <= 1:
        return (parts[0] if parts else None), errors
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, errors


def _mismatch(part: Inputs, first: Inputs) -> str | None:
    """Return an error if rows have another shape than the first ones, with which they are sent."""
    for name, array in part.items():
        shape, wanted = list(array.shape[1:]), list(first[name].shape[1:])
        if shape != wanted:
            return f'column "{name}": expected shape {wanted} as in the rows before, got {shape}'
    return None
