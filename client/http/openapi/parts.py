"""Building blocks of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from client.codecs.response import JSON
from client.http import paths
from client.http.errors import PROBLEM
from client.http.openapi.schemas import Json
from client.serving.schema import Schema

# Descriptions of error responses, by status.
ERRORS = {
    400: "The request is invalid; the error names the field, the value and what was expected",
    401: "The API key is missing or unknown",
    404: "There is no such model, version or label",
    406: "Accept allows none of the supported types",
    408: "The body did not arrive in time",
    409: "The model changed while a table was being read; send it again",
    413: "The body or the response is too large",
    415: "The type or the encoding of the body is not supported",
    429: "Too many requests are waiting; try again after Retry-After",
    500: "The model failed",
    501: "The model does not support this, or has a type that this format cannot represent",
    503: "The service is busy or stopping, or the model server cannot be reached; "
    "try again after Retry-After",
    504: "The model server did not answer in time",
}
GET_ERRORS = (400, 404, 429, 500, 503, 504)
# On every operation, if API keys are required.
UNAUTHORIZED = 401
POST_ERRORS = tuple(status for status in ERRORS if status != UNAUTHORIZED)

# Ways to send an API key.
SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "the API key"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

ERROR: Json = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
PROBLEM_SCHEMA: Json = {
    "type": "object",
    "description": "RFC 9457; `error` is `detail`",
    "properties": {
        "type": {"const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "error": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail", "error"],
}


def error_responses() -> Json:
    """Return the responses for `ERRORS` in each form, for `reference` to refer to."""
    errors = {str(status): _error(status, JSON, "Error") for status in ERRORS}
    problems = {f"{status}-problem": _error(status, PROBLEM, "Problem") for status in ERRORS}
    return {**errors, **problems}


def _error(status: int, content_type: str, schema: str) -> Json:
    response: Json = {
        "description": ERRORS[status],
        "content": {content_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }
    if status == UNAUTHORIZED:
        response["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if status in (429, 503):
        response["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}
        }
    return response


def responses(path: str, content: Json, errors: Sequence[int] = POST_ERRORS) -> Json:
    """Return an operation's responses: content by media type, and errors.

    Args:
        path: the operation's path, which determines the dialect of the errors.
        content: content of the successful response.
        errors: statuses of the errors.
    """
    success = {"description": "The response", "content": content}
    return {"200": success, **{str(status): reference(path, status) for status in errors}}


def reference(path: str, status: int) -> Json:
    """Return a reference to the response for a status of `ERRORS`."""
    form = "" if paths.is_foreign(path) else "-problem"
    return {"$ref": f"#/components/responses/{status}{form}"}


def json_content(schema: Json) -> Json:
    """Return JSON content."""
    return {JSON: {"schema": schema}}


def object_schema(**properties: Json) -> Json:
    """Return the schema of an object whose properties are all required."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def not_ready(schema: Json) -> Json:
    """Return the 503 response of a probe, which has its own schema."""
    return {"503": {"description": "Not ready", "content": json_content(schema)}}


def query_parameter(name: str, description: str, values: Iterable[str] = ()) -> Json:
    """Return an optional query parameter, with its allowed values if given."""
    schema: Json = {"type": "string"}
    if values:
        schema["enum"] = sorted(values)
    return {"name": name, "in": "query", "description": description, "schema": schema}


def path_item(selector: str, **operations: Json) -> Json:
    """Return the operations at a path, with the parameter of its selector."""
    if not selector:
        return operations
    name = selector.rpartition("{")[2].rstrip("}")
    schema: Json = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
    if name == "label":
        schema = {"type": "string", "minLength": 1}
    return {
        "parameters": [{"name": name, "in": "path", "required": True, "schema": schema}],
        **operations,
    }


def operation_id(schema: Schema, selector: str, action: str) -> str:
    """Return a unique id for an operation."""
    suffix = {paths.LATEST: "", paths.VERSION: "_version", paths.LABEL: "_label"}[selector]
    return f"{action}{suffix}_{schema.model}"


def get_operation(
    path: str, name: str, summary: str, content: Json, errors: Sequence[int] = ()
) -> Json:
    """Return a path that has only GET.

    Args:
        path: the path.
        name: id of the operation.
        summary: summary of the operation.
        content: response content by media type.
        errors: statuses of the errors.
    """
    operation = {
        "operationId": name,
        "summary": summary,
        "responses": responses(path, content, errors),
    }
    return {"get": operation}
