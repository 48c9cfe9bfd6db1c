"""`/predict`, and TensorFlow Serving's REST dialect under `/v1`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from client.codecs.content_types import READABLE, WRITABLE
from client.codecs.example import example_rows
from client.codecs.json.codec import has_threshold
from client.codecs.json.explanations import explains
from client.codecs.response import JSON
from client.http import paths
from client.http.openapi.parts import (
    GET_ERRORS,
    json_content,
    object_schema,
    operation_id,
    path_item,
    query_parameter,
    responses,
)
from client.http.openapi.schemas import (
    Json,
    outputs_schema,
    row_schema,
    row_value,
    value_schema,
)
from client.serving.schema import DEFAULT_SIGNATURE, EXPLAIN, Schema

_METHODS = {
    "classify": "tensorflow/serving/classify",
    "regress": "tensorflow/serving/regress",
}


def predict_operation(schema: Schema) -> Json:
    """Return the operation of `/predict`."""
    operation = _predict(paths.PREDICT, schema, _row(schema, DEFAULT_SIGNATURE), "predict")
    response = operation["responses"]["200"]["content"][JSON]["schema"]
    extra: Json = {"model": {"const": schema.model}, "version": {"type": "integer"}}
    threshold: Json = {"type": "number", "minimum": 0, "maximum": 1}
    if has_threshold(schema, DEFAULT_SIGNATURE):
        extra["threshold"] = threshold
        description = "probability at and above which the label is the second class"
        for form in operation["requestBody"]["content"][JSON]["schema"]["anyOf"]:
            form["properties"]["threshold"] = {**threshold, "description": description}
    for form in response["anyOf"]:
        form["properties"].update(extra)
    return operation


def explain_operation(path: str, schema: Schema, name: str) -> Json:
    """Return an operation that explains rows."""
    number: Json = {"type": ["number", "null"]}
    columns = schema.column_order(EXPLAIN) or ()
    contribution = object_schema(**dict.fromkeys(columns, number))
    explanation = object_schema(
        bias=number, contribution={**contribution, "additionalProperties": False}
    )
    response = object_schema(explanations={"type": "array", "items": explanation})
    body = _body(schema, EXPLAIN, _row(schema, EXPLAIN))
    return {
        "operationId": name,
        "summary": f"Explain predictions of {schema.model} by column contributions to the log-odds",
        "requestBody": {"required": True, "content": json_content(body)},
        "responses": responses(path, json_content(response)),
    }


def _row(schema: Schema, signature_name: str) -> Json:
    """Return the schema of a row: an object, or a list in column order."""
    row = row_schema(schema, signature_name)
    order = schema.column_order(signature_name)
    if order is None:
        return row
    count = len(order)
    values = [row["properties"][name] for name in order]
    listed = {"type": "array", "prefixItems": values, "minItems": count, "maxItems": count}
    listed["description"] = f"values in the order {', '.join(order)}"
    return {"anyOf": [row, listed]}


def _body(schema: Schema, signature_name: str, row: Json, members: Json | None = None) -> Json:
    """Return the schema of a request body, in row form and in column form.

    Args:
        schema: schema of the model.
        signature_name: the signature that takes the rows.
        row: JSON Schema of a row.
        members: JSON Schemas of additional members, by key.
    """
    signature = schema.signatures[signature_name]
    members = members or {}
    rows = {"type": "array", "items": row, "minItems": 1}
    columns = object_schema(
        **{
            input_name: {"type": "array", "items": row_value(spec, value_schema(spec.dtype))}
            for input_name, spec in signature.inputs.items()
        }
    )
    # The values of a single input need no name; another signature may have only one input.
    is_plain = bool(members) or len(signature.inputs) == 1
    all_values = {"anyOf": [columns, {"type": "array"}]} if is_plain else columns
    body: Json = {
        "anyOf": [
            {
                "type": "object",
                "properties": {"instances": rows, **members},
                "required": ["instances"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "description": "all values of each input together",
                "properties": {"inputs": all_values, **members},
                "required": ["inputs"],
                "additionalProperties": False,
            },
        ]
    }
    examples = example_rows(schema, signature_name)
    if examples:
        body["examples"] = [{"instances": examples}]
    return body


def _predict(path: str, schema: Schema, row: Json, name: str) -> Json:
    """Return an operation that predicts, in JSON or as a table."""
    members = {
        "signature_name": {
            "type": "string",
            "enum": sorted(schema.signatures),
            "default": DEFAULT_SIGNATURE,
            "description": "rows are described for the default signature",
        }
    }
    body = _body(schema, DEFAULT_SIGNATURE, row, members)
    predictions = {"type": "array", "items": _any_prediction(schema)}
    response = {"anyOf": [object_schema(predictions=predictions), object_schema(outputs={})]}
    tables: Json = {content_type: {} for content_type in WRITABLE if content_type != JSON}
    return {
        "operationId": name,
        "summary": f"Predict rows with {schema.model}",
        "parameters": [
            query_parameter("signature_name", "for tables: the signature to run"),
            query_parameter("outputs", "for tables: the outputs to return (a,b)"),
            query_parameter("id", "for tables: a column to copy to the response, placed first"),
            query_parameter("keep", "for tables: columns to copy to the response (a,b), or all"),
            query_parameter(
                "on_error",
                "for tables: whether a bad row fails the table or is answered with its error",
                ("table", "row"),
            ),
            query_parameter(
                "csv_guard",
                "for CSV: whether to escape text that looks like a formula",
                ("on", "off"),
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {**json_content(body), **{content_type: {} for content_type in READABLE}},
        },
        "responses": responses(path, {**json_content(response), **tables}),
    }


def _any_prediction(schema: Schema) -> Json:
    """Return the schema of a row's prediction by any signature, the default one first."""
    names = sorted(schema.signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name))
    forms: list[Json] = []
    for name in names:
        form = outputs_schema(schema.signatures[name].outputs)
        if form not in forms:
            forms.append(form)
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def rest_paths(schema: Schema) -> Json:
    """Return TensorFlow Serving's REST dialect for one model."""
    items: Json = {}
    for selector in (paths.LATEST, paths.VERSION, paths.LABEL):
        base = paths.for_model(paths.template(paths.V1, selector), schema.model)
        for verb, operation in _verbs(schema, selector).items():
            items[f"{base}:{verb}"] = path_item(selector, post=operation)
        items[base] = path_item(selector, get=_status(schema, selector))
        items[f"{base}/metadata"] = path_item(selector, get=_metadata(schema, selector))
    return items


def _verbs(schema: Schema, selector: str) -> Json:
    """Return a model's POST operations."""
    verbs: Json = {}
    if DEFAULT_SIGNATURE in schema.signatures:
        name = operation_id(schema, selector, "predict")
        row = row_schema(schema, DEFAULT_SIGNATURE)
        inputs = schema.signatures[DEFAULT_SIGNATURE].inputs
        if len(inputs) == 1:
            (only,) = row["properties"].values()
            row = {"anyOf": [only, row]}
        verbs["predict"] = _predict(paths.V1, schema, row, name)
    for verb, method in _METHODS.items():
        names = [n for n, info in _definitions(schema).items() if info.method_name == method]
        if names:
            verbs[verb] = _examples(schema, selector, verb, names)
    if explains(schema):
        verbs["explain"] = explain_operation(
            paths.V1, schema, operation_id(schema, selector, "explain")
        )
    return verbs


def _definitions(schema: Schema) -> Mapping[str, Any]:
    return schema.definition.signature_def if schema.definition else {}


def _examples(schema: Schema, selector: str, verb: str, names: Sequence[str]) -> Json:
    examples = {"type": "array", "items": {"type": "object"}, "minItems": 1}
    body = {
        "type": "object",
        "properties": {
            "examples": examples,
            "context": {"type": "object"},
            "signature_name": {"type": "string", "enum": sorted(names)},
        },
        "required": ["examples"],
    }
    label = {"type": "array", "prefixItems": [{"type": "string"}, {"type": ["number", "null"]}]}
    result = (
        {"type": "array", "items": label} if verb == "classify" else {"type": ["number", "null"]}
    )
    return {
        "operationId": operation_id(schema, selector, verb),
        "summary": f"{verb.capitalize()} examples with {schema.model}",
        "requestBody": {"required": True, "content": json_content(body)},
        "responses": responses(
            paths.V1, json_content(object_schema(results={"type": "array", "items": result}))
        ),
    }


def _status(schema: Schema, selector: str) -> Json:
    state = {"enum": ["UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"]}
    reason = object_schema(error_code={"type": "string"}, error_message={"type": "string"})
    version = object_schema(version={"type": "string"}, state=state, status=reason)
    response = object_schema(model_version_status={"type": "array", "items": version})
    return {
        "operationId": operation_id(schema, selector, "status"),
        "summary": f"Get the state of the versions of {schema.model}",
        "responses": responses(paths.V1, json_content(response), GET_ERRORS),
    }


def _metadata(schema: Schema, selector: str) -> Json:
    response = object_schema(model_spec={"type": "object"}, metadata={"type": "object"})
    return {
        "operationId": operation_id(schema, selector, "metadata"),
        "summary": f"Get the signatures of {schema.model}",
        "responses": responses(paths.V1, json_content(response), GET_ERRORS),
    }
