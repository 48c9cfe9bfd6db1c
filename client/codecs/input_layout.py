"""Input layouts: how JSON rows and columns fill a signature's inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from client.codecs.batches import Call
from client.serving.protos import DataType
from client.serving.schema import DENSE, DENSE_INPUT, Schema, TensorSpec
from client.serving.tensors import STRING, Array

FLOATS = frozenset(map(DataType.Value, ("DT_FLOAT", "DT_DOUBLE")))
# The dtypes that TensorFlow Serving reads from JSON: no uint16, float16, bfloat16 or complex.
JSON_DTYPES = FLOATS | frozenset(
    map(
        DataType.Value,
        (
            "DT_INT8",
            "DT_INT16",
            "DT_INT32",
            "DT_INT64",
            "DT_UINT8",
            "DT_UINT32",
            "DT_UINT64",
            "DT_BOOL",
            "DT_STRING",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Layout:
    """How well-formed requests fill a signature's inputs.

    Attributes:
        signature_name: the signature's name.
        names: the inputs' names, in the table's order if it is known.
        specs: the inputs' specs.
        is_ordered: whether the column order is known, so that a plain list can be a row.
        pick: returns an object's values in the order of `names`.
        matrix_dtype: the dtype of all inputs if each takes one number per row, so that the rows
            form a matrix; None otherwise.
        has_dense: whether the signature `dense` computes the same from that matrix.
        has_strings: whether an input takes strings.
    """

    signature_name: str
    names: tuple[str, ...]
    specs: tuple[TensorSpec, ...]
    is_ordered: bool
    pick: Callable[[Any], tuple[Any, ...]]
    matrix_dtype: int | None
    has_dense: bool
    has_strings: bool

    def call(self, matrix: Array) -> Call:
        """Return the call for a matrix that has a column for each input."""
        if self.has_dense:
            return Call(DENSE, {DENSE_INPUT: matrix})
        columns = np.ascontiguousarray(matrix.T)
        return Call(self.signature_name, dict(zip(self.names, columns, strict=True)))


def find_layout(schema: Schema, signature_name: str) -> Layout | None:
    """Return a signature's layout, None if it does not exist or has no JSON form."""
    layout: Layout | None = schema.derived.get((Layout, signature_name))
    # Do not cache misses: names are chosen by callers.
    if layout is None and signature_name in schema.signatures:
        layout = schema.derived[Layout, signature_name] = _build_layout(schema, signature_name)
    return layout


def _build_layout(schema: Schema, signature_name: str) -> Layout | None:
    inputs = schema.signatures[signature_name].inputs
    order = schema.column_order(signature_name)
    names = order or tuple(inputs)
    specs = tuple(inputs[name] for name in names)
    if not specs or any(spec.dtype not in JSON_DTYPES for spec in specs):
        return None
    dtype = specs[0].dtype
    is_matrix = dtype in FLOATS and set(specs) == {TensorSpec(dtype, (None,))}
    return Layout(
        signature_name,
        names,
        specs,
        is_ordered=order is not None,
        pick=_picker(names),
        matrix_dtype=dtype if is_matrix else None,
        has_dense=schema.dense_order(signature_name) is not None,
        has_strings=any(spec.dtype == STRING for spec in specs),
    )


def _picker(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) == 1:
        (name,) = names
        return lambda row: (row[name],)
    return itemgetter(*names)
