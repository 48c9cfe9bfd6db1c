"""Batches: decoded requests that share a call, and the rows of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from client.serving.schema import Schema
from client.serving.tensors import Array


class Call(NamedTuple):
    """The call that a request makes, independent of its dialect.

    Attributes:
        signature_name: the signature to run.
        inputs: an array for each of its inputs.
        output_filter: names of the outputs to return; empty for all.
    """

    signature_name: str
    inputs: Mapping[str, Array]
    output_filter: tuple[str, ...] = ()


class Decoded(Protocol):
    """A decoded request: its call, and everything its codec needs to encode the response."""

    @property
    def call(self) -> Call:
        """The call to the model."""


class Batch:
    """Requests that one call can answer.

    Attributes:
        call: the call for all of them; inputs are joined along the first dimension.
        members: indexes of the requests among the payloads.
        rows: the row count of each; None for a single request whose rows cannot be counted.
        decoded: the decoded requests.
    """

    __slots__ = ("call", "decoded", "members", "rows")

    def __init__(
        self, call: Call, members: list[int], rows: list[int] | None, decoded: Sequence[Any]
    ) -> None:
        self.call = call
        self.members = members
        self.rows = rows
        self.decoded = decoded

    @property
    def total_rows(self) -> int:
        """Row count of all requests, 0 if rows cannot be counted."""
        return sum(self.rows) if self.rows is not None else 0

    def bounds(self) -> Iterator[tuple[int, int]]:
        """Yield the half-open range of rows of each request."""
        start = 0
        for rows in self.rows or ():
            yield start, start + rows
            start += rows

    def slice(self, first: int, last: int) -> Batch:
        """Return the requests from `first` up to, but not including, `last` as a batch."""
        assert self.rows is not None
        start = sum(self.rows[:first])
        stop = start + sum(self.rows[first:last])
        inputs = {name: array[start:stop] for name, array in self.call.inputs.items()}
        call = self.call._replace(inputs=inputs)
        return Batch(
            call, self.members[first:last], self.rows[first:last], self.decoded[first:last]
        )

    def select(self, indexes: Sequence[int]) -> Batch:
        """Return the requests at the given indexes, which must ascend, as a batch."""
        if self.rows is None:
            return self
        is_selected = np.zeros(len(self.members), np.bool_)
        is_selected[indexes] = True
        mask = np.repeat(is_selected, self.rows)
        inputs = {name: array[mask] for name, array in self.call.inputs.items()}
        return Batch(
            self.call._replace(inputs=inputs),
            [self.members[i] for i in indexes],
            [self.rows[i] for i in indexes],
            [self.decoded[i] for i in indexes],
        )

    def split(self, max_rows: int, max_bytes: int) -> list[Batch]:
        """Split into batches of at most `max_rows` rows and about `max_bytes`, by mean row size.

        A request above these limits is a batch of its own.
        """
        if self.rows is None or len(self.rows) == 1:
            return [self]
        total = sum(self.rows)
        size = sum(byte_size(array) for array in self.call.inputs.values())
        if total <= max_rows and size <= max_bytes:
            return [self]
        limit = max(1, min(max_rows, total * max_bytes // max(size, 1)))
        batches, first, rows = [], 0, 0
        for index, count in enumerate(self.rows):
            if rows and rows + count > limit:
                batches.append(self.slice(first, index))
                first, rows = index, 0
            rows += count
        batches.append(self.slice(first, len(self.rows)))
        return batches


def group_into_batches(decoded: Mapping[int, Decoded], schema: Schema) -> list[Batch]:
    """Group requests by signature, output filter, dtypes and shapes, so that each is one call."""
    groups: dict[Any, list[int]] = {}
    rows: dict[int, int] = {}
    for index, request in decoded.items():
        call = request.call
        signature = schema.signatures.get(call.signature_name)
        is_batched = signature is not None and signature.batched
        rows[index] = row_count(call.inputs) if is_batched else 0
        key: Any = index
        if rows[index]:
            kinds = tuple((n, a.dtype.char, a.shape[1:]) for n, a in call.inputs.items())
            key = (call.signature_name, call.output_filter, kinds)
        groups.setdefault(key, []).append(index)
    batches = []
    for members in groups.values():
        calls = [decoded[index].call for index in members]
        counts = [rows[index] for index in members] if rows[members[0]] else None
        batches.append(Batch(_concatenate(calls), members, counts, [decoded[i] for i in members]))
    return batches


def row_count(inputs: Mapping[str, Array]) -> int:
    """Return the common first dimension of the inputs, 0 if there is none."""
    lengths = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    return lengths.pop() if len(lengths) == 1 else 0


def byte_size(array: Array) -> int:
    """Return the size of an array's values in bytes."""
    if array.dtype.kind == "O":
        return int(array.nbytes) + sum(map(len, array.reshape(-1).tolist()))
    return int(array.nbytes)


def is_same_call(call: Call, other: Call) -> bool:
    """Return whether two calls have the same signature, inputs and output filter."""
    return (
        call.signature_name == other.signature_name
        and call.output_filter == other.output_filter
        and call.inputs.keys() == other.inputs.keys()
        and all(
            values.dtype == other.inputs[name].dtype
            # NaN is a missing number, so NaNs are equal.
            and np.array_equal(values, other.inputs[name], equal_nan=values.dtype.kind == "f")
            for name, values in call.inputs.items()
        )
    )


def _concatenate(calls: Sequence[Call]) -> Call:
    first = calls[0]
    if len(calls) == 1:
        return first
    return first._replace(
        inputs={name: np.concatenate([c.inputs[name] for c in calls]) for name in first.inputs}
    )
