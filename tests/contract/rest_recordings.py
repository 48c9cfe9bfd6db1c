"""The recorded requests to TensorFlow Serving's REST port, its responses, and how to compare."""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.http.messages import HttpReply, HttpRequest
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
    """A request and the response that TensorFlow Serving gave to it.

    Attributes:
        server: the name of the server's configuration.
        text_stable: whether the text of an error is to be the same.
        body_stable: whether the body is to be the same at all.
    """

    id: str
    server: str
    request: HttpRequest
    response: HttpReply
    text_stable: bool
    body_stable: bool


@dataclass(frozen=True)
class Difference:
    """The client's response where it differs from a recording, and the reason.

    Attributes:
        contains: a part of the body, empty if any will do.
        body: the body as JSON, with "null" for null, which TOML lacks; None if any will do.
        elsewhere: whether the path is none of the dialect's.
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


def faults(case: Case, got: HttpReply) -> list[str]:
    """Return the differences between a response and the recorded one."""
    found = []
    want = case.response
    if want.status != got.status:
        found.append(f"status: {got.status}, expected {want.status}: {got.body[:300]!r}")
    if _media(want) != _media(got):
        found.append(f"content type: {got.content_type}, expected {want.content_type}")
    sent = {name.lower(): value for name, value in got.headers}
    for name, value in want.headers:
        if sent.get(name) != value:
            found.append(f"{name}: {sent.get(name)}, expected {value}")
    if case.body_stable:
        found += _body_faults(case, got)
    return found


def _body_faults(case: Case, got: HttpReply) -> list[str]:
    skipped = () if case.text_stable else ("error", "error_message")
    try:
        want_json = json.loads(_text(case.response.body))
    except ValueError:
        same = not case.text_stable or case.response.body == got.body
        return [] if same else [f"body: {got.body!r}, expected {case.response.body!r}"]
    try:
        got_json = json.loads(_text(got.body))
    except ValueError:
        return [f"body: no JSON: {got.body[:300]!r}"]
    if "error" in want_json and "error" not in got_json:
        return [f"body: no error: {got.body[:300]!r}"]
    return _value_faults("body", want_json, got_json, skipped)


def _value_faults(place: str, want: Json, got: Json, skipped: tuple[str, ...]) -> list[str]:
    if isinstance(want, dict) and isinstance(got, dict) and want.keys() == got.keys():
        return [
            fault
            for key in want.keys() - set(skipped)
            for fault in _value_faults(f"{place}.{key}", want[key], got[key], skipped)
        ]
    if isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        return [
            fault
            for index, (w, g) in enumerate(zip(want, got, strict=True))
            for fault in _value_faults(f"{place}[{index}]", w, g, skipped)
        ]
    return [] if _same(want, got) else [f"{place}: {got!r:.500}, expected {want!r:.500}"]


def _same(want: Json, got: Json) -> bool:
    if isinstance(want, float) or isinstance(got, float):
        if not all(type(v) in (int, float) for v in (want, got)):
            return False
        if math.isnan(want) or math.isinf(want):
            return want == got or (math.isnan(want) and math.isnan(got))
        return math.isclose(want, got, rel_tol=TOLERANCE)
    return type(want) is type(got) and bool(want == got)


def _media(response: HttpReply) -> str:
    return response.content_type.partition(";")[0].strip().lower()


def _text(body: bytes) -> str:
    return body.decode("utf-8", "surrogateescape")


def _case(fields: Mapping[str, Any]) -> Case:
    asked, told = fields["request"], fields["response"]
    path, _, query = asked["path"].partition("?")
    body = asked.get("body")
    sent = base64.b64decode(asked.get("body_base64", "")) if body is None else body.encode()
    headers = {name.lower(): value for name, value in asked["headers"].items()}
    return Case(
        fields["id"],
        fields["server"],
        HttpRequest(asked["method"], path, query, headers, sent),
        HttpReply(
            told["body"].encode("utf-8", "surrogateescape"),
            told["status"],
            told["content_type"],
            tuple(told.get("headers", {}).items()),
        ),
        fields["text_stable"],
        fields.get("body_stable", True),
    )
