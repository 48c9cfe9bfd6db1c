"""Conversion of JSON values to arrays, checking each value's type against the signature.

Bytes that are not text are `{"b64": "…"}`, as in TensorFlow Serving's dialect.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from client.errors import ClientError
from client.serving.columns import NEVER_MISSING, Column
from client.serving.columns.base import MissingBoolean
from client.serving.schema import TensorSpec
from client.serving.tensors import DTYPES, MAX_RANK, STRING, Array, dtype_name

Locator = Callable[[tuple[int, ...]], str]

_ALLOWED: dict[str, tuple[set[type], str]] = {
    "f": ({int, float}, "a number"),
    "i": ({int}, "an integer"),
    "u": ({int}, "an integer"),
    "b": ({bool}, "true or false"),
}


def to_array(
    values: Any, spec: TensorSpec, locate: Locator, columns: Sequence[Column] = ()
) -> Array:
    """Convert nested lists to an array of a signature's dtype and shape.

    Null becomes the column's missing value, and a date its days since 1970.

    Args:
        values: a value or nested lists of values.
        spec: spec of the input.
        locate: returns the position in the request of the element with an index.
        columns: the columns that consecutive values belong to, repeating for each row; empty if
            the model does not describe them.

    Raises:
        ClientError: a value has the wrong type, lists are of unequal length, or the shape is wrong.
    """
    shape: list[int] = []
    level: list[Any] = [values]
    rank = len(spec.shape) if spec.shape is not None else None
    while level and isinstance(level[0], list) and len(shape) != rank:
        if len(shape) == MAX_RANK:
            raise ClientError(f"{locate(())}: expected at most {MAX_RANK} nested lists")
        lengths = set(map(len, level)) if all(type(v) is list for v in level) else set()
        if len(lengths) != 1:
            raise _uneven_error(level, shape, locate)
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    dtype = DTYPES.get(spec.dtype)
    if dtype is None or dtype.kind == "c":
        raise ClientError(
            f"{locate(())}: values of {dtype_name(spec.dtype)} have no JSON form", 501
        )
    flat = _to_flat_array(level, spec.dtype, shape, locate, columns)
    _check_shape(tuple(shape), spec, locate)
    return flat.reshape(shape)


def _to_flat_array(
    values: list[Any], dtype: int, shape: Sequence[int], locate: Locator, columns: Sequence[Column]
) -> Array:
    """Check the types of the values and put them into a flat array."""

    def column_at(index: int) -> Column | None:
        return columns[index % len(columns)] if columns else None

    def error_at(index: int, expected: str) -> ClientError:
        position = tuple(int(i) for i in np.unravel_index(index, shape)) if shape else ()
        column, value = column_at(index), values[index]
        expected = column.expected if column and column.expected else expected
        message = f"{locate(position)}: expected {expected}, got {describe(value)}"
        return ClientError(f"{message}; {NEVER_MISSING}" if column and value is None else message)

    encoded, numpy_dtype = values, DTYPES[dtype]
    if columns:
        encoded = [columns[i % len(columns)].encode(v, dtype) for i, v in enumerate(values)]
    if dtype == STRING:
        flat = np.empty(len(encoded), object)
        for index, value in enumerate(encoded):
            text = _decode_string(value)
            if text is None:
                raise error_at(index, 'a string or {"b64": "..."}')
            flat[index] = text
        return flat
    allowed, expected = _ALLOWED[numpy_dtype.kind]
    if numpy_dtype.kind == "b" and any(type(value) is MissingBoolean for value in encoded):
        allowed, numpy_dtype = {*allowed, MissingBoolean}, np.dtype(np.int8)
    if not set(map(type, encoded)) <= allowed:
        for index, value in enumerate(encoded):
            if type(value) not in allowed:
                raise error_at(index, expected)
    try:
        with np.errstate(over="ignore"):
            array = np.array(encoded, numpy_dtype)
        if numpy_dtype.kind == "f":
            for index in np.flatnonzero(np.isinf(array)).tolist():
                if not math.isinf(encoded[index]):
                    limit = np.finfo(numpy_dtype).max
                    raise error_at(index, f"at most ±{limit:.8g}")
        return array
    except OverflowError:
        limits = np.iinfo(numpy_dtype)
        index = next(i for i, v in enumerate(encoded) if not limits.min <= v <= limits.max)
        raise error_at(index, f"an integer from {limits.min} to {limits.max}") from None


def _check_shape(shape: tuple[int, ...], spec: TensorSpec, locate: Locator) -> None:
    if not spec.accepts(shape):
        raise ClientError(f"{locate(())}: expected {spec}, got shape {list(shape)}")


def _uneven_error(level: list[Any], shape: Sequence[int], locate: Locator) -> ClientError:
    length = len(level[0])
    index = next(i for i, v in enumerate(level) if not isinstance(v, list) or len(v) != length)
    position = tuple(int(i) for i in np.unravel_index(index, shape))
    return ClientError(
        f"{locate(position)}: expected a list of {length} values like its neighbours, "
        f"got {describe(level[index])}"
    )


def _decode_string(value: Any) -> bytes | None:
    """Return the bytes of a JSON string or `{"b64": …}`, None if the value is neither."""
    if isinstance(value, str):
        return value.encode()
    if is_b64(value):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            return None
    return None


def is_b64(value: Any) -> bool:
    """Return whether a JSON value is `{"b64": …}`."""
    return isinstance(value, dict) and value.keys() == {"b64"}


def describe(value: Any) -> str:
    """Describe a JSON value briefly, for error messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'the string "{value[:40]}"' + ("..." if len(value) > 40 else "")
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    return str(value)
