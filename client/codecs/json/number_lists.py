"""Large lists of numbers straight into arrays.

simdjson writes the numbers of nested lists into one buffer. With 1000 rows of 30 that takes half
the time of making Python lists of them first.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import simdjson

from client.codecs.batches import Call
from client.codecs.input_layout import FLOATS, Layout, layout_of
from client.codecs.json.calls import JsonCall
from client.serving.schema import DEFAULT_SIGNATURE, Schema, TensorSpec
from client.serving.tensors import DTYPES, Array

# A parser keeps some three times the memory of the largest body it has read.
LARGEST_BYTES = 2**20
# Many short lists take longer this way: more colons than these near the start are too many keys.
START_BYTES = 4000
MOST_KEYS = 8

_local = threading.local()


def read_number_lists(body: bytes, schema: Schema) -> JsonCall | None:
    """Read a request that is nothing but lists of numbers.

    Args:
        body: JSON.
        schema: of the version that is asked for.

    Returns:
        None if the body is something else, or larger than `LARGEST_BYTES`.
    """
    if len(body) > LARGEST_BYTES or body.count(b":", 0, START_BYTES) > MOST_KEYS:
        return None
    try:
        return _read(_parser().parse(body), body, schema)
    except (KeyError, TypeError, ValueError, RuntimeError):
        return None


def _parser() -> Any:
    parser = getattr(_local, "parser", None)
    if parser is None:
        parser = _local.parser = simdjson.Parser()
    return parser


def _read(document: Any, body: bytes, schema: Schema) -> JsonCall | None:
    if not isinstance(document, simdjson.Object):
        return None
    named = "signature_name" in document
    name = document["signature_name"] if named else DEFAULT_SIGNATURE
    layout = layout_of(schema, name or DEFAULT_SIGNATURE) if type(name) is str else None
    # A key that is there twice counts twice.
    if layout is None or len(document) != 1 + named:
        return None
    if "instances" in document:
        return _read_rows(document["instances"], body, layout)
    return _read_columns(document["inputs"], body, layout)


def _read_rows(rows: Any, body: bytes, layout: Layout) -> JsonCall | None:
    if layout.plain_rows is None or not len(rows):
        return None
    array, lists = _array(rows, layout.plain_rows)
    if array is None or _count_lists(body) != lists:
        return None
    if len(layout.names) > 1:
        return JsonCall(layout.call(array), row_form=True)
    return JsonCall(Call(layout.signature_name, {layout.names[0]: array}), row_form=True)


def _read_columns(columns: Any, body: bytes, layout: Layout) -> JsonCall | None:
    if not isinstance(columns, simdjson.Object):
        columns = {layout.names[0]: columns}
    # The parser takes a name to end with its first zero.
    if len(columns) != len(layout.names) or any("\0" in name for name in layout.names):
        return None
    inputs: dict[str, Array] = {}
    total = 0
    for name, spec in zip(layout.names, layout.specs, strict=True):
        array, lists = _array(columns[name], spec)
        if array is None:
            return None
        inputs[name] = array
        total += lists
    if _count_lists(body) != total or len(set(map(len, inputs.values()))) != 1:
        return None
    if layout.dense:
        return JsonCall(layout.call(np.stack(list(inputs.values()), axis=1)), row_form=False)
    return JsonCall(Call(layout.signature_name, inputs), row_form=False)


def _array(values: Any, spec: TensorSpec) -> tuple[Array | None, int]:
    """Return lists of exactly the signature's shape as an array, and how many lists they are."""
    if not isinstance(values, simdjson.Array) or not spec.shape or spec.dtype not in FLOATS:
        return None, 0
    shape = [len(values)]
    lists = 1
    level: list[Any] = [values]
    for _ in spec.shape[1:]:
        level = [inner for outer in level for inner in outer]
        lengths = set(map(len, level))
        if len(lengths) != 1:
            return None, 0
        lists += len(level)
        shape.append(lengths.pop())
    if any(want not in (None, have) for want, have in zip(spec.shape, shape, strict=True)):
        return None, 0
    numbers = np.frombuffer(values.as_buffer(of_type="d"), np.float64)
    with np.errstate(over="ignore"):
        array = numbers.astype(DTYPES[spec.dtype]).reshape(shape)
    return (array, lists) if np.isfinite(array).all() else (None, 0)


def _count_lists(body: bytes) -> int:
    """Count the lists of a body, for the buffer does not tell of lists in place of numbers."""
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord("[")))
