"""JSON values to arrays, with the type of each value checked against the signature.

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
from client.serving.tensors import DTYPES, STRING, Array, dtype_name

MAX_RANK = 32

Place = Callable[[tuple[int, ...]], str]

_ALLOWED: dict[str, tuple[set[type], str]] = {
    "f": ({int, float}, "a number"),
    "i": ({int}, "an integer"),
    "u": ({int}, "an integer"),
    "b": ({bool}, "true or false"),
}


def to_array(values: Any, spec: TensorSpec, place: Place, columns: Sequence[Column] = ()) -> Array:
    """Turn nested lists into an array of a signature's dtype and shape.

    Null becomes the column's missing value, and a date its days since 1970.

    Args:
        values: a value, or nested lists of values.
        spec: the input they are for.
        place: returns where in the request an element is, given its index.
        columns: the columns that the values fill in turn; empty if the model does not describe
            them.

    Raises:
        ClientError: a value has the wrong type, lists are of unequal length, or the shape is wrong.
    """
    shape: list[int] = []
    level: list[Any] = [values]
    rank = len(spec.shape) if spec.shape is not None else None
    while level and isinstance(level[0], list) and len(shape) != rank:
        if len(shape) == MAX_RANK:
            raise ClientError(f"{place(())}: expected at most {MAX_RANK} nested lists")
        lengths = set(map(len, level)) if all(type(v) is list for v in level) else set()
        if len(lengths) != 1:
            raise _uneven(level, shape, place)
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    dtype = DTYPES.get(spec.dtype)
    if dtype is None or dtype.kind == "c":
        raise ClientError(f"{place(())}: values of {dtype_name(spec.dtype)} have no JSON form", 501)
    flat = _flat(level, spec.dtype, shape, place, columns)
    _check_shape(tuple(shape), spec, place)
    return flat.reshape(shape)


def _flat(
    level: list[Any], dtype: int, shape: Sequence[int], place: Place, columns: Sequence[Column]
) -> Array:
    """Check the types of the values and put them into a flat array."""

    def column_of(index: int) -> Column | None:
        return columns[index % len(columns)] if columns else None

    def fail(index: int, expected: str) -> ClientError:
        where = tuple(int(i) for i in np.unravel_index(index, shape)) if shape else ()
        column, got = column_of(index), sent[index]
        expected = column.expected if column and column.expected else expected
        message = f"{place(where)}: expected {expected}, got {kind_of(got)}"
        return ClientError(f"{message}; {NEVER_MISSING}" if column and got is None else message)

    sent, numpy_dtype = level, DTYPES[dtype]
    if columns:
        level = [columns[i % len(columns)].encode(value, dtype) for i, value in enumerate(sent)]
    if dtype == STRING:
        flat = np.empty(len(level), object)
        for index, value in enumerate(level):
            text = _string(value)
            if text is None:
                raise fail(index, 'a string or {"b64": "..."}')
            flat[index] = text
        return flat
    allowed, expected = _ALLOWED[numpy_dtype.kind]
    if numpy_dtype.kind == "b" and any(type(value) is MissingBoolean for value in level):
        allowed, numpy_dtype = {*allowed, MissingBoolean}, np.dtype(np.int8)
    if not set(map(type, level)) <= allowed:
        for index, value in enumerate(level):
            if type(value) not in allowed:
                raise fail(index, expected)
    try:
        with np.errstate(over="ignore"):
            values = np.array(level, numpy_dtype)
        if numpy_dtype.kind == "f":
            for index in np.flatnonzero(np.isinf(values)).tolist():
                if not math.isinf(level[index]):
                    limit = np.finfo(numpy_dtype).max
                    raise fail(index, f"at most ±{limit:.8g}")
        return values
    except OverflowError:
        limits = np.iinfo(numpy_dtype)
        index = next(i for i, v in enumerate(level) if not limits.min <= v <= limits.max)
        raise fail(index, f"an integer from {limits.min} to {limits.max}") from None


def _check_shape(shape: tuple[int, ...], spec: TensorSpec, place: Place) -> None:
    if not spec.accepts(shape):
        raise ClientError(f"{place(())}: expected {spec}, got shape {list(shape)}")


def _uneven(level: list[Any], shape: Sequence[int], place: Place) -> ClientError:
    length = len(level[0])
    index = next(i for i, v in enumerate(level) if not isinstance(v, list) or len(v) != length)
    where = tuple(int(i) for i in np.unravel_index(index, shape))
    return ClientError(
        f"{place(where)}: expected a list of {length} values like its neighbours, "
        f"got {kind_of(level[index])}"
    )


def _string(value: Any) -> bytes | None:
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


def kind_of(value: Any) -> str:
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
