"""Status and metadata of models as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from google.protobuf import json_format

from client.serving.protos import ErrorCode, ModelVersionStatus
from client.serving.schema import Schema


def write_status(versions: Iterable[Any]) -> bytes:
    """Return the body of a status response.

    Args:
        versions: the `ModelVersionStatus` of each version.
    """
    return orjson.dumps({"model_version_status": [_status(version) for version in versions]})


def write_metadata(schema: Schema) -> bytes:
    """Return the body of a metadata response.

    Args:
        schema: schema of the requested version.
    """
    definition = json_format.MessageToDict(
        schema.definition,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
    spec = {"name": schema.model, "signature_name": "", "version": str(schema.version)}
    return orjson.dumps({"model_spec": spec, "metadata": {"signature_def": definition}})


def _status(version: Any) -> dict[str, Any]:
    return {
        "version": str(version.version),
        "state": ModelVersionStatus.State.Name(version.state),
        "status": {
            "error_code": ErrorCode.Name(version.status.error_code),
            "error_message": version.status.error_message,
        },
    }
