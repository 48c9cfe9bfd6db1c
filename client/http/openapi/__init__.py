"""The OpenAPI document of this service, generated from the served models."""

from __future__ import annotations

from collections.abc import Sequence

from client.codecs.json.explanations import explains
from client.http import paths
from client.http.openapi.feedback import feedback_operation
from client.http.openapi.inference import inference_paths, inference_server_paths
from client.http.openapi.parts import (
    ERROR,
    PROBLEM_SCHEMA,
    SECURITY,
    UNAUTHORIZED,
    error_responses,
    get_operation,
    json_content,
    object_schema,
    reference,
)
from client.http.openapi.rest import explain_operation, predict_operation, rest_paths
from client.http.openapi.schemas import Json
from client.http.openapi.stats import stats_operation
from client.serving.schema import DEFAULT_SIGNATURE, Schema

OPENAPI = "3.1.0"
PREDICTIONS, OPERATION = "Predictions", "Operation"
REST, PROTOCOL = "TensorFlow Serving", "Open Inference Protocol"
TAGS = {
    PREDICTIONS: "The default model, for people and programs",
    REST: "TensorFlow Serving's REST API, for every model",
    PROTOCOL: "The protocol of KServe and Triton, for every model",
    OPERATION: "Probes and statistics for operators",
}


def document(
    schemas: Sequence[Schema],
    *,
    default_model: str,
    title: str,
    version: str,
    description: str = "",
    keys: bool = False,
    feedback: bool = False,
) -> Json:
    """Return the OpenAPI 3.1 document.

    Args:
        schemas: schemas of the served models, each of the version that answers.
        default_model: the model of `/predict`.
        title: title of the service.
        version: version of the service.
        description: description of the service.
        keys: whether API keys are required.
        feedback: whether feedback is accepted.
    """
    items: Json = {}
    default = next((s for s in schemas if s.model == default_model), None)
    if default is not None and DEFAULT_SIGNATURE in default.signatures:
        items[paths.PREDICT] = {"post": predict_operation(default)}
    if default is not None and explains(default):
        items[paths.EXPLAIN] = {"post": explain_operation(paths.EXPLAIN, default, "explain")}
    if feedback:
        items[paths.FEEDBACK] = {"post": feedback_operation(default)}
    for schema in schemas:
        items.update(rest_paths(schema))
        items.update(inference_paths(schema))
    server_items = {**inference_server_paths(), **_operator_items()}
    spec: Json = {
        "openapi": OPENAPI,
        "info": {"title": title, "version": version, "description": description},
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": {**items, **server_items},
        "components": {
            "schemas": {"Error": ERROR, "Problem": PROBLEM_SCHEMA},
            "responses": error_responses(),
        },
    }
    for path, operation in _list_operations(spec["paths"]):
        operation["tags"] = [_tag(path)]
    if keys:
        spec["components"]["securitySchemes"] = SECURITY
        spec["security"] = [{name: []} for name in SECURITY]
        for path, operation in _list_operations(items):
            operation["responses"][str(UNAUTHORIZED)] = reference(path, UNAUTHORIZED)
        for _, operation in _list_operations(server_items):
            operation["security"] = []
    return spec


def _tag(path: str) -> str:
    if path in (paths.PREDICT, paths.EXPLAIN):
        return PREDICTIONS
    root = path.partition("/")[2].partition("/")[0]
    return {"v1": REST, "v2": PROTOCOL}.get(root, OPERATION)


def _list_operations(items: Json) -> list[tuple[str, Json]]:
    return [
        (path, item[method])
        for path, item in items.items()
        for method in ("get", "post")
        if method in item
    ]


def _operator_items() -> Json:
    """Return the paths for operators of the service."""
    status = object_schema(status={"type": "string"})
    return {
        paths.LIVEZ: get_operation(
            paths.LIVEZ, "livez", "Check that the process responds", json_content(status)
        ),
        paths.READYZ: get_operation(
            paths.READYZ,
            "readyz",
            "Check that the default model is available",
            json_content(status),
            (503,),
        ),
        paths.METRICS: get_operation(
            paths.METRICS, "metrics", "Prometheus metrics", {"text/plain": {}}
        ),
        paths.STATS: stats_operation(),
    }
