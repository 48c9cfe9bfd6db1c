"""Lists of JSON values to flat arrays, the quick way.

Every dialect tries this first. Where it gives None, `client.dialects.json_arrays` looks at each
value: to say which of them is wrong, or to read what may be written in another way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from client.tensors import DTYPES, STRING, Array

# Python finds the least and the greatest of so many numbers before numpy has begun.
FEW = 100

_TYPES: dict[str, frozenset[type]] = {
    "f": frozenset((int, float)),
    "i": frozenset((int,)),
    "u": frozenset((int,)),
    "b": frozenset((bool,)),
}
_WANTED = {dtype: wanted for dtype, wanted in DTYPES.items() if wanted.kind in _TYPES}
_LARGEST = {
    dtype: float(np.finfo(wanted).max) for dtype, wanted in _WANTED.items() if wanted.kind == "f"
}


def flat_array(values: list[Any], dtype: int) -> Array | None:
    """Return a list's values as an array of one dimension, strings as an object array of bytes.

    Args:
        values: as JSON is read: numbers, booleans or strings.
        dtype: a `tensorflow.DataType`.

    Returns:
        None if one of the values has the wrong type or is out of the type's range, or if the type
        has no JSON form.
    """
    types = set(map(type, values))
    if dtype == STRING:
        return byte_array([value.encode() for value in values]) if types <= {str} else None
    wanted = _WANTED.get(dtype)
    if wanted is None or not types <= _TYPES[wanted.kind]:
        return None
    largest = _LARGEST.get(dtype)
    try:
        if largest is None:
            return np.array(values, wanted)
        if 0 < len(values) <= FEW and -largest <= min(values) and max(values) <= largest:
            return np.array(values, wanted)
        with np.errstate(over="ignore"):
            array = np.array(values, wanted)
    except OverflowError:
        return None
    return None if np.isinf(array).any() else array


def byte_array(values: list[bytes]) -> Array:
    """Return strings of bytes as an object array of one dimension."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
