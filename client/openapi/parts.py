"""The parts that every operation of the document is put together from."""

from __future__ import annotations

from collections.abc import Sequence

from client.exchange import JSON
from client.openapi.schemas import Json
from client.schema import Schema

# The ways to say which version of a model is meant.
TARGETS = ("", "/versions/{version}", "/labels/{label}")

# Why a request may not be answered, by status.
ERRORS = {
    400: "The request is wrong; the error names the field, what came, and what was expected",
    404: "There is no such model, version or label",
    406: "No type that Accept allows can be written",
    408: "The body did not arrive in time",
    413: "The body, or the answer to it, is too large",
    415: "The type or the encoding of the body is not known",
    429: "Too many requests wait; try again after Retry-After",
    500: "The model failed",
    501: "The model has a type of values that this form cannot hold",
    503: "The model server cannot be reached or is not ready; try again after Retry-After",
    504: "The model server did not answer in time",
}
OF_GETS = (400, 404, 429, 500, 503, 504)

# Why one may not be answered where API keys are asked for, and the two ways to send a key.
UNAUTHORIZED = 401
ERRORS_OF_KEYS = {UNAUTHORIZED: "An API key is needed, and none that is known came"}
KEYS: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

ERROR: Json = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}


def error(status: int) -> Json:
    """Return the response with one of the statuses of `ERRORS` and `ERRORS_OF_KEYS`."""
    reply: Json = {
        "description": {**ERRORS, **ERRORS_OF_KEYS}[status],
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if status in (429, 503):
        reply["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}
        }
    return reply


def responses(content: Json, errors: Sequence[int] = tuple(ERRORS)) -> Json:
    """Return the responses of an operation: the answer by media type, and the errors."""
    good = {"description": "The answer", "content": content}
    references = {str(status): {"$ref": f"#/components/responses/{status}"} for status in errors}
    return {"200": good, **references}


def guard(paths: Json) -> None:
    """Say of each operation that it wants an API key, and what is answered without one."""
    for item in paths.values():
        for operation in (item[method] for method in ("get", "post") if method in item):
            operation["security"] = [{name: []} for name in KEYS]
            refusal = {"$ref": f"#/components/responses/{UNAUTHORIZED}"}
            operation["responses"][str(UNAUTHORIZED)] = refusal


def json_content(schema: Json) -> Json:
    """Return content that is JSON."""
    return {JSON: {"schema": schema}}


def object_of(**properties: Json) -> Json:
    """Return the schema of an object that has all of some properties."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def not_ready(schema: Json) -> Json:
    """Return the response that says no, in a form of its own."""
    return {"503": {"description": "Not ready", "content": json_content(schema)}}


def query_parameter(name: str, description: str) -> Json:
    """Return a parameter that may follow the path."""
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string"}}


def path_item(target: str, **operations: Json) -> Json:
    """Return the operations at a path, with the parameter that its target has."""
    if not target:
        return operations
    name = target.rpartition("{")[2].rstrip("}")
    one: Json = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
    if name == "label":
        one = {"type": "string", "minLength": 1}
    return {
        "parameters": [{"name": name, "in": "path", "required": True, "schema": one}],
        **operations,
    }


def operation_id(schema: Schema, target: str, what: str) -> str:
    """Return a name for an operation that no other has."""
    of = {"": "", "/versions/{version}": "_version", "/labels/{label}": "_label"}[target]
    return f"{what}{of}_{schema.model}"


def get_operation(name: str, summary: str, content: Json, unready: Json | None = None) -> Json:
    """Return a path that is only asked with GET.

    Args:
        name: of the operation.
        summary: what it does.
        content: the answer by media type.
        unready: the schema of the answer that says no with 503, if it ever does.
    """
    good = responses(content, ())
    answers = good if unready is None else {**good, **not_ready(unready)}
    return {"get": {"operationId": name, "summary": summary, "responses": answers}}
