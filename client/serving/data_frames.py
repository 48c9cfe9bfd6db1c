"""Data frames as a signature's inputs; neither pandas nor polars is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from client.errors import InvalidArgumentError
from client.serving.columns import Column
from client.serving.columns.base import MissingBoolean
from client.serving.columns.date import DAY_MICROSECONDS, parse_days
from client.serving.schema import DENSE, DENSE_INPUT, Schema
from client.serving.tensors import DTYPES, STRING, dtype_name


def is_frame(values: Any) -> bool:
    """Return whether values are a table with named columns, such as a pandas or polars frame."""
    return hasattr(values, "columns") and hasattr(values, "__getitem__")


def from_frame(frame: Any, signature_name: str, schema: Schema) -> tuple[str, Mapping[str, Any]]:
    """Return the signature to run, and its inputs from a frame's columns.

    Columns are inputs of the same name. If `dense` computes the same from one matrix, it is run,
    since one tensor travels faster than one per column. A signature whose only input has another
    name takes the frame as a matrix, in the model's order of columns if it describes one, else in
    the frame's.

    Raises:
        InvalidArgumentError: a column is missing, unknown, or has values the input cannot take.
    """
    names = [str(name) for name in frame.columns]
    columns = dict(zip(names, frame.columns, strict=True))
    order = schema.dense_order(signature_name)
    signature = schema.signatures.get(signature_name)
    if order is not None:
        _check_names(names, order)
        inputs = schema.input_columns[DENSE][DENSE_INPUT]
        dtype = schema.signatures[DENSE].inputs[DENSE_INPUT].dtype
        values = [_convert(frame[columns[c.name]], dtype, c) for c in inputs]
        return DENSE, {DENSE_INPUT: np.column_stack(values)}
    if signature is None:
        return signature_name, {}  # the server's error names it
    by_input = schema.input_columns.get(signature_name, {})
    if len(signature.inputs) == 1 and names != list(signature.inputs):
        (input_name,) = signature.inputs
        by_name = {column.name: column for column in by_input.get(input_name, ())}
        order, dtype = tuple(by_name) or tuple(names), signature.inputs[input_name].dtype
        _check_names(names, order)
        values = [_convert(frame[columns[n]], dtype, by_name.get(n)) for n in order]
        return signature_name, {input_name: np.column_stack(values)}
    _check_names(names, tuple(signature.inputs))
    return signature_name, {
        name: _convert(frame[columns[name]], spec.dtype, next(iter(by_input.get(name, ())), None))
        for name, spec in signature.inputs.items()
    }


def from_array(array: Any, signature_name: str, schema: Schema) -> tuple[str, Mapping[str, Any]]:
    """Return the signature to run, and its only input or the matrix of `dense` from an array.

    Raises:
        InvalidArgumentError: the signature has several inputs.
    """
    if schema.dense_order(signature_name) is not None:
        return DENSE, {DENSE_INPUT: array}
    signature = schema.signatures.get(signature_name)
    inputs = list(signature.inputs) if signature else []
    if signature is not None and len(inputs) != 1:
        raise InvalidArgumentError(
            f"signature {signature_name} has several inputs; expected an array for each of "
            f"{', '.join(inputs)}, or a frame, got one {type(array).__name__}"
        )
    return signature_name, dict.fromkeys(inputs, array)


def _check_names(names: Sequence[str], expected: Sequence[str]) -> None:
    unknown = [name for name in names if name not in expected]
    missing = [name for name in expected if name not in names]
    listing = ", ".join(expected)
    if unknown:
        raise InvalidArgumentError(f'unknown column "{unknown[0]}"; the columns are {listing}')
    if missing:
        raise InvalidArgumentError(f'column "{missing[0]}" is missing; the columns are {listing}')


def _convert(series: Any, dtype: int, column: Column | None) -> Any:
    """Convert a column's values for the input."""
    values = series.to_numpy()
    if column is None:
        return values
    if values.dtype.kind == "M":
        if column.kind != "date":
            raise InvalidArgumentError(
                f"input {column.name}: expected {dtype_name(dtype)}, got dates"
            )
        missing = np.isnat(values)
        days = values.astype("datetime64[us]").astype(np.int64) / DAY_MICROSECONDS
        return np.where(missing, np.nan, days)
    kinds = {"f": "fiu", "i": "iu", "b": "b"}
    if values.dtype.kind in kinds.get(DTYPES[dtype].kind, ""):
        return values
    return [_encode_value(value, dtype, column) for value in values.tolist()]


def _encode_value(value: Any, dtype: int, column: Column) -> Any:
    """Encode a table's value for the input; it may be missing, or a number for a category."""
    if isinstance(value, bytes):
        return value
    # Comparisons of pandas.NA have no truth value, and NaT has `isoformat`.
    missing = value is None or type(value).__name__ in ("NAType", "NaTType") or value != value
    if column.kind == "date" and not missing and hasattr(value, "isoformat"):
        days = parse_days(value.isoformat())
        value = value if days is None else days
    encoded = column.encode(None if missing else value, dtype)
    if isinstance(encoded, MissingBoolean):
        return bool(encoded & 1)
    kinds: dict[str, Any] = {"O": str, "f": (int, float), "i": int, "b": bool}
    if encoded is None or not isinstance(encoded, kinds.get(DTYPES[dtype].kind, object)):
        expected = "strings" if dtype == STRING else column.expected or dtype_name(dtype)
        raise InvalidArgumentError(f"input {column.name}: expected {expected}, got {value!r}")
    return encoded
