"""NumPy's own format, `application/x-npy`, as written by `numpy.save`.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. Nothing is
unpickled, and the header is matched against a pattern, not evaluated.

A request is a matrix of numbers `[rows, columns]` in the column order of the training table; for a
model with one input, that input's array. Numbers are cast to the model's floats, integers to its
integers if they fit. NaN is a missing value; dates are days since 1970-01-01.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from client.codecs.tables.casting import cast, check_finite
from client.codecs.tables.layout import ROWS_PER_CALL, RowLocator, TableColumn, TableLayout
from client.codecs.tables.options import TableOptions
from client.codecs.tables.rows import Inputs, TableRows, read_rows
from client.errors import ClientError
from client.serving.schema import TensorSpec
from client.serving.tensors import DTYPES, MAX_RANK, STRING, Array

MAX_HEADER_BYTES = 10_000
# Predict rows once this many bytes have arrived.
BLOCK_BYTES = 4 * 2**20
# Limit for data that must be buffered whole: a row, or a matrix in column order.
MAX_BYTES = 64 * 2**20

_MAGIC = b"\x93NUMPY"
_SHAPE = rb"\((?:\d{1,19} {0,4}, {0,4}){0,%d}(?:\d{1,19})? {0,4}\)" % (MAX_RANK - 1)
_ITEM = rb" {0,4}'(descr|fortran_order|shape)' {0,4}: {0,4}('[^']{1,8}'|True|False|%b) {0,4},?" % (
    _SHAPE
)
_HEADER = re.compile(rb"\{(?:%b){3} {0,4}\}[ \n]*" % _ITEM)
_ITEMS = re.compile(_ITEM)
_DTYPE = re.compile(rb"'([<>|=]?[fiub]\d)'")


@dataclass(frozen=True)
class _Header:
    dtype: np.dtype[np.generic]
    is_column_major: bool
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.name} {list(self.shape)}"


class NpyReader:
    """Reads an array in blocks of rows, without copying blocks that arrive in one piece."""

    ignored_columns: tuple[str, ...] = ()

    def __init__(self, layout: TableLayout, options: TableOptions) -> None:
        if options.passes_columns:
            raise ClientError("id, keep: an array has no column names; send another type")
        self.layout = layout
        self._options = options
        self._spec = _array_spec(layout)
        self._chunks: list[memoryview] = []
        self._size = 0
        self._header: _Header | None = None
        self._rows = 0

    def feed(self, chunk: bytes) -> Iterator[TableRows]:
        """Add bytes, and yield the complete rows.

        Raises:
            ClientError: the array does not fit the model.
        """
        self._chunks.append(memoryview(chunk))
        self._size += len(chunk)
        header = self._header or self._take_header()
        if header is None:
            return
        missing_bytes = header.row_bytes * (header.rows - self._rows) - self._size
        if missing_bytes < 0:
            raise ClientError(
                f"the body is {-missing_bytes} bytes longer than its header declares: {header}"
            )
        has_block = self._size >= max(BLOCK_BYTES, header.row_bytes) and not header.is_column_major
        if self._size and (missing_bytes == 0 or has_block):
            yield from self._read_rows(header)

    def finish(self) -> Iterator[TableRows]:
        """Yield nothing: the header holds the row count, so `feed` has yielded every row.

        Raises:
            ClientError: the header is incomplete, or there are fewer bytes than it declares.
        """
        header = self._header
        if header is None:
            raise ClientError(f"expected an array as numpy.save writes it, got {self._size} bytes")
        missing_bytes = header.row_bytes * (header.rows - self._rows) - self._size
        if missing_bytes:
            raise ClientError(
                f"the body is {missing_bytes} bytes shorter than its header declares: {header}"
            )
        yield from ()

    def _join_chunks(self) -> memoryview:
        if len(self._chunks) > 1:
            self._chunks = [memoryview(b"".join(self._chunks))]
        return self._chunks[0]

    def _set_pending(self, data: memoryview) -> None:
        self._chunks, self._size = [data], len(data)

    def _take_header(self) -> _Header | None:
        data = self._join_chunks()
        start = 10 if bytes(data[6:7]) == b"\x01" else 12
        if len(data) >= 6 and data[:6] != _MAGIC:
            raise ClientError("the body is not an array as numpy.save writes it")
        if len(data) < start:
            return None
        length = int.from_bytes(data[8:start], "little")
        if length > MAX_HEADER_BYTES:
            raise ClientError(f"the array's header: expected at most {MAX_HEADER_BYTES} bytes")
        if len(data) < start + length:
            return None
        header = _parse_header(bytes(data[start : start + length]))
        _check_header(header, self._spec)
        self._header = header
        self._set_pending(data[start + length :])
        return header

    def _read_rows(self, header: _Header) -> Iterator[TableRows]:
        data = self._join_chunks()
        rows = len(data) // header.row_bytes
        end = rows * header.row_bytes
        array = np.frombuffer(data[:end], header.dtype).reshape(
            (rows, *header.shape[1:]), order="F" if header.is_column_major else "C"
        )
        for start in range(0, rows, ROWS_PER_CALL):
            yield self._table_rows(array[start : start + ROWS_PER_CALL], self._rows + start + 1)
        self._rows += rows
        self._set_pending(data[end:])

    def _table_rows(self, array: Array, first_row: int) -> TableRows:
        layout = self.layout
        if layout.matrix is not None and not self._options.errors_in_rows:
            check_finite(array, layout, lambda index: f"row {first_row + index}")
            matrix = cast(array, layout.columns[0].spec.dtype)
            if matrix is not None:
                return TableRows(layout.matrix_call(matrix), len(array))

        def read(start: int, stop: int) -> Inputs:
            return self._read_inputs(array[start:stop], first_row + start)

        in_rows = self._options.errors_in_rows
        inputs, errors = read_rows(read, len(array), errors_in_rows=in_rows)
        call = None if inputs is None else layout.call(inputs)
        return TableRows(call, len(array), errors=errors)

    def _read_inputs(self, array: Array, first_row: int) -> Inputs:
        layout = self.layout

        def locate(index: int) -> str:
            return f"row {first_row + index}"

        if layout.matrix is None and len(layout.columns) == 1:
            column = layout.columns[0]
            return {column.name: _read_column(array, column, locate)}
        check_finite(array, layout, locate)
        columns = enumerate(layout.columns)
        return {c.name: _read_column(array[:, i], c, locate) for i, c in columns}


def _array_spec(layout: TableLayout) -> TensorSpec:
    """Return the dtype and shape that the array must have."""
    first = layout.columns[0] if layout.columns else None
    if first is not None and layout.matrix is None and len(layout.columns) == 1:
        spec = first.spec
    elif first is not None and layout.is_ordered:
        spec = TensorSpec(first.spec.dtype, (None, len(layout.columns)))
    else:
        raise ClientError(
            "an array has no column names, and the model does not describe the order of its inputs "
            f"{', '.join(layout.names)}; send another type"
        )
    for column in layout.columns:
        has_valid_shape = len(layout.columns) == 1 or column.spec.shape == (None,)
        if column.spec.dtype == STRING or column.spec.dtype not in DTYPES or not has_valid_shape:
            raise ClientError(
                f'column "{column.name}" is {column.spec}, and npy tables hold numbers; '
                "send another type"
            )
    return spec


def _check_header(header: _Header, spec: TensorSpec) -> None:
    shape = spec.shape
    fits = shape is None or (
        len(header.shape) == len(shape)
        and all(n is None or n == length for n, length in zip(shape, header.shape, strict=True))
    )
    if not fits or not header.shape:
        raise ClientError(f"expected an array of {spec}, got {header}")
    if header.rows == 0 or header.row_bytes == 0:
        raise ClientError(f"expected at least one row, got an array of {header}")
    if header.row_bytes > MAX_BYTES:
        raise ClientError(f"expected rows of at most {MAX_BYTES} bytes, got {header}", 413)
    if header.is_column_major and header.rows * header.row_bytes > MAX_BYTES:
        raise ClientError(
            f"arrays in column order (fortran_order) may have at most {MAX_BYTES} bytes; "
            "save numpy.ascontiguousarray(array) instead",
            413,
        )


def _parse_header(header: bytes) -> _Header:
    if _HEADER.fullmatch(header) is None:
        raise ClientError(f"the array's header is not as numpy.save writes it: {header[:100]!r}")
    items = dict(_ITEMS.findall(header))
    descr, shape = items.get(b"descr", b""), items.get(b"shape", b"")
    fortran_order = items.get(b"fortran_order")
    kind = _DTYPE.fullmatch(descr)
    if kind is None or fortran_order not in (b"True", b"False") or not shape.startswith(b"("):
        raise ClientError(f"expected an array of numbers, got one of {descr.decode('latin-1')}")
    try:
        dtype = np.dtype(kind[1].decode())
    except TypeError:
        raise ClientError(f"expected an array of numbers, got {descr.decode('latin-1')}") from None
    lengths = tuple(int(digits) for digits in re.findall(rb"\d+", shape))
    return _Header(dtype, fortran_order == b"True", lengths)


def _read_column(array: Array, column: TableColumn, locate: RowLocator) -> Array:
    values = cast(array, column.spec.dtype)
    return column.read_values(array.tolist(), locate) if values is None else values
