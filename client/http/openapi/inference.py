"""The Open Inference Protocol under `/v2`."""

from __future__ import annotations

from client.codecs.example import example_rows
from client.codecs.oip.codec import BINARY
from client.codecs.oip.tensors import datatype
from client.http import paths
from client.http.openapi.parts import (
    GET_ERRORS,
    get_operation,
    json_content,
    not_ready,
    object_schema,
    operation_id,
    path_item,
    query_parameter,
    responses,
)
from client.http.openapi.schemas import Json, tensor_schema
from client.serving.columns.date import parse_days
from client.serving.schema import DEFAULT_SIGNATURE, Schema


def inference_paths(schema: Schema) -> Json:
    """Return the Open Inference Protocol for one model."""
    strings = {"type": "array", "items": {"type": "string"}}
    tensors = {"type": "array", "items": {"type": "object"}}
    model = object_schema(
        name={"const": schema.model},
        versions=strings,
        platform={"type": "string"},
        inputs=tensors,
        outputs=tensors,
    )
    is_ready = object_schema(name={"const": schema.model}, ready={"type": "boolean"})
    items: Json = {}
    for selector in (paths.LATEST, paths.VERSION):
        base = paths.for_model(paths.template(paths.V2, selector), schema.model)
        metadata = {
            "operationId": operation_id(schema, selector, "inference_metadata"),
            "summary": f"Get the inputs and outputs of {schema.model}",
            "parameters": [
                query_parameter("signature_name", "the signature to describe", schema.signatures)
            ],
            "responses": responses(base, json_content(model), GET_ERRORS),
        }
        ready = {
            "operationId": operation_id(schema, selector, "inference_ready"),
            "summary": f"Check that {schema.model} is available",
            "responses": responses(base, json_content(is_ready), (400, 404, 429, 500, 504))
            | not_ready(is_ready),
        }
        items[base] = path_item(selector, get=metadata)
        items[f"{base}/ready"] = path_item(selector, get=ready)
        items[f"{base}/infer"] = path_item(selector, post=_infer(schema, selector))
    return items


def _infer(schema: Schema, selector: str) -> Json:
    default = schema.signatures.get(DEFAULT_SIGNATURE)
    inputs: Json = {"type": "object", "required": ["name", "datatype", "shape"]}
    if default is not None:
        inputs["anyOf"] = [tensor_schema(name, spec) for name, spec in default.inputs.items()]
    body: Json = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": inputs},
            "outputs": {"type": "array", "items": object_schema(name={"type": "string"})},
        },
        "required": ["inputs"],
    }
    examples = example_rows(schema, DEFAULT_SIGNATURE) if default is not None else []
    if default is not None and schema.description is not None and examples:
        dates = {c.name for c in schema.description.columns if c.kind == "date"}
        tensors = [
            {
                "name": name,
                "shape": [len(examples)],
                "datatype": datatype(default.inputs[name].dtype),
                "data": [parse_days(row[name]) if name in dates else row[name] for row in examples],
            }
            for name in examples[0]
        ]
        body["examples"] = [{"inputs": tensors}]
    tensor = object_schema(
        name={"type": "string"},
        datatype={"type": "string"},
        shape={"type": "array", "items": {"type": "integer"}},
    )
    response = object_schema(
        model_name={"const": schema.model},
        model_version={"type": "string"},
        outputs={"type": "array", "items": tensor},
    )
    return {
        "operationId": operation_id(schema, selector, "infer"),
        "summary": f"Infer with {schema.model} by the Open Inference Protocol",
        "requestBody": {"required": True, "content": {**json_content(body), BINARY: {}}},
        "responses": responses(paths.V2, {**json_content(response), BINARY: {}}),
    }


def inference_server_paths() -> Json:
    """Return the protocol's operations for the server itself."""
    is_ready = object_schema(ready={"type": "boolean"})
    metadata = object_schema(
        name={"type": "string"},
        version={"type": "string"},
        extensions={"type": "array", "items": {"type": "string"}},
    )
    live = json_content(object_schema(live={"type": "boolean"}))
    ready = get_operation(
        paths.V2_READY,
        "inference_server_ready",
        "Check that the default model is available",
        json_content(is_ready),
    )
    ready["get"]["responses"].update(not_ready(is_ready))
    return {
        paths.V2: get_operation(
            paths.V2,
            "inference_server",
            "Get the server's name and version",
            json_content(metadata),
        ),
        paths.V2_LIVE: get_operation(
            paths.V2_LIVE, "inference_live", "Check that the process responds", live
        ),
        paths.V2_READY: ready,
    }
