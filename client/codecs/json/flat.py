"""Conversion of lists of JSON values to flat arrays, without a Python loop over the values.

Every dialect tries this first. If it returns None, the slow path checks each value.

`struct` packs a list of numbers three times as fast as numpy, and rejects values that are not
numbers or are too large, where numpy would convert "5", null and 1.5 to integers.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from client.serving.tensors import DTYPES, STRING, Array

_TYPES: dict[str, frozenset[type]] = {
    "f": frozenset((int, float)),
    "i": frozenset((int,)),
    "u": frozenset((int,)),
    "b": frozenset((bool,)),
}
_FORMAT_CHARACTERS = {
    "float16": "e",
    "float32": "f",
    "float64": "d",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "bool": "?",
}
# For each dtype: struct's format character, the numpy dtype, and the types of JSON values.
_FORMS = {
    enum: (_FORMAT_CHARACTERS[dtype.name], dtype, _TYPES[dtype.kind])
    for enum, dtype in DTYPES.items()
    if dtype.name in _FORMAT_CHARACTERS
}


def flat_array(values: list[Any], dtype: int, *, no_booleans: bool = False) -> Array | None:
    """Return a list as a one-dimensional array; strings become an object array of bytes.

    Args:
        values: parsed JSON: numbers, booleans or strings.
        dtype: a `tensorflow.DataType`.
        no_booleans: whether the values are known to hold no booleans, which struct
            would pack as numbers.

    Returns:
        The array; None if a value has the wrong type or is out of range, or if the dtype has no
        JSON form. NaN and infinities, if the parser accepts them, are floats.
    """
    if dtype == STRING:
        is_text = set(map(type, values)) <= {str}
        return byte_array([value.encode() for value in values]) if is_text else None
    if dtype not in _FORMS:
        return None
    format_character, numpy_dtype, types = _FORMS[dtype]
    if not (no_booleans and format_character != "?") and not types.issuperset(map(type, values)):
        return None
    try:
        # "=" makes struct raise for a number too large for float32; "@" would pack infinity.
        return np.frombuffer(struct.pack(f"={len(values)}{format_character}", *values), numpy_dtype)
    except (struct.error, OverflowError):
        return None


def byte_array(values: list[bytes]) -> Array:
    """Return byte strings as a one-dimensional object array."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
