"""Paths and metadata of the Open Inference Protocol.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol; everything is
under `/v2`:

    GET  /v2                                          the server's metadata
    GET  /v2/health/live, /v2/health/ready
    GET  /v2/models/<model>[/versions/<version>]      inputs and outputs
    GET  /v2/models/<model>[/versions/<version>]/ready
    POST /v2/models/<model>[/versions/<version>]/infer

A version that is not a number is one of TensorFlow Serving's version labels. Errors are
`{"error": "..."}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from client.codecs.json.arrays import kind_of
from client.codecs.oip.tensors import datatype
from client.errors import ClientError
from client.http.messages import HttpReply
from client.serving.client import Target
from client.serving.schema import DEFAULT_SIGNATURE, Schema, Signature, TensorSpec

PLATFORM = "tensorflow_savedmodel"
EXTENSIONS = ("binary_tensor_data",)
LARGEST_VERSION = 2**63 - 1

_PATH = re.compile(
    r"/v2(?:/?|/health/(?P<health>live|ready)"
    r"|/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer))?)"
)


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint under `/v2`.

    Attributes:
        what: `server`, `live`, `ready`, `model`, `model_ready` or `infer`.
        method: the HTTP method.
        target: the model, if the endpoint has one.
    """

    what: str
    method: str = "GET"
    target: Target | None = None


def route(path: str) -> Route | None:
    """Return the endpoint at a path, None if it is not one of the protocol's.

    Args:
        path: percent-encoded, without the query.

    Raises:
        ClientError: the version is beyond int64.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    if match["model"] is None:
        return Route(match["health"] or "server")
    target = _target(unquote(match["model"]), match["version"])
    if match["verb"] == "infer":
        return Route("infer", "POST", target)
    return Route("model_ready" if match["verb"] else "model", "GET", target)


def server_metadata(version: str) -> dict[str, Any]:
    """Return the response to `/v2`.

    Args:
        version: version of this program.
    """
    return {"name": "logreg-serving", "version": version, "extensions": list(EXTENSIONS)}


def live() -> dict[str, Any]:
    """Return the response to `/v2/health/live`."""
    return {"live": True}


def ready(is_ready: bool, model: str | None = None) -> HttpReply:
    """Return the response to `/v2/health/ready` and to a model's `ready`; 503 if it is not ready.

    The protocol allows any status but 200 for "not ready"; KServe's own server returns 503.
    """
    body = {"ready": is_ready} if model is None else {"name": model, "ready": is_ready}
    return HttpReply(orjson.dumps(body), 200 if is_ready else 503)


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
    _, signature = signature_of(schema, signature_name)
    return {
        "name": schema.model,
        "versions": [str(version) for version in versions],
        "platform": PLATFORM,
        "inputs": [_tensor_metadata(*item) for item in signature.inputs.items()],
        "outputs": [_tensor_metadata(*item) for item in signature.outputs.items()],
    }


def signature_of(schema: Schema, name: Any) -> tuple[str, Signature]:
    """Return a signature and its name; the default one if the name is empty.

    Raises:
        ClientError: the model has no such signature.
    """
    if not isinstance(name, str):
        raise ClientError(f"signature_name: expected a string, got {kind_of(name)}")
    signature = schema.signatures.get(name or DEFAULT_SIGNATURE)
    if signature is None:
        known = ", ".join(sorted(schema.signatures))
        raise ClientError(
            f'signature_name: model {schema.model} has no "{name[:100] or DEFAULT_SIGNATURE}", '
            f"it has {known}"
        )
    return name or DEFAULT_SIGNATURE, signature


def _target(model: str, version: str | None) -> Target:
    if version is None:
        return Target(model)
    if not (version.isascii() and version.isdigit()):
        return Target(model, label=unquote(version))
    if len(version) > 19 or int(version) > LARGEST_VERSION:
        raise ClientError(f"version: expected at most {LARGEST_VERSION}, got {version[:40]}")
    return Target(model, int(version))


def _tensor_metadata(name: str, spec: TensorSpec) -> dict[str, Any]:
    shape = [-1] if spec.shape is None else [-1 if n is None else n for n in spec.shape]
    return {"name": name, "datatype": datatype(spec.dtype), "shape": shape}
