"""JSON Schemas of a model's rows and predictions, generated from the model's schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from client.codecs.example import example_rows
from client.codecs.oip.tensors import datatype
from client.serving.schema import Column, Schema, TensorSpec
from client.serving.tensors import DTYPES, STRING, dtype_name

Json = dict[str, Any]

BASE64: Json = {
    "type": "object",
    "description": "bytes that need not be text",
    "properties": {"b64": {"type": "string", "contentEncoding": "base64"}},
    "required": ["b64"],
    "additionalProperties": False,
}


def value_schema(dtype: int) -> Json:
    """Return the schema of one value that a model takes."""
    if dtype == STRING:
        return {"anyOf": [{"type": "string"}, BASE64]}
    numpy_dtype = DTYPES.get(dtype)
    if numpy_dtype is None or numpy_dtype.kind == "c":
        return {"description": f"{dtype_name(dtype)}, which has no JSON form"}
    if numpy_dtype.kind == "b":
        return {"type": "boolean"}
    if numpy_dtype.kind == "f":
        return {"type": "number", **_float_limits(numpy_dtype)}
    limits = np.iinfo(numpy_dtype)
    return {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}


def answer_schema(dtype: int) -> Json:
    """Return the schema of one output value; NaN and infinities are null."""
    if dtype == STRING:
        return {"anyOf": [{"type": "string"}, BASE64]}
    numpy_dtype = DTYPES.get(dtype)
    kind = "" if numpy_dtype is None else numpy_dtype.kind
    if kind == "f":
        return {"type": ["number", "null"]}
    return {"b": {"type": "boolean"}, "i": {"type": "integer"}, "u": {"type": "integer"}}.get(
        kind, {}
    )


def row_value(spec: TensorSpec, value: Json) -> Json:
    """Return the schema of a tensor's values in one row.

    Args:
        spec: spec of the tensor, whose first dimension is the rows.
        value: JSON Schema of a single value.
    """
    if spec.shape is None:
        return {"description": f"{dtype_name(spec.dtype)} of any shape"}
    schema = value
    for length in reversed(spec.shape[1:]):
        schema = _list(schema, length)
    return schema


def column_schema(column: Column, spec: TensorSpec) -> Json:
    """Return the schema of a column's value, with examples from training."""
    schema = column.describe(value_schema(spec.dtype))
    schema["examples"] = column.examples(spec.dtype)
    if column.takes_missing(spec.dtype):
        schema["description"] = f"{schema.get('description', '')}; may be missing".lstrip("; ")
        if "type" in schema:
            schema["type"] = [schema["type"], "null"]
        else:
            schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
    return schema


def row_schema(schema: Schema, signature_name: str) -> Json:
    """Return the schema of a row as an object: a value for each input."""
    inputs = schema.signatures[signature_name].inputs
    columns_by_input = schema.input_columns.get(signature_name, {})
    columns = {name: next(iter(columns_by_input.get(name, ())), None) for name in inputs}
    properties = {}
    for name in schema.column_order(signature_name) or inputs:
        spec, column = inputs[name], columns[name]
        properties[name] = (
            row_value(spec, value_schema(spec.dtype))
            if column is None or spec.shape != (None,)
            else column_schema(column, spec)
        )
    row: Json = {
        "type": "object",
        "properties": properties,
        "required": [n for n, c in columns.items() if c is None or not c.missing],
        "additionalProperties": False,
    }
    examples = example_rows(schema, signature_name)
    return {**row, "examples": examples} if examples else row


def outputs_schema(outputs: Mapping[str, TensorSpec]) -> Json:
    """Return the schema of a row's prediction: an object, or the value of the only output."""
    values = {n: row_value(s, answer_schema(s.dtype)) for n, s in outputs.items()}
    if len(values) == 1:
        return next(iter(values.values()))
    return {"type": "object", "properties": values, "required": list(values)}


def tensor_schema(name: str, spec: TensorSpec) -> Json:
    """Return the schema of an input as the Open Inference Protocol writes it."""
    shape = "any" if spec.shape is None else [-1 if n is None else n for n in spec.shape]
    return {
        "type": "object",
        "description": f"shape {shape}",
        "properties": {
            "name": {"const": name},
            "datatype": {"const": datatype(spec.dtype)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
        "required": ["name", "datatype", "shape"],
    }


def _float_limits(dtype: np.dtype[Any]) -> Json:
    """Return the limits beyond which a number would become infinite."""
    limits = np.finfo(dtype)
    largest = float(limits.max)
    if dtype.itemsize == np.dtype(np.float64).itemsize:
        return {"minimum": -largest, "maximum": largest}
    # Numbers up to half a step beyond the largest are rounded to it.
    limit = largest + 2.0 ** (limits.maxexp - limits.nmant - 2)
    return {"exclusiveMinimum": -limit, "exclusiveMaximum": limit}


def _list(items: Json, length: int | None) -> Json:
    schema: Json = {"type": "array", "items": items}
    return schema if length is None else {**schema, "minItems": length, "maxItems": length}
