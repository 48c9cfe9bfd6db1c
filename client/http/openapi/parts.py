"""The parts that every operation of the document is put together from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from client.http.messages import JSON
from client.http.openapi.schemas import Json
from client.serving.schema import Schema

# The ways to say which version of a model is meant.
TARGETS = ("", "/versions/{version}", "/labels/{label}")

# Why a request may not be answered, by status.
ERRORS = {
    400: "The request is wrong; the error names the field, what came, and what was expected",
    401: "The request brings no API key, or one that is not known",
    404: "There is no such model, version or label",
    406: "No type that Accept allows can be written",
    408: "The body did not arrive in time",
    409: "The model changed while a table was being read; send it again",
    413: "The body, or the answer to it, is too large",
    415: "The type or the encoding of the body is not known",
    429: "Too many requests wait; try again after Retry-After",
    500: "The model failed",
    501: "The model cannot do this, or has a type of values that this form cannot hold",
    503: "The model server cannot be reached or is not ready; try again after Retry-After",
    504: "The model server did not answer in time",
}
OF_GETS = (400, 404, 429, 500, 503, 504)
# Of every operation, but only where keys are asked for.
UNAUTHORIZED = 401
OF_POSTS = tuple(status for status in ERRORS if status != UNAUTHORIZED)

# The ways in which a request may bring its API key.
SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "the API key as it is"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

ERROR: Json = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}


def error(status: int) -> Json:
    """Return the response with one of the statuses of `ERRORS`."""
    reply: Json = {
        "description": ERRORS[status],
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if status == UNAUTHORIZED:
        reply["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if status in (429, 503):
        reply["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}
        }
    return reply


def responses(content: Json, errors: Sequence[int] = OF_POSTS) -> Json:
    """Return the responses of an operation: the answer by media type, and the errors."""
    good = {"description": "The answer", "content": content}
    return {"200": good, **{str(status): reference(status) for status in errors}}


def reference(status: int) -> Json:
    """Return what stands for the response with one of the statuses of `ERRORS`."""
    return {"$ref": f"#/components/responses/{status}"}


def json_content(schema: Json) -> Json:
    """Return content that is JSON."""
    return {JSON: {"schema": schema}}


def object_of(**properties: Json) -> Json:
    """Return the schema of an object that has all of some properties."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def not_ready(schema: Json) -> Json:
    """Return the response that says no, in a form of its own."""
    return {"503": {"description": "Not ready", "content": json_content(schema)}}


def query_parameter(name: str, description: str, values: Iterable[str] = ()) -> Json:
    """Return a parameter that may follow the path; its values, if there are only so many."""
    schema: Json = {"type": "string"}
    if values:
        schema["enum"] = sorted(values)
    return {"name": name, "in": "query", "description": description, "schema": schema}


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
