"""A FlatBuffers reader (https://flatbuffers.dev/internals) that checks every bound.

The input is untrusted, and Arrow's small libraries can crash the process on malformed input.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from client.serving.tensors import Array


class MalformedError(Exception):
    """The bytes are not a well-formed table."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table in a buffer; fields are identified by index."""

    data: bytes
    offset: int

    @classmethod
    def root(cls, data: bytes) -> Table:
        """Return the root table of a buffer.

        Raises:
            MalformedError: the table is malformed; every method here may raise it.
        """
        return cls(data, _unpack("<I", data, 0))

    def number(self, index: int, form: str) -> int:
        """Return a number field, given its `struct` format; 0 if absent."""
        position = self._position(index)
        return 0 if position is None else _unpack(form, self.data, position)

    def has(self, index: int) -> bool:
        """Return whether a field is present."""
        return self._position(index) is not None

    def table(self, index: int) -> Table:
        """Return a table field."""
        return Table(self.data, self._target(index))

    def text(self, index: int) -> str:
        """Return a string field; empty if absent."""
        if not self.has(index):
            return ""
        start = self._target(index)
        end = start + 4 + _unpack("<I", self.data, start)
        if end > len(self.data):
            raise MalformedError
        try:
            return self.data[start + 4 : end].decode()
        except UnicodeDecodeError:
            raise MalformedError from None

    def length(self, index: int) -> int:
        """Return the length of a vector field; 0 if absent."""
        return _unpack("<I", self.data, self._target(index)) if self.has(index) else 0

    def tables(self, index: int) -> Iterator[Table]:
        """Yield the elements of a field that holds a vector of tables."""
        if self.has(index):
            start = self._target(index)
            for position in range(start + 4, start + 4 + 4 * self.length(index), 4):
                yield Table(self.data, position + _unpack("<I", self.data, position))

    def numbers(self, index: int, columns: int) -> Array:
        """Return a vector of structs of int64 as a matrix `[structs, columns]`."""
        count = self.length(index)
        if not count:
            return np.zeros((0, columns), np.int64)
        try:
            start = self._target(index) + 4
            return np.frombuffer(self.data, "<i8", count * columns, start).reshape(count, columns)
        except ValueError:
            raise MalformedError from None

    def _position(self, index: int) -> int | None:
        vtable = self.offset - _unpack("<i", self.data, self.offset)
        entry = 4 + 2 * index
        if entry >= _unpack("<H", self.data, vtable):
            return None
        offset = _unpack("<H", self.data, vtable + entry)
        return self.offset + offset if offset else None

    def _target(self, index: int) -> int:
        position = self._position(index)
        if position is None:
            raise MalformedError
        return position + _unpack("<I", self.data, position)


def _unpack(form: str, data: bytes, offset: int) -> int:
    if offset < 0:
        raise MalformedError
    try:
        value: int = struct.unpack_from(form, data, offset)[0]
    except struct.error:
        raise MalformedError from None
    return value
