"""Facts about the model for the page's scripts, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from client.codecs.example import example_request
from client.codecs.input_layout import JSON_DTYPES
from client.codecs.json.explanations import explains
from client.errors import ClientError
from client.serving.columns.numeric import plain_number
from client.serving.schema import DEFAULT_SIGNATURE, Column, Schema, Signature, TensorSpec
from client.serving.tensors import DTYPES, STRING

Json = dict[str, Any]

# TensorFlow Serving's convention for strings that are not text, such as encoded pictures.
BYTES_SUFFIX = "_bytes"
# Smaller matrices are unlikely to be pictures.
MIN_PIXELS = 8
RANK_WITH_CHANNELS = 4


def model_data(
    schema: Schema,
    *,
    reports: Sequence[int],
    rollout: bool,
    feedback: bool,
    accepts_missing: bool,
) -> Json:
    """Return the facts about a served version that the page needs.

    Args:
        schema: the version's schema.
        reports: versions of the model whose training report can be shown.
        rollout: whether another version may be on trial.
        feedback: whether `/feedback` is on.
        accepts_missing: whether the service accepts missing values where the model does.

    Returns:
        `columns` has a field for each column; it is empty if the model's rows do not fit into a
        form. `classes`, `threshold`, `label` and `trained_at` are null without a description.
    """
    description = schema.description
    return {
        "model": schema.model,
        "version": schema.version,
        "label": description.label_name if description else None,
        "classes": description.class_names if description else None,
        "threshold": description.threshold if description else None,
        "trained_at": description.trained_at if description else None,
        "metrics": description.metrics if description else {},
        "metric_intervals": description.intervals if description else {},
        "reference": _parse_json(description.reference if description else None),
        "explains": explains(schema),
        "reports": reports,
        "rollout": rollout,
        "feedback": feedback,
        "columns": _fields(schema, accepts_missing),
        "signatures": {name: _signature(s) for name, s in schema.signatures.items()},
        "example": _example(schema),
    }


def data_block(data: Any) -> str:
    """Return JSON that is safe inside a script element; NaN becomes null."""
    return orjson.dumps(data).decode().replace("<", "\\u003c")


def _fields(schema: Schema, accepts_missing: bool) -> list[Json]:
    """Return the form's fields; none if the model's rows do not fit into a form."""
    signature = schema.signatures.get(DEFAULT_SIGNATURE)
    if signature is None or not signature.batched:
        return []
    if any(spec.dtype not in JSON_DTYPES for spec in signature.inputs.values()):
        return []
    order = schema.column_order(DEFAULT_SIGNATURE)
    if order is None or schema.description is None:
        return [_plain_field(name, spec) for name, spec in sorted(signature.inputs.items())]
    columns: Mapping[str, Column] = {c.name: c for c in schema.description.columns}
    return [
        _described_field(columns[name], signature.inputs[name], accepts_missing) for name in order
    ]


def _plain_field(name: str, spec: TensorSpec) -> Json:
    """Return the field of an input that the model does not describe."""
    scalar = spec.shape == (None,)
    kind = _type(spec) if scalar else "tensor"
    if kind == "text" and name.endswith(BYTES_SUFFIX):
        kind = "bytes"
    return {
        "name": name,
        "kind": kind,
        "type": kind if scalar else "tensor",
        "shape": None if scalar else str(spec),
        "range": None,
        "examples": [],
        "values": ["false", "true"] if kind == "boolean" else [],
        "missing": False,
        "picture": _picture(spec),
    }


def _picture(spec: TensorSpec) -> Json | None:
    """Return the size of the pictures that an input can take, None if it takes none.

    Pictures are `[batch, height, width]` or `[batch, height, width, channels]`.
    """
    match spec.shape:
        case (None, int(height), int(width)):
            channels = 1
        case (None, int(height), int(width), (1 | 3 | 4) as channels):
            pass
        case _:
            return None
    kind = _type(spec)
    if min(height, width) < MIN_PIXELS or kind not in ("integer", "number"):
        return None
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "has_channels": len(spec.shape) == RANK_WITH_CHANNELS,
        "is_integer": kind == "integer",
    }


def _described_field(column: Column, spec: TensorSpec, accepts_missing: bool) -> Json:
    return {
        "name": column.name,
        "kind": column.kind,
        "type": "date" if column.kind == "date" else _type(spec),
        "shape": None,
        "range": column.range,
        "examples": [_text(column.example(class_index, spec.dtype)) for class_index in (0, 1)],
        "values": column.vocabulary,
        "missing": accepts_missing and column.takes_missing(spec.dtype),
        "picture": None,
    }


def _type(spec: TensorSpec) -> str:
    """Return the JSON type of an input's values."""
    if spec.dtype == STRING:
        return "text"
    kind = DTYPES[spec.dtype].kind if spec.dtype in DTYPES else ""
    return {"b": "boolean", "i": "integer", "u": "integer"}.get(kind, "number")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return plain_number(value, 4) if isinstance(value, float) else str(value)


def _signature(signature: Signature) -> Json:
    return {
        "inputs": {name: str(spec) for name, spec in signature.inputs.items()},
        "outputs": {name: str(spec) for name, spec in signature.outputs.items()},
    }


def _parse_json(text: str | None) -> Any:
    return orjson.loads(text) if text else None


def _example(schema: Schema) -> Json | None:
    """Return the body of an example request, None if the model's inputs have no JSON form."""
    try:
        return example_request(schema)
    except ClientError:
        return None
