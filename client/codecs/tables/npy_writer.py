"""Responses in NumPy's own format, `application/x-npy`, for `numpy.load`.

A single output is an array; several are a structured array with a field for each. Strings become
bytes, padded to the longest. The header holds the row count, so the response is buffered until
complete; one larger than 64 MiB is an error.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from math import prod

import numpy as np

from client.codecs.tables.options import TableOptions
from client.codecs.tables.rows import TableRows
from client.codecs.tables.values import prepare_outputs
from client.errors import ClientError
from client.serving.tensors import Array

MAX_BYTES = 64 * 2**20


class NpyWriter:
    """Writes outputs as one array once all are known."""

    can_report_errors = False

    def __init__(self, options: TableOptions) -> None:
        if options.passes_columns or options.errors_in_rows:
            raise ClientError(
                "id, keep, on_error=row: application/x-npy holds outputs only; "
                "request another type with Accept",
                406,
            )
        self._chunks: list[dict[str, Array]] = []
        self._rows = 0
        self._row_bytes: dict[str, int] = {}

    def write(self, rows: TableRows, outputs: Mapping[str, Array]) -> bytes:
        """Buffer the outputs of some rows; return no bytes yet.

        Raises:
            ClientError: the outputs do not have a value for each row, or are too large.
        """
        outputs = prepare_outputs(outputs)
        for name, array in outputs.items():
            self._row_bytes[name] = max(self._row_bytes.get(name, 1), _row_bytes(array))
        self._rows += len(next(iter(outputs.values())))
        if self._rows * sum(self._row_bytes.values()) > MAX_BYTES:
            raise ClientError(
                f"the response is larger than {MAX_BYTES} bytes, and application/x-npy must be "
                "buffered whole: send fewer rows, or request fewer outputs or another type",
                413,
            )
        self._chunks.append({name: _to_storable(name, array) for name, array in outputs.items()})
        return b""

    def end(self) -> bytes:
        """Return the array."""
        columns = {
            name: np.concatenate([chunk[name] for chunk in self._chunks])
            for name in self._chunks[0]
        }
        first = next(iter(columns.values()))
        if len(columns) == 1:
            return _save(first)
        fields = [(name, array.dtype, array.shape[1:]) for name, array in columns.items()]
        table = np.empty(len(first), np.dtype(fields))
        for name, array in columns.items():
            table[name] = array
        return _save(table)


def _row_bytes(array: Array) -> int:
    if array.dtype != np.object_:
        return prod(array.shape[1:]) * array.itemsize
    return prod(array.shape[1:]) * max(map(len, array.reshape(-1).tolist()), default=1)


def _to_storable(name: str, array: Array) -> Array:
    """Return an output as an array of numbers or of bytes of fixed width."""
    if array.dtype != np.object_:
        return array
    values = array.reshape(-1).tolist()
    if any(value.endswith(b"\0") for value in values):
        raise ClientError(
            f"output {name}: application/x-npy cannot hold a string that ends in a zero byte; "
            "request another type or other outputs",
            406,
        )
    return np.array(values, np.bytes_).reshape(array.shape)


def _save(array: Array) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=False)
    return out.getvalue()
