"""Helpers that table writers share to write outputs as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import orjson

from client.codecs.tables.rows import TableRows
from client.errors import ClientError
from client.serving.tensors import Array

T = TypeVar("T")


def prepare_outputs(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs sorted by name, each contiguous.

    Raises:
        ClientError: their row counts differ, or they have no text form.
    """
    lengths = {array.shape[0] if array.ndim else None for array in outputs.values()}
    if len(lengths) != 1 or None in lengths:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(outputs.items()))
        raise ClientError(
            f"the outputs do not have one value for each row ({shapes}); "
            "request fewer of them, or send JSON"
        )
    for name, array in outputs.items():
        if array.dtype.kind == "c":
            raise ClientError(f"output {name}: values of {array.dtype.name} have no text form", 501)
    return {name: np.ascontiguousarray(array) for name, array in sorted(outputs.items())}


def number_texts(array: Array) -> list[bytes] | None:
    """Return the JSON of each number, null for NaN; None unless each row is one number."""
    if array.ndim != 1 or array.dtype.kind not in "bfiu":
        return None
    if not len(array):
        return []
    text = orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[1:-1].split(b",")


def expand_to_rows(values: Sequence[T], rows: TableRows, blank: T) -> Sequence[T]:
    """Return a value for each row: a prediction's, or a blank for rows with errors."""
    if not rows.errors:
        return values
    predicted = iter(values)
    return [blank if i in rows.errors else next(predicted) for i in range(rows.count)]
