"""A model's outputs as rows: what the ways of writing tables as text share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import orjson

from client.errors import ClientError
from client.serving.tensors import Array


def checked(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs in the order of their names, each in one piece of memory.

    Raises:
        ClientError: they have no common number of rows, or no form as text.
    """
    lengths = {array.shape[0] if array.ndim else None for array in outputs.values()}
    if len(lengths) != 1 or None in lengths:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(outputs.items()))
        raise ClientError(
            f"the outputs do not have one value for each row ({shapes}); "
            "ask for some of them, or with JSON"
        )
    for name, array in outputs.items():
        if array.dtype.kind == "c":
            raise ClientError(f"output {name}: values of {array.dtype.name} have no text form", 501)
    return {name: np.ascontiguousarray(array) for name, array in sorted(outputs.items())}


def number_texts(array: Array) -> list[bytes] | None:
    """Return the JSON text of each number, null if it is none; None if they are not one a row."""
    if array.ndim != 1 or array.dtype.kind not in "bfiu":
        return None
    if not len(array):
        return []
    text = orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[1:-1].split(b",")
