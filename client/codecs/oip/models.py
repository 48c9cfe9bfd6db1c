"""Metadata of the Open Inference Protocol.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from client.codecs.oip.tensors import datatype
from client.codecs.response import Response
from client.codecs.signatures import find_signature
from client.serving.schema import Schema, TensorSpec

PLATFORM = "tensorflow_savedmodel"
EXTENSIONS = ("binary_tensor_data",)


def server_metadata(version: str) -> dict[str, Any]:
    """Return the response to `/v2`.

    Args:
        version: version of this program.
    """
    return {"name": "logreg-serving", "version": version, "extensions": list(EXTENSIONS)}


def live() -> dict[str, Any]:
    """Return the response to `/v2/health/live`."""
    return {"live": True}


def ready(is_ready: bool, model: str | None = None) -> Response:
    """Return the response to `/v2/health/ready` and to a model's `ready`; 503 if not ready.

    The protocol allows any status but 200 for "not ready"; KServe's own server returns 503.
    """
    body = {"ready": is_ready} if model is None else {"name": model, "ready": is_ready}
    return Response(orjson.dumps(body), 200 if is_ready else 503)


def model_metadata(
    schema: Schema, versions: Iterable[int], signature_name: str = ""
) -> dict[str, Any]:
    """Return the response to `/v2/models/<model>[/versions/<version>]`.

    Args:
        schema: schema of the requested version.
        versions: the available versions.
        signature_name: the signature to describe; the default one if empty.

    Raises:
        ClientError: the model has no such signature.
    """
    _, signature = find_signature(schema, signature_name)
    return {
        "name": schema.model,
        "versions": [str(version) for version in versions],
        "platform": PLATFORM,
        "inputs": [_tensor_metadata(*item) for item in signature.inputs.items()],
        "outputs": [_tensor_metadata(*item) for item in signature.outputs.items()],
    }


def _tensor_metadata(name: str, spec: TensorSpec) -> dict[str, Any]:
    shape = [-1] if spec.shape is None else [-1 if n is None else n for n in spec.shape]
    return {"name": name, "datatype": datatype(spec.dtype), "shape": shape}
