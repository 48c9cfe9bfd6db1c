"""Recorded requests to TensorFlow Serving's REST port, its responses, and their comparison."""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.http.messages import HttpRequest, HttpResponse
from tests.contract.comparing import TOLERANCE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
DIFFERENCES = HERE / "rest_differences.toml"

Json = Any


@dataclass(frozen=True)
class Case:
    """A request, and TensorFlow Serving's response to it.

    Attributes:
        server: name of the server's configuration.
        text_stable: whether error messages must be the same.
        body_stable: whether the body must be the same.
    """

    id: str
    server: str
    request: HttpRequest
    response: HttpResponse
    text_stable: bool
    body_stable: bool


@dataclass(frozen=True)
class Difference:
    """The client's response where it differs from a recording, and the reason.

    Attributes:
        contains: a part of the body; empty for any body.
        body: the body as JSON, with "null" for null, which TOML lacks; None for any body.
        elsewhere: whether the path is outside the REST dialect.
    """

    reason: str
    status: int
    contains: str = ""
    body: Json = None
    elsewhere: bool = False


def cases() -> list[Case]:
    with (CORPUS / "rest.jsonl").open(encoding="utf-8") as lines:
        return [_case(json.loads(line)) for line in lines]


def differences() -> dict[str, Difference]:
    with DIFFERENCES.open("rb") as file:
        return {name: Difference(**fields) for name, fields in tomllib.load(file).items()}


def compare(case: Case, actual: HttpResponse) -> list[str]:
    """Return the differences between a response and the recorded one."""
    messages = []
    expected = case.response
    if expected.status != actual.status:
        messages.append(
            f"status: {actual.status}, expected {expected.status}: {actual.body[:300]!r}"
        )
    if _media_type(expected) != _media_type(actual):
        messages.append(f"content type: {actual.content_type}, expected {expected.content_type}")
    headers = {name.lower(): value for name, value in actual.headers}
    for name, value in expected.headers:
        if headers.get(name) != value:
            messages.append(f"{name}: {headers.get(name)}, expected {value}")
    if case.body_stable:
        messages += _compare_bodies(case, actual)
    return messages


def _compare_bodies(case: Case, actual: HttpResponse) -> list[str]:
    ignored = () if case.text_stable else ("error", "error_message")
    try:
        expected_json = json.loads(_text(case.response.body))
    except ValueError:
        is_equal = not case.text_stable or case.response.body == actual.body
        return [] if is_equal else [f"body: {actual.body!r}, expected {case.response.body!r}"]
    try:
        actual_json = json.loads(_text(actual.body))
    except ValueError:
        return [f"body: not JSON: {actual.body[:300]!r}"]
    if "error" in expected_json and "error" not in actual_json:
        return [f"body: no error: {actual.body[:300]!r}"]
    return _compare_values("body", expected_json, actual_json, ignored)


def _compare_values(path: str, expected: Json, actual: Json, ignored: tuple[str, ...]) -> list[str]:
    if isinstance(expected, dict) and isinstance(actual, dict) and expected.keys() == actual.keys():
        return [
            message
            for key in expected.keys() - set(ignored)
            for message in _compare_values(f"{path}.{key}", expected[key], actual[key], ignored)
        ]
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return [
            message
            for index, (theirs, ours) in enumerate(zip(expected, actual, strict=True))
            for message in _compare_values(f"{path}[{index}]", theirs, ours, ignored)
        ]
    if _are_equal(expected, actual):
        return []
    return [f"{path}: {actual!r:.500}, expected {expected!r:.500}"]


def _are_equal(expected: Json, actual: Json) -> bool:
    if isinstance(expected, float) or isinstance(actual, float):
        if not all(type(value) in (int, float) for value in (expected, actual)):
            return False
        if math.isnan(expected) or math.isinf(expected):
            return expected == actual or (math.isnan(expected) and math.isnan(actual))
        return math.isclose(expected, actual, rel_tol=TOLERANCE)
    return type(expected) is type(actual) and bool(expected == actual)


def _media_type(response: HttpResponse) -> str:
    return response.content_type.partition(";")[0].strip().lower()


def _text(body: bytes) -> str:
    return body.decode("utf-8", "surrogateescape")


def _case(fields: Mapping[str, Any]) -> Case:
    request, response = fields["request"], fields["response"]
    path, _, query = request["path"].partition("?")
    text = request.get("body")
    body = base64.b64decode(request.get("body_base64", "")) if text is None else text.encode()
    headers = {name.lower(): value for name, value in request["headers"].items()}
    return Case(
        fields["id"],
        fields["server"],
        HttpRequest(request["method"], path, query, headers, body),
        HttpResponse(
            response["body"].encode("utf-8", "surrogateescape"),
            response["status"],
            response["content_type"],
            tuple(response.get("headers", {}).items()),
        ),
        fields["text_stable"],
        fields.get("body_stable", True),
    )
