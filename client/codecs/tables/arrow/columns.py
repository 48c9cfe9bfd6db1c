"""Columns of an Arrow record batch: buffers to arrays.

Layouts: https://arrow.apache.org/docs/format/Columnar.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from client.codecs.json.flat import byte_array
from client.codecs.tables.arrow.flatbuffers import MalformedError, Table
from client.codecs.tables.arrow.schema import BOOLEANS, LISTS, NULL, TEXTS, VIEWS, Field
from client.errors import ClientError
from client.serving.tensors import Array

# Values, and whether each is valid (None if all are).
Values = tuple[Array, Array | None]

# Strings of up to this many bytes are stored in the view itself.
_MAX_INLINE = 12
_VIEW = np.dtype([("length", "<i4"), ("prefix", "<i4"), ("buffer", "<i4"), ("offset", "<i4")])


@dataclass(frozen=True, slots=True)
class Buffers:
    """The buffers of a column in one batch.

    Attributes:
        field: the column's field.
        rows: the number of values.
        validity: the validity bitmap; None if all values are valid.
        buffers: the buffers of the values.
        values: for lists, their elements.
    """

    field: Field
    rows: int
    validity: memoryview | None
    buffers: Sequence[memoryview]
    values: Buffers | None = None

    def read(self, start: int, stop: int, dictionaries: Mapping[int, Values]) -> Values:
        """Return some of the values, strings as an object array of bytes.

        Args:
            start: index of the first value, a multiple of 8.
            stop: index after the last value.
            dictionaries: the dictionaries by id.

        Raises:
            MalformedError: the buffers are malformed.
        """
        count, field = stop - start, self.field
        if field.kind == NULL:
            return np.zeros(count, np.float32), np.zeros(count, np.bool_)
        valid = None if self.validity is None else _bits(self.validity, start, stop)
        if field.kind == BOOLEANS:
            return _bits(self.buffers[0], start, stop), valid
        if field.kind == TEXTS:
            ends = _numbers(self.buffers[0], field.dtype, start, count + 1)
            return _texts(self.buffers[1], ends[:-1], ends[1:]), valid
        if field.kind == VIEWS:
            return self._read_views(start, count), valid
        if field.kind == LISTS:
            assert self.values is not None
            width = field.width
            inner, is_valid = self.values.read(start * width, stop * width, dictionaries)
            if is_valid is not None:
                # The elements of a null list are ignored.
                has_null = ~is_valid.reshape(count, width).all(axis=1)
                if (has_null if valid is None else has_null & valid).any():
                    raise ClientError(f'column "{field.name}": expected no null within a list')
            return inner.reshape(count, width), valid
        numbers = _numbers(self.buffers[0], field.dtype, start, count)
        if field.per_day:
            return numbers / field.per_day, valid
        if field.dictionary is None:
            return numbers, valid
        return _look_up(numbers, valid, dictionaries.get(field.dictionary))

    def text_bytes(self, start: int, stop: int, dictionaries: Mapping[int, Values]) -> int:
        """Return the total size of the strings in a range of values; they may share bytes.

        Nulls and booleans, which take at most one bit in the body, count as one byte each.

        Raises:
            MalformedError: the buffers are malformed.
        """
        count, field = stop - start, self.field
        if field.kind in (NULL, BOOLEANS):
            return count
        if field.kind == TEXTS:
            ends = _numbers(self.buffers[0], field.dtype, start, count + 1)
            return max(0, int(ends[-1]) - int(ends[0]))
        if field.kind == VIEWS:
            views = _numbers(self.buffers[0], _VIEW, start, count)
            return int(np.maximum(views["length"], 0).sum())
        if field.kind == LISTS:
            assert self.values is not None
            return self.values.text_bytes(start * field.width, stop * field.width, dictionaries)
        if field.dictionary is None:
            return 0
        return sum(map(len, self.read(start, stop, dictionaries)[0].tolist()))

    def _read_views(self, start: int, count: int) -> Array:
        views = _numbers(self.buffers[0], _VIEW, start, count)
        raw = bytes(self.buffers[0][start * _VIEW.itemsize : (start + count) * _VIEW.itemsize])
        texts = []
        rows = zip(
            range(4, len(raw), _VIEW.itemsize),
            views["length"].tolist(),
            views["buffer"].tolist(),
            views["offset"].tolist(),
            strict=True,
        )
        for inline_start, length, buffer, offset in rows:
            if 0 <= length <= _MAX_INLINE:
                text = raw[inline_start : inline_start + length]
            elif 0 <= buffer < len(self.buffers) - 1 and offset >= 0:
                text = bytes(self.buffers[1 + buffer][offset : offset + length])
            else:
                raise MalformedError
            if len(text) != length:
                raise MalformedError
            texts.append(text)
        return byte_array(texts)


def read_columns(
    batch: Table, body: memoryview, fields: Sequence[Field]
) -> tuple[int, list[Buffers]]:
    """Return the row count of a batch, and its columns.

    Raises:
        ClientError: the batch is compressed.
        MalformedError: the batch is malformed.
    """
    if batch.has(3):
        # The size of a compressed body is unknown until it has been decompressed.
        raise ClientError(
            "the Arrow stream has compressed buffers; write them uncompressed, and compress the "
            "body with Content-Encoding"
        )
    rows = batch.number(0, "<q")
    # Require one bit for each row; otherwise a few bytes could claim any number of rows.
    if not 0 <= rows <= 8 * len(body):
        raise MalformedError
    cursor = _BatchCursor(
        iter(batch.numbers(1, 2).tolist()),
        iter(batch.numbers(2, 2).tolist()),
        iter(batch.numbers(4, 1).reshape(-1).tolist()),
        body,
    )
    return rows, [cursor.next_column(field, rows) for field in fields]


@dataclass(frozen=True, slots=True)
class _BatchCursor:
    """The remaining nodes and buffers of a batch, in the order in which columns consume them."""

    nodes: Iterator[list[int]]
    extents: Iterator[list[int]]
    view_buffer_counts: Iterator[int]
    body: memoryview

    def next_column(self, field: Field, rows: int) -> Buffers:
        length, nulls = next(self.nodes, (-1, 0))
        if length != rows:
            raise MalformedError
        if field.kind == NULL:
            return Buffers(field, rows, None, ())
        bitmap = self._next_buffer()
        validity = bitmap if nulls else None
        if field.kind == LISTS:
            assert field.values is not None
            inner = self.next_column(field.values, rows * field.width)
            return Buffers(field, rows, validity, (), inner)
        buffers = [self._next_buffer()]
        if field.kind == TEXTS:
            buffers.append(self._next_buffer())
        elif field.kind == VIEWS:
            buffers += [self._next_buffer() for _ in range(next(self.view_buffer_counts, 0))]
        return Buffers(field, rows, validity, buffers)

    def _next_buffer(self) -> memoryview:
        offset, length = next(self.extents, (-1, 0))
        if offset < 0 or length < 0 or offset + length > len(self.body):
            raise MalformedError
        return self.body[offset : offset + length]


def _numbers(buffer: memoryview, dtype: np.dtype[np.generic], start: int, count: int) -> Array:
    if not count:
        return np.zeros(0, dtype)
    try:
        return np.frombuffer(buffer, dtype, count, start * dtype.itemsize)
    except ValueError:
        raise MalformedError from None


def _bits(buffer: memoryview, start: int, stop: int) -> Array:
    """Return some bits of a bitmap as booleans."""
    packed = _numbers(buffer, np.dtype(np.uint8), start // 8, (stop + 7) // 8 - start // 8)
    return np.unpackbits(packed, count=stop - start, bitorder="little").view(np.bool_)


def _texts(buffer: memoryview, starts: Array, ends: Array) -> Array:
    """Return consecutive slices of a buffer."""
    if not len(ends):
        return byte_array([])
    first, last = int(starts[0]), int(ends[-1])
    if first < 0 or last > len(buffer) or (ends < starts).any():
        raise MalformedError
    data = bytes(buffer[first:last])
    pairs = zip((starts - first).tolist(), (ends - first).tolist(), strict=True)
    return byte_array([data[start:end] for start, end in pairs])


def _look_up(keys: Array, valid: Array | None, dictionary: Values | None) -> Values:
    # A column of only nulls may precede its dictionary.
    words, is_valid = dictionary or (byte_array([]), None)
    if not len(words):
        if valid is None or valid.any():
            raise MalformedError
        return byte_array([b""] * len(keys)), valid
    if valid is not None:
        keys = np.where(valid, keys, 0)  # the key of a null is undefined
    if len(keys) and not 0 <= int(keys.min()) <= int(keys.max()) < len(words):
        raise MalformedError
    if is_valid is not None:
        valid = is_valid[keys] if valid is None else valid & is_valid[keys]
    return words[keys], valid
