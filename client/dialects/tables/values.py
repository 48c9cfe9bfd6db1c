"""A model's outputs as rows: what the ways of writing tables as text share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import orjson

from client.dialects.flat import byte_array
from client.errors import ClientError
from client.json_arrays import to_json
from client.tensors import Array


def checked(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs in the order of their names.

    Raises:
        ClientError: they have no common number of rows.
    """
    lengths = {array.shape[0] if array.ndim else None for array in outputs.values()}
    if len(lengths) != 1 or None in lengths:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(outputs.items()))
        raise ClientError(
            f"the outputs do not have one value for each row ({shapes}); "
            "ask for some of them, or with JSON"
        )
    return dict(sorted(outputs.items()))


def number_texts(array: Array) -> list[bytes] | None:
    """Return the JSON text of each number, null if it is none; None if they are not one a row."""
    if array.ndim != 1 or array.dtype.kind not in "bfiu":
        return None
    if not len(array):
        return []
    text = orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[1:-1].split(b",")


def json_texts(name: str, array: Array) -> list[bytes]:
    """Return the JSON text of each row's value.

    Raises:
        ClientError: the values have no JSON form.
    """
    texts = number_texts(array)
    if texts is not None:
        return texts
    if array.ndim == 1 and array.dtype == np.object_:
        values = array.tolist()
        known = list(set(values))  # labels are few
        of = dict(zip(known, map(orjson.dumps, to_json(name, byte_array(known))), strict=True))
        return [of[value] for value in values]
    rows = to_json(name, np.ascontiguousarray(array))
    return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in rows]
