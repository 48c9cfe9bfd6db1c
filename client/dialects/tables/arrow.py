"""Tables of Arrow's IPC stream, `application/vnd.apache.arrow.stream`.

Columns are found by name, in whatever order. Numbers are cast to the floats that the model takes,
and integers to integers that hold them; strings may be dictionary-encoded. Null is a missing value,
as NaN is. String views are not read: polars writes plain strings with
`write_ipc_stream(..., compat_level=polars.CompatLevel.oldest())`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nanoarrow
import numpy as np
from nanoarrow.ipc import InputStream

from client.dialects import Call
from client.dialects.flat import byte_array
from client.dialects.tables.arrow_messages import DICTIONARY, SCHEMA, Message, Messages
from client.dialects.tables.casting import cast
from client.dialects.tables.layout import ROWS_PER_CALL, Layout, Place, TableColumn
from client.errors import ClientError
from client.tensors import STRING, Array

# They are read again with every batch.
MOST_DICTIONARIES = 4 * 2**20

_END = b"\xff\xff\xff\xff\0\0\0\0"
_NUMBERS = {
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
    "int32": np.int32,
    "uint32": np.uint32,
    "int64": np.int64,
    "uint64": np.uint64,
    "half_float": np.float16,
    "float": np.float32,
    "double": np.float64,
}
_STRINGS = {
    "string": np.int32,
    "binary": np.int32,
    "large_string": np.int64,
    "large_binary": np.int64,
}
# Formats of Arrow's C data interface; times and decimals are stored as numbers too.
_WORDS = frozenset("uUzZ")
_READABLE = frozenset("nbcCsSiIlLefg") | _WORDS

# Values, and whether each is there; None if all are.
Values = tuple[Array, Array | None]


class ArrowReader:
    """Reads a stream in pieces, a batch of rows at a time."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._messages = Messages()
        self._schema = b""
        self._dictionaries: dict[int, bytes] = {}
        self._places: dict[str, int] = {}
        self._rows = 0

    def feed(self, chunk: bytes) -> Iterator[Call]:
        """Take the next bytes, and give the calls for the batches that are whole.

        Raises:
            ClientError: it names the row and the column.
        """
        for message in self._messages.feed(chunk):
            if message.kind == SCHEMA:
                self._take_schema(message)
            elif not self._schema:
                raise ClientError("the Arrow stream does not begin with its schema")
            elif message.kind == DICTIONARY:
                self._take_dictionary(message)
            elif message.rows:
                yield from self._calls(message)

    def finish(self) -> Iterator[Call]:
        """Give the calls for what is left: none.

        Raises:
            ClientError: the stream ends within a message, or there was no row at all.
        """
        self._messages.finish()
        if not self._rows:
            raise ClientError("expected at least one row, got none")
        yield from ()

    def _take_schema(self, message: Message) -> None:
        if self._schema:
            raise ClientError("the Arrow stream has a second schema")
        with _stream(message.data) as stream:
            children = list(stream.get_schema().children)
        names = [child.name or "" for child in children]
        self.layout.check_header(names, "")
        for child in children:
            _check_format(child)
        self._places = {name: i for i, name in enumerate(names)}
        self._schema = message.data

    def _take_dictionary(self, message: Message) -> None:
        if message.is_delta:
            raise ClientError("the Arrow stream continues a dictionary; write whole ones")
        self._dictionaries[message.dictionary] = message.data
        if sum(map(len, self._dictionaries.values())) > MOST_DICTIONARIES:
            raise ClientError(
                f"the Arrow stream's dictionaries are larger than {MOST_DICTIONARIES} bytes", 413
            )

    def _calls(self, message: Message) -> Iterator[Call]:
        messages = (self._schema, *self._dictionaries.values(), message.data)
        with _stream(b"".join(messages)) as stream:
            try:
                batch = next(iter(stream)).view()
            except (RuntimeError, StopIteration) as error:  # StopIteration: a lie about its length
                raise _unreadable(error) from error
            for start in range(0, batch.length, ROWS_PER_CALL):
                yield self._call(batch, start, min(start + ROWS_PER_CALL, batch.length))
        self._rows += batch.length

    def _call(self, batch: Any, start: int, stop: int) -> Call:
        first = self._rows + start + 1

        def place(index: int) -> str:
            return f"row {first + index}"

        return self.layout.call(
            {
                column.name: _column(
                    _values(batch.child(self._places[column.name]), start, stop), column, place
                )
                for column in self.layout.columns
            }
        )


def _stream(data: bytes) -> Any:
    """Return the stream that some messages are."""
    try:
        return nanoarrow.c_array_stream(InputStream.from_readable(data + _END))
    except RuntimeError as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> ClientError:
    message = str(error).rpartition("failed ")[2]
    if "View not yet supported" in message:
        message = (
            "string views are not read; polars writes plain strings with "
            "compat_level=polars.CompatLevel.oldest()"
        )
    return ClientError(f"the Arrow stream cannot be read: {message[:200]}")


def _check_format(field: Any) -> None:
    """Refuse types that are read as others, or not at all."""
    form = field.format
    if form.startswith("+w:") and form != "+w:0":
        form = field.child(0).format
    of_words = field.dictionary is None or field.dictionary.format in _WORDS
    if form not in _READABLE or not of_words:
        raise ClientError(
            f'column "{field.name}": expected numbers, booleans or strings, '
            f"got Arrow's type {nanoarrow.Schema(field).type.name.lower()}"
        )


def _values(view: Any, start: int, stop: int) -> Values:
    """Return some of a column's values, strings as an object array of bytes."""
    try:
        return _read(view, start, stop)
    except (ValueError, IndexError) as error:
        # A buffer is too short for what it should hold.
        raise ClientError(f"the Arrow stream cannot be read: {error}") from error


def _read(view: Any, start: int, stop: int) -> Values:
    kind, count = view.storage_type, stop - start
    if kind == "na":
        return np.zeros(count, np.float32), np.zeros(count, np.bool_)
    valid = _bits(view.buffer(0), start, stop) if view.null_count else None
    if view.dictionary is not None:
        return _looked_up(view, start, count, valid)
    if kind in _NUMBERS:
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(view.buffer(1), dtype, count, start * dtype.itemsize), valid
    if kind == "bool":
        return _bits(view.buffer(1), start, stop), valid
    if kind == "fixed_size_list":
        child = view.child(0)
        width = child.length // view.length
        values, inner = _read(child, start * width, stop * width)
        if inner is not None and not inner.all():
            raise ValueError("a null within a list")
        return values.reshape(count, width), valid
    offset = np.dtype(_STRINGS[kind])
    ends = np.frombuffer(view.buffer(1), offset, count + 1, start * offset.itemsize)
    return _texts(ends[:-1], ends[1:], view.buffer(2)), valid


def _looked_up(view: Any, start: int, count: int, valid: Array | None) -> Values:
    """Read the words that keys of a dictionary stand for, no others: it may have millions."""
    dtype, words = np.dtype(_NUMBERS[view.storage_type]), view.dictionary
    keys = np.frombuffer(view.buffer(1), dtype, count, start * dtype.itemsize).astype(np.int64)
    if words.null_count:
        known = _bits(words.buffer(0), 0, words.length)
        there = known[np.where(valid, keys, 0)] if valid is not None else known[keys]
        valid = there if valid is None else valid & there
    used, place = np.unique(keys if valid is None else keys[valid], return_inverse=True)
    if used.min(initial=0) < 0:
        raise ValueError("a key of a dictionary is negative")
    offset = np.dtype(_STRINGS[words.storage_type])
    ends = np.frombuffer(words.buffer(1), offset, words.length + 1 if words.length else 0)
    texts = _texts(ends[used], ends[used + 1], words.buffer(2))[place]
    if valid is None:
        return texts, None
    values = byte_array([b""] * count)
    values[valid] = texts
    return values, valid


def _texts(begins: Array, ends: Array, buffer: Any) -> Array:
    """Return pieces of a buffer as strings."""
    if not len(ends):
        return byte_array([])
    first, last = int(begins.min()), int(ends.max())
    data = bytes(memoryview(buffer)[max(0, first) : last])
    if first < 0 or (ends < begins).any() or len(data) != last - first:
        raise ValueError("a string is not within its buffer")
    pairs = zip((begins - first).tolist(), (ends - first).tolist(), strict=True)
    return byte_array([data[begin:end] for begin, end in pairs])


def _bits(buffer: Any, start: int, stop: int) -> Array:
    """Return some bits of a bitmap as booleans; `start` is a multiple of 8."""
    packed = np.frombuffer(buffer, np.uint8, (stop + 7) // 8 - start // 8, start // 8)
    return np.unpackbits(packed, count=stop - start, bitorder="little").view(np.bool_)


def _column(read: Values, column: TableColumn, place: Place) -> Array:
    """Return a column as the model takes it."""
    values, valid = read
    is_whole = valid is None or bool(valid.all())
    array: Array | None = None
    if values.dtype == np.object_:
        if column.spec.dtype == STRING and (is_whole or column.may_be_missing):
            array = values
            if valid is not None:
                array[~valid] = b""
    elif column.spec.dtype != STRING:
        array = cast(values, column.spec.dtype)
        if array is not None and valid is not None and not is_whole:
            missing_is_nan = array.dtype.kind == "f" and column.may_be_missing
            array = np.where(valid, array, array.dtype.type(np.nan)) if missing_is_nan else None
    if array is None or not _fits(array, column.spec.shape):
        return column.read_values(_json_values(values, valid), place)
    if array.ndim == 1:
        column.check_finite(array, place)
    return array


def _fits(array: Array, shape: tuple[int | None, ...] | None) -> bool:
    return shape is None or (
        len(shape) == array.ndim
        and all(n in (None, have) for n, have in zip(shape[1:], array.shape[1:], strict=True))
    )


def _json_values(values: Array, valid: Array | None) -> list[object]:
    """Return values as JSON has them, for reading them one by one."""
    listed = [v.decode(errors="replace") if type(v) is bytes else v for v in values.tolist()]
    if valid is None:
        return listed
    return [v if there else None for v, there in zip(listed, valid.tolist(), strict=True)]
