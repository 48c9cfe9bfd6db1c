"""A FlatBuffers reader (https://flatbuffers.dev/internals) that checks every bound.

The input is untrusted, and Arrow's small libraries can crash the process on malformed input.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from client.serving.tensors import Array


class BrokenError(Exception):
    """The bytes are not a well-formed table."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table at an offset of a buffer; fields are identified by index."""

    data: bytes
    at: int

    @classmethod
    def root(cls, data: bytes) -> Table:
        """Return the root table of a buffer.

        Raises:
            BrokenError: the table is malformed; every method here may raise it.
        """
        return cls(data, _unpack("<I", data, 0))

    def number(self, index: int, form: str) -> int:
        """Return a number field in a format of `struct`; 0 if absent."""
        place = self._place(index)
        return 0 if place is None else _unpack(form, self.data, place)

    def has(self, index: int) -> bool:
        """Return whether a field is present."""
        return self._place(index) is not None

    def table(self, index: int) -> Table:
        """Return a table field."""
        return Table(self.data, self._target(index))

    def text(self, index: int) -> str:
        """Return a string field; empty if absent."""
        if not self.has(index):
            return ""
        at = self._target(index)
        end = at + 4 + _unpack("<I", self.data, at)
        if end > len(self.data):
            raise BrokenError
        try:
            return self.data[at + 4 : end].decode()
        except UnicodeDecodeError:
            raise BrokenError from None

    def length(self, index: int) -> int:
        """Return the length of a vector field; 0 if absent."""
        return _unpack("<I", self.data, self._target(index)) if self.has(index) else 0

    def tables(self, index: int) -> Iterator[Table]:
        """Return the elements of a field that holds a vector of tables."""
        if self.has(index):
            at = self._target(index)
            for place in range(at + 4, at + 4 + 4 * self.length(index), 4):
                yield Table(self.data, place + _unpack("<I", self.data, place))

    def numbers(self, index: int, columns: int) -> Array:
        """Return a vector of structs of int64 as a matrix `[structs, columns]`."""
        count = self.length(index)
        if not count:
            return np.zeros((0, columns), np.int64)
        try:
            at = self._target(index) + 4
            return np.frombuffer(self.data, "<i8", count * columns, at).reshape(count, columns)
        except ValueError:
            raise BrokenError from None

    def _place(self, index: int) -> int | None:
        fields = self.at - _unpack("<i", self.data, self.at)
        entry = 4 + 2 * index
        if entry >= _unpack("<H", self.data, fields):
            return None
        offset = _unpack("<H", self.data, fields + entry)
        return self.at + offset if offset else None

    def _target(self, index: int) -> int:
        place = self._place(index)
        if place is None:
            raise BrokenError
        return place + _unpack("<I", self.data, place)


def _unpack(form: str, data: bytes, at: int) -> int:
    if at < 0:
        raise BrokenError
    try:
        value: int = struct.unpack_from(form, data, at)[0]
    except struct.error:
        raise BrokenError from None
    return value
