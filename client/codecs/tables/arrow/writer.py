"""Outputs as a stream of Arrow's IPC format: a batch for each call, a column for each output.

Strings are `string`, or `binary` if they are not text or their output's name ends in `_bytes`;
several values a row are a list of fixed size.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import nanoarrow
import numpy as np
from nanoarrow.ipc import StreamWriter

from client.codecs.tables.values import checked
from client.errors import ClientError
from client.serving.tensors import Array

_TYPES = {
    np.dtype(dtype): make
    for dtype, make in (
        (np.int8, nanoarrow.int8),
        (np.int16, nanoarrow.int16),
        (np.int32, nanoarrow.int32),
        (np.int64, nanoarrow.int64),
        (np.uint8, nanoarrow.uint8),
        (np.uint16, nanoarrow.uint16),
        (np.uint32, nanoarrow.uint32),
        (np.uint64, nanoarrow.uint64),
        (np.float16, nanoarrow.float16),
        (np.float32, nanoarrow.float32),
        (np.float64, nanoarrow.float64),
        (np.bool_, nanoarrow.bool_),
    )
}


class ArrowWriter:
    """Writes outputs as a stream, the schema with the first of them."""

    can_tell_errors = False

    def __init__(self) -> None:
        self._sink = io.BytesIO()
        self._writer = StreamWriter.from_writable(self._sink)
        self._schema: Any = None

    def write(self, outputs: Mapping[str, Array]) -> bytes:
        """Return the batch of some rows, after the schema if they are the first.

        Raises:
            ClientError: the outputs are not a value for each row, or have no type in Arrow.
        """
        outputs = checked(outputs)
        if self._schema is None:
            fields = {name: _type(name, array) for name, array in outputs.items()}
            self._schema = nanoarrow.struct(fields, nullable=False)
        columns = [
            _column(name, array, self._schema.field(i))
            for i, (name, array) in enumerate(outputs.items())
        ]
        rows = len(next(iter(outputs.values())))
        batch = nanoarrow.c_array_from_buffers(
            self._schema, rows, [None], null_count=0, children=columns
        )
        self._writer.write_array(batch)
        return self._written()

    def end(self) -> bytes:
        """Return what closes the stream."""
        self._writer.close()
        return self._written()

    def _written(self) -> bytes:
        data = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return data


def _type(name: str, array: Array) -> Any:
    if array.ndim > 2 or (array.dtype != np.object_ and array.dtype not in _TYPES):
        raise ClientError(
            f"output {name}: {array.dtype.name} {list(array.shape)} has no form in Arrow here; "
            "ask for other outputs or for another type",
            406,
        )
    if array.dtype != np.object_:
        one = _TYPES[array.dtype](nullable=False)
    elif name.endswith("_bytes") or not _is_text(array):
        one = nanoarrow.binary(nullable=False)
    else:
        one = nanoarrow.string(nullable=False)
    return one if array.ndim == 1 else nanoarrow.fixed_size_list(one, array.shape[1], False)


def _is_text(array: Array) -> bool:
    try:
        for value in set(array.reshape(-1).tolist()):
            value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _column(name: str, array: Array, schema: Any) -> Any:
    if array.ndim == 2:
        values = _column(name, array.reshape(-1), schema.value_type)
        return nanoarrow.c_array_from_buffers(
            schema, len(array), [None], null_count=0, children=[values]
        )
    if array.dtype != np.object_:
        is_bool = array.dtype.kind == "b"
        data = np.packbits(array, bitorder="little") if is_bool else np.ascontiguousarray(array)
        return nanoarrow.c_array_from_buffers(schema, len(array), [None, data], null_count=0)
    if schema.type == nanoarrow.Type.STRING and not _is_text(array):
        raise ClientError(f"output {name}: the first rows were text, these are not", 501)
    values = array.tolist()
    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=ends[1:])
    return nanoarrow.c_array_from_buffers(
        schema, len(values), [None, ends, b"".join(values)], null_count=0
    )
