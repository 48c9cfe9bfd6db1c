"""Conversion of JSON values to arrays by TensorFlow Serving's rules.

All values are converted at once. Only if that fails are they checked one by one, in TensorFlow
Serving's order, so that the same value is reported.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from client.codecs.input_layout import FLOATS
from client.codecs.json.flat import byte_array, flat_array
from client.codecs.tfs_rest.document import Members, describe, invalid_request, to_bytes
from client.errors import ClientError
from client.serving.protos import DataType
from client.serving.tensors import BOOL, DTYPES, MAX_RANK, STRING, Array

INT32 = DataType.Value("DT_INT32")
# Read as int32; values out of range wrap around.
NARROW = frozenset(map(DataType.Value, ("DT_INT8", "DT_INT16", "DT_UINT8")))
LIMITS = {
    dtype: np.iinfo(DTYPES[INT32 if dtype in NARROW else dtype])
    for dtype in (
        INT32,
        *NARROW,
        *map(DataType.Value, ("DT_INT64", "DT_UINT32", "DT_UINT64")),
    )
}
_BASE64 = re.compile(r"([A-Za-z0-9+/]*)([=.]*)")
_SPACE = re.compile(r"[ \t\n\v\f\r]+")


class ValueMismatchError(ClientError):
    """A value has the wrong type; the message begins with "expected"."""


def to_array(value: Any, dtype: int) -> Array | None:
    """Return a value or nested lists as an array.

    Returns:
        The array; None if a value has the wrong type, lists have unequal lengths, or there are more
        than `MAX_RANK` dimensions.
    """
    shape = infer_shape(value)
    level = [value]
    for length in shape:
        if not all(type(v) is list and len(v) == length for v in level):
            return None
        level = list(chain.from_iterable(level))
    flat = _to_flat_array(level, dtype)
    return None if flat is None or len(shape) > MAX_RANK else flat.reshape(shape)


def infer_shape(value: Any) -> list[int]:
    """Return the lengths of a list, of its first element, and so on inwards."""
    shape = []
    while type(value) is list:
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def check(value: Any, dtype: int, shape: Sequence[int], level: int = 0) -> int:
    """Raise the first error in a value or nested lists; return the number of values.

    Args:
        value: a value or nested lists.
        dtype: the values' `tensorflow.DataType`.
        shape: the lengths of the lists.
        level: nesting depth of the value.
    """
    if type(value) is not list:
        if level != len(shape):
            raise _mismatch_error(f"a list of {shape[level]}", value)
        if type(value) is Members and dtype == STRING:
            decode_b64(value)
        elif not _fits(value, dtype):
            raise _type_error(value, dtype)
        return 1
    if level >= len(shape):
        raise invalid_request(
            f"Encountered list at unexpected level: {level} expected < {len(shape)}"
        )
    if len(value) != shape[level]:
        raise invalid_request(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    if level + 1 == len(shape) and _to_flat_array(value, dtype) is not None:
        return len(value)
    count = 0
    for inner in value:
        count += check(inner, dtype, shape, level + 1)
    return count


def is_b64(value: Any) -> bool:
    """Return whether a value is `{"b64": "..."}`."""
    return (
        type(value) is Members
        and len(value) == 1
        and value[0][0] == "b64"
        and isinstance(value[0][1], str)
    )


def decode_b64(value: Any) -> bytes:
    """Return the bytes of `{"b64": "..."}`.

    Whitespace is skipped, and the padding may be absent or consist of dots.

    Raises:
        ClientError: the value is not such an object, or not base64.
    """
    if not is_b64(value):
        raise _mismatch_error('a string or {"b64": "..."}', value)
    match = _BASE64.fullmatch(_SPACE.sub("", value[0][1]))
    if match is not None:
        digits, padding = match[1], match[2]
        pad_length = -len(digits) % 4
        if pad_length != 3 and len(padding) in (0, pad_length):
            return base64.b64decode(digits + "=" * pad_length)
    raise invalid_request("Unable to base64 decode")


def _to_flat_array(values: list[Any], dtype: int) -> Array | None:
    """Return values as a one-dimensional array, None if a value has the wrong type."""
    types = set(map(type, values))
    if dtype == STRING:
        if not types <= {str, Members}:
            return None
        try:
            return byte_array([to_bytes(v) if type(v) is str else decode_b64(v) for v in values])
        except ClientError:
            return None
    if dtype in FLOATS:
        if not types <= {int, float}:
            return None
        with np.errstate(over="ignore"):
            return np.array(values, DTYPES[dtype])
    if dtype in NARROW:
        integers = flat_array(values, INT32)
        return None if integers is None else integers.astype(DTYPES[dtype])
    if dtype in LIMITS or dtype == BOOL:
        return flat_array(values, dtype)
    return np.empty(0, DTYPES[dtype]) if not values and dtype in DTYPES else None


def _fits(value: Any, dtype: int) -> bool:
    if dtype in FLOATS:
        return type(value) in (int, float)
    if dtype in LIMITS:
        return type(value) is int and LIMITS[dtype].min <= value <= LIMITS[dtype].max
    return type(value) is {BOOL: bool, STRING: str}.get(dtype)


def _type_error(value: Any, dtype: int) -> ClientError:
    name = DataType.Name(dtype).removeprefix("DT_").lower()
    has_json_form = dtype in FLOATS or dtype in LIMITS or dtype in (BOOL, STRING)
    if not has_json_form and type(value) is not Members:
        return ClientError(f"values of {name} have no JSON form", 501)
    return _mismatch_error(name, value)


def _mismatch_error(expected: str, value: Any) -> ClientError:
    return ValueMismatchError(
        invalid_request(f"expected {expected}, got {describe(value)}").message
    )
