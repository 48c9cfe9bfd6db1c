"""The OpenAPI document of this service, made from the served models."""

from __future__ import annotations

from collections.abc import Sequence

from client.codecs.json.explanations import explains
from client.http.openapi.inference import inference_paths, inference_server_paths
from client.http.openapi.parts import (
    ERROR,
    ERRORS,
    SECURITY,
    UNAUTHORIZED,
    error,
    get_operation,
    json_content,
    object_of,
    reference,
)
from client.http.openapi.rest import explain_operation, friendly_operation, rest_paths
from client.http.openapi.schemas import Json
from client.serving.schema import DEFAULT_SIGNATURE, Schema

OPENAPI = "3.1.0"


def document(
    schemas: Sequence[Schema], *, default_model: str, title: str, version: str, keys: bool = False
) -> Json:
    """Return the OpenAPI 3.1 document.

    Args:
        schemas: schemas of the served models, each of the version that answers.
        default_model: the model of `/predict`.
        title: title of the service.
        version: version of the service.
        keys: whether API keys are required.
    """
    paths: Json = {}
    default = next((s for s in schemas if s.model == default_model), None)
    if default is not None and DEFAULT_SIGNATURE in default.signatures:
        paths["/predict"] = {"post": friendly_operation(default)}
    if default is not None and explains(default):
        paths["/explain"] = {"post": explain_operation(default, "explain")}
    for schema in schemas:
        paths.update(rest_paths(schema))
        paths.update(inference_paths(schema))
    for_all = {**inference_server_paths(), **_operations()}
    made: Json = {
        "openapi": OPENAPI,
        "info": {"title": title, "version": version},
        "paths": {**paths, **for_all},
        "components": {
            "schemas": {"Error": ERROR},
            "responses": {str(status): error(status) for status in ERRORS},
        },
    }
    if keys:
        made["components"]["securitySchemes"] = SECURITY
        made["security"] = [{name: []} for name in SECURITY]
        for operation in _operations_of(paths):
            operation["responses"][str(UNAUTHORIZED)] = reference(UNAUTHORIZED)
        for operation in _operations_of(for_all):
            operation["security"] = []
    return made


def _operations_of(paths: Json) -> list[Json]:
    return [item[method] for item in paths.values() for method in ("get", "post") if method in item]


def _operations() -> Json:
    """Return the operations for operators of the service."""
    status = object_of(status={"type": "string"})
    not_ready = object_of(status={"type": "string"}, error={"type": "string"})
    return {
        "/livez": get_operation("livez", "Check that the process responds", json_content(status)),
        "/readyz": get_operation(
            "readyz",
            "Check that the default model is available",
            json_content(status),
            not_ready,
        ),
        "/metrics": get_operation("metrics", "Prometheus metrics", {"text/plain": {}}),
    }
