"""Predictions over HTTP: `/predict`, and TensorFlow Serving's REST dialect under `/v1`."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response, request
from google.protobuf import json_format

from client.dialects.friendly import EXPECTED
from client.errors import ClientError
from client.messages import ErrorCode, ModelVersionStatus
from client.model_server import Target
from client.prediction import Predictor
from client.responses import json_response
from client.settings import Settings

MODEL = "/v1/models/<model>"
# The three ways to say which version is meant, each followed by what is asked of it.
TARGETS = (MODEL, f"{MODEL}/versions/<version>", f"{MODEL}/labels/<label>")
LARGEST_VERSION = 2**63 - 1
LONGEST_VERSION = 100


def blueprint(predictor: Predictor, settings: Settings) -> Blueprint:
    """Return the routes.

    Args:
        predictor: answers the requests.
        settings: of the application.
    """
    routes = Blueprint("api", __name__)

    @routes.post("/predict")
    def predict_default() -> Response:
        target = Target(settings.model)
        reply, version = predictor.answer(target, _body(), settings.timeout)
        return json_response({**reply, "model": settings.model, "version": version})

    def predict(**where: str) -> Response:
        reply, _ = predictor.answer(_target(**where), _body(), settings.timeout)
        return json_response(reply)

    def status(**where: str) -> Response:
        versions = predictor.server.status(_target(**where), timeout=settings.timeout)
        return json_response({"model_version_status": [_status_as_json(v) for v in versions]})

    def metadata(**where: str) -> Response:
        schema = predictor.schema(_target(**where), settings.timeout)
        definition = json_format.MessageToDict(
            schema.definition,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        spec = {"name": schema.model, "signature_name": "", "version": str(schema.version)}
        return json_response({"model_spec": spec, "metadata": {"signature_def": definition}})

    for target in TARGETS:
        routes.add_url_rule(f"{target}:predict", view_func=predict, methods=["POST"])
        routes.add_url_rule(f"{target}/metadata", view_func=metadata)
        routes.add_url_rule(target, view_func=status)
    return routes


def _target(model: str, version: str | None = None, label: str | None = None) -> Target:
    if version is None:
        return Target(model, label=label)
    is_number = version.isascii() and version.isdigit() and len(version) <= LONGEST_VERSION
    if not is_number or int(version) > LARGEST_VERSION:
        raise ClientError(
            f'version: expected a number from 0 to {LARGEST_VERSION}, got "{version[:40]}"'
        )
    return Target(model, int(version))


def _body() -> Any:
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise ClientError(f"Content-Encoding: expected a plain body, got {encoding}", 415)
    data = request.get_data(cache=False)
    if request.max_content_length is not None and len(data) >= request.max_content_length:
        request.stream.read(1)  # a chunked body was cut at the limit; reading on says so with a 413
    if not data.strip():
        raise ClientError(f"the body is empty; {EXPECTED}")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ClientError(f"the body is not JSON: {error}; {EXPECTED}") from error


def _status_as_json(version: Any) -> dict[str, Any]:
    return {
        "version": str(version.version),
        "state": ModelVersionStatus.State.Name(version.state),
        "status": {
            "error_code": ErrorCode.Name(version.status.error_code),
            "error_message": version.status.error_message,
        },
    }
