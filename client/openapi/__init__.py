"""An OpenAPI document of what this service answers, made from the models that are served."""

from __future__ import annotations

from collections.abc import Sequence

from client.openapi.inference import inference_paths, inference_server_paths
from client.openapi.parts import (
    ERROR,
    ERRORS,
    ERRORS_OF_KEYS,
    KEYS,
    error,
    get_operation,
    guard,
    json_content,
    object_of,
)
from client.openapi.rest import explain_operation, friendly_operation, rest_paths
from client.openapi.schemas import Json
from client.schema import DEFAULT_SIGNATURE, EXPLAIN, Schema

OPENAPI = "3.1.0"


def document(
    schemas: Sequence[Schema], *, default_model: str, title: str, version: str, keys: bool = False
) -> Json:
    """Return the document, as OpenAPI 3.1 has it.

    Args:
        schemas: of the models that are served, each in the version that answers.
        default_model: the model that `/predict` and `/explain` are about.
        title: of the service.
        version: of the service.
        keys: whether API keys are asked for.
    """
    paths: Json = {}
    default = next((s for s in schemas if s.model == default_model), None)
    if default is not None and DEFAULT_SIGNATURE in default.signatures:
        paths["/predict"] = {"post": friendly_operation(default)}
        if EXPLAIN in default.signatures:
            paths["/explain"] = {"post": explain_operation(default, "explain")}
    for schema in schemas:
        paths.update(rest_paths(schema))
        paths.update(inference_paths(schema))
    errors = [*ERRORS, *(ERRORS_OF_KEYS if keys else ())]
    if keys:
        guard(paths)
    return {
        "openapi": OPENAPI,
        "info": {"title": title, "version": version},
        "paths": {**paths, **inference_server_paths(), **_operations()},
        "components": {
            "schemas": {"Error": ERROR},
            "responses": {str(status): error(status) for status in errors},
            **({"securitySchemes": KEYS} if keys else {}),
        },
    }


def _operations() -> Json:
    """Return what those ask who operate the service."""
    status = object_of(status={"type": "string"})
    not_ready = object_of(status={"type": "string"}, error={"type": "string"})
    return {
        "/livez": get_operation("livez", "Tell that the process answers", json_content(status)),
        "/readyz": get_operation(
            "readyz",
            "Tell whether the default model can be asked",
            json_content(status),
            not_ready,
        ),
        "/metrics": get_operation("metrics", "Prometheus metrics", {"text/plain": {}}),
    }
