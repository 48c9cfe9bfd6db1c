"""Lists of JSON values to flat arrays, the quick way.

Every dialect tries this first. Where it gives None, `client.json_arrays` looks at each value: to
say which of them is wrong, or to read what may be written in another way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from client.tensors import DTYPES, STRING, Array

_TYPES: dict[str, set[type]] = {
    "f": {int, float},
    "i": {int},
    "u": {int},
    "b": {bool},
}


def flat_array(values: list[Any], dtype: int) -> Array | None:
    """Return a list's values as an array of one dimension, strings as an object array of bytes.

    Args:
        values: as JSON is read: numbers, booleans or strings.
        dtype: a `tensorflow.DataType`.

    Returns:
        None if one of the values has the wrong type, is not finite or out of the type's range, or
        if the type has no JSON form.
    """
    types = set(map(type, values))
    if dtype == STRING:
        return byte_array([value.encode() for value in values]) if types <= {str} else None
    wanted = DTYPES.get(dtype)
    if wanted is None or not types <= _TYPES.get(wanted.kind, set()):
        return None
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, wanted)
    except OverflowError:
        return None
    return array if wanted.kind != "f" or np.isfinite(array).all() else None


def byte_array(values: list[bytes]) -> Array:
    """Return strings of bytes as an object array of one dimension."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
