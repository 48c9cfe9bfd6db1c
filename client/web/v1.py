"""Predictions over HTTP: `/predict`, and TensorFlow Serving's REST dialect under `/v1`."""

from __future__ import annotations

import re
from functools import partial
from typing import Any
from urllib.parse import unquote

import orjson
from google.protobuf import json_format

from client import rows
from client.deadlines import Deadline
from client.dialects import Call
from client.errors import ClientError
from client.exchange import HttpReply, HttpRequest
from client.messages import ErrorCode, ModelVersionStatus
from client.model_server import Target
from client.predictor import Predictor
from client.schema import Schema
from client.web.replies import json_reply
from client.web.routes import Route

# The three ways to say which version is meant, each followed by what is asked of it.
PATH = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/:]+)|/labels/(?P<label>[^/:]+))?"
    r"(?P<what>:predict|/metadata)?"
)
LARGEST_VERSION = 2**63 - 1
LONGEST_VERSION = 100


class FriendlyApi:
    """`/predict`, about one model; its replies also tell the model and the version."""

    def __init__(self, core: Predictor, model: str) -> None:
        self._core = core
        self._target = Target(model)
        self._route = Route("/predict", self._predict, ("POST",))

    def route(self, path: str) -> Route | None:
        """Return what answers a path."""
        return self._route if path == "/predict" else None

    async def _predict(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        reply, version = await predict(self._core, self._target, request, deadline)
        return json_reply({**reply, "model": self._target.model, "version": version})


class RestApi:
    """TensorFlow Serving's REST dialect."""

    def __init__(self, core: Predictor) -> None:
        self._core = core

    def route(self, path: str) -> Route | None:
        """Return what answers a path."""
        match = PATH.fullmatch(path)
        if match is None:
            return None
        model, version, label, what = match.groups()
        name = "/v1/models/<model>"
        if version is not None:
            name += "/versions/<version>"
        elif label is not None:
            name += "/labels/<label>"
        handle, methods = {
            ":predict": (self._predict, ("POST",)),
            "/metadata": (self._metadata, ("GET", "HEAD")),
            None: (self._status, ("GET", "HEAD")),
        }[what]
        return Route(name + (what or ""), partial(handle, model, version, label), methods)

    async def _predict(
        self,
        model: str,
        version: str | None,
        label: str | None,
        request: HttpRequest,
        deadline: Deadline,
    ) -> HttpReply:
        target = _target(model, version, label)
        reply, _ = await predict(self._core, target, request, deadline)
        return json_reply(reply)

    async def _status(
        self,
        model: str,
        version: str | None,
        label: str | None,
        request: HttpRequest,
        deadline: Deadline,
    ) -> HttpReply:
        versions = await self._core.status(_target(model, version, label), deadline)
        return json_reply({"model_version_status": [_status_as_json(v) for v in versions]})

    async def _metadata(
        self,
        model: str,
        version: str | None,
        label: str | None,
        request: HttpRequest,
        deadline: Deadline,
    ) -> HttpReply:
        schema = await self._core.metadata(_target(model, version, label), deadline)
        definition = json_format.MessageToDict(
            schema.definition,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        spec = {"name": schema.model, "signature_name": "", "version": str(schema.version)}
        return json_reply({"model_spec": spec, "metadata": {"signature_def": definition}})


async def predict(
    core: Predictor, target: Target, request: HttpRequest, deadline: Deadline
) -> tuple[dict[str, Any], int]:
    """Return a reply's JSON object, and the version that computed it."""
    body = _json(request.body)
    row_form = False

    def read(schema: Schema) -> Call:
        nonlocal row_form
        asked = rows.read(body, schema)
        row_form = asked.row_form
        return Call(asked.signature_name, asked.inputs)

    _, prediction = await core.answer(target, read, deadline, len(request.body))
    return rows.write(prediction.outputs, row_form), prediction.version


def _target(model: str, version: str | None, label: str | None) -> Target:
    model = unquote(model)
    if version is None:
        return Target(model, label=unquote(label) if label else None)
    is_number = version.isascii() and version.isdigit() and len(version) <= LONGEST_VERSION
    if not is_number or int(version) > LARGEST_VERSION:
        raise ClientError(
            f'version: expected a number from 0 to {LARGEST_VERSION}, got "{version[:40]}"'
        )
    return Target(model, int(version))


def _json(body: bytes) -> Any:
    if not body or body.isspace():
        raise ClientError(f"the body is empty; {rows.EXPECTED}")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ClientError(f"the body is not JSON: {error}; {rows.EXPECTED}") from error


def _status_as_json(version: Any) -> dict[str, Any]:
    return {
        "version": str(version.version),
        "state": ModelVersionStatus.State.Name(version.state),
        "status": {
            "error_code": ErrorCode.Name(version.status.error_code),
            "error_message": version.status.error_message,
        },
    }
