"""Routes of TensorFlow Serving's REST API, and `:explain`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import unquote

import orjson

from client.errors import ClientError
from client.http.messages import HttpReply, HttpRequest
from client.serving.client import Target

Verb = Literal["predict", "classify", "regress", "explain", "status", "metadata"]

# The pattern ignores case; later comparisons of single words do not.
ROOT = re.compile(r"/v1/", re.IGNORECASE)
_VERSION = r"(?:/versions/(\d+)|/labels/([^/:]+))?"
_ASK = re.compile(
    rf"/v1/models/([^/:]+){_VERSION}:(classify|regress|predict|explain)", re.IGNORECASE | re.ASCII
)
_LOOK = re.compile(rf"/v1/models(?:/([^/:]+))?{_VERSION}(?:/(metadata))?", re.IGNORECASE | re.ASCII)
_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
_ORIGIN = re.compile(r"https?://")

LARGEST_VERSION = 2**63 - 1
LONGEST_VERSION = len(str(LARGEST_VERSION))
# Methods known to TensorFlow Serving's HTTP library, which rejects all others itself.
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")

# TensorFlow Serving adds these to every response with `--rest_api_enable_cors_support`.
CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)


@dataclass(frozen=True, slots=True)
class Question:
    """A request about a model.

    Attributes:
        verb: the operation.
        target: the model, and its version if the path has one.
    """

    verb: Verb
    target: Target


def route(request: HttpRequest) -> Question | HttpReply | None:
    """Route a request, or return the error response; query and body are ignored.

    Returns:
        None if the path does not belong to this dialect.
    """
    if not ROOT.match(request.path):
        return None
    method = request.method
    if method not in METHODS:
        return refused(ClientError(f"{method} is not implemented", 501))
    if method == "OPTIONS":
        allowed = _ORIGIN.search(request.headers.get("origin", ""))
        return HttpReply(b"", 200 if allowed else 400, "text/html")
    pattern = {"POST": _ASK, "GET": _LOOK}.get(method)
    match = pattern.fullmatch(request.path) if pattern else None
    if match is None or _ESCAPE.search(request.path):
        return _malformed(request)
    model, version, label, word = match.groups()
    number = None if version is None else _number(version)
    if number is not None and number > LARGEST_VERSION:
        # TensorFlow Serving returns an empty body with the same status.
        return refused(ClientError(f"version: expected at most {LARGEST_VERSION}"))
    if method == "POST" and word not in ("predict", "classify", "regress", "explain"):
        return _malformed(request)
    if model is None:
        return refused(ClientError("Missing model name in request."))
    target = Target(
        unquote(model, errors="replace"),
        number,
        None if label is None else unquote(label, errors="replace"),
    )
    verb = word if method == "POST" or word == "metadata" else "status"
    return Question(cast(Verb, verb), target)


def refused(error: ClientError) -> HttpReply:
    """Return the response for an error."""
    return HttpReply(orjson.dumps({"error": error.message}), error.status)


def _number(digits: str) -> int:
    """Read a number; one that is too large becomes any number beyond int64."""
    significant = digits.lstrip("0")
    return int(significant or 0) if len(significant) <= LONGEST_VERSION else LARGEST_VERSION + 1


def _malformed(request: HttpRequest) -> HttpReply:
    query = f"?{request.query}" if request.query else ""
    return refused(ClientError(f"Malformed request: {request.method} {request.path}{query}"))
