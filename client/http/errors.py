"""Errors as responses, in the form of each dialect."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

import orjson

from client.codecs.response import JSON, Response
from client.errors import ClientError
from client.http import paths

PROBLEM = "application/problem+json"
# Programs send a bearer token; browsers show a login dialog, with the key as the password.
CHALLENGE = 'Bearer, Basic realm="predictions"'
# Messages quote the request; do not return megabytes of it.
MAX_MESSAGE_CHARACTERS = 4000


def error_response(
    error: ClientError, path: str, members: Mapping[str, object] = MappingProxyType({})
) -> Response:
    """Return the response for an error.

    The body is an RFC 9457 problem that repeats the detail as `error`. In the dialects of other
    servers it holds only `error`.

    Args:
        error: the error.
        path: path of the request.
        members: additional members of the problem.
    """
    headers: tuple[tuple[str, str], ...] = ()
    if error.retry_after is not None:
        headers = (("Retry-After", str(error.retry_after)),)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers = (("WWW-Authenticate", CHALLENGE),)
    message = error.message
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = f"{message[:MAX_MESSAGE_CHARACTERS]}..."
    if paths.is_foreign(path):
        return Response(_line({"error": message}), error.status, JSON, headers)
    problem = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": message,
        "error": message,
        **members,
    }
    return Response(_line(problem), error.status, PROBLEM, headers)


def _line(body: object) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)
