"""`/feedback` in the OpenAPI document."""

from __future__ import annotations

from client.codecs.content_types import CSV, NDJSON, TSV
from client.codecs.feedback import MAX_ERRORS, MAX_ROW
from client.http import paths
from client.http.errors import PROBLEM
from client.http.openapi.parts import (
    json_content,
    object_schema,
    query_parameter,
    reference,
)
from client.http.openapi.schemas import Json
from client.serving.schema import Schema

ERRORS = (404, 408, 413, 415, 429, 500, 503, 504)


def feedback_operation(schema: Schema | None) -> Json:
    """Return the operation.

    Args:
        schema: schema of the default model; None if it is not served.
    """
    description = schema.description if schema is not None else None
    class_names = description.class_names if description is not None else ("yes", "no")
    row: Json = {
        "type": "object",
        "properties": {
            "id": {
                "type": "string",
                "pattern": "^[A-Za-z0-9_.:/=+-]{1,128}$",
                "description": "the prediction's X-Prediction-ID",
            },
            "row": {
                "type": "integer",
                "minimum": 0,
                "maximum": MAX_ROW,
                "description": "index of the row in the request, from 0",
            },
            "label": {
                "type": ["string", "number", "boolean"],
                "minLength": 1,
                "description": "a class name of the model; any label if it has none",
                "examples": list(class_names),
            },
            "time": {
                "type": ["string", "null"],
                "format": "date-time",
                "description": "when the label became known; the time of the request if absent",
            },
        },
        "required": ["id", "label"],
        "additionalProperties": False,
        "examples": [{"id": "01a225d2-d9f1-75a2-b1d9-daee720d0ddf", "label": class_names[0]}],
    }
    row_error = object_schema(line={"type": "integer", "minimum": 1}, error={"type": "string"})
    counts = object_schema(
        accepted={"type": "integer", "minimum": 0},
        refused={"type": "integer", "minimum": 0},
        errors={"type": "array", "items": row_error, "maxItems": MAX_ERRORS},
    )
    body: Json = {"anyOf": [row, {"type": "array", "items": row, "minItems": 1}]}
    model_description = "the model that the labels belong to; the default model if absent"
    return {
        "operationId": "feedback",
        "summary": "Send the labels of earlier predictions",
        "description": "Invalid rows are refused one by one; the others are accepted. "
        "If a row has several labels, the last one received counts.",
        "parameters": [query_parameter("model", model_description)],
        "requestBody": {
            "required": True,
            "content": {**json_content(body), NDJSON: {}, CSV: {}, TSV: {}},
        },
        "responses": {
            "202": {
                "description": "Some or all rows were accepted",
                "content": json_content(counts),
            },
            "400": {
                "description": "No row was accepted, or the body could not be read to its end",
                "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
            **{str(status): reference(paths.FEEDBACK, status) for status in ERRORS},
        },
    }
