"""`:classify` and `:regress`: features to `tf.Example` messages, and results to JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from client.codecs.tfs_rest.document import (
    ABSENT,
    Members,
    describe,
    invalid_request,
    json_type,
    parse,
    to_bytes,
)
from client.codecs.tfs_rest.predict import signature_name
from client.codecs.tfs_rest.tensors import decode_b64, is_b64
from client.errors import ClientError
from client.serving.protos import Input

MAX_INT64 = 2**63 - 1


def read(body: bytes) -> tuple[str, Any]:
    """Decode the body of a `:classify` or `:regress` request.

    Returns:
        The signature's name, empty for the default, and the examples as an `Input` message.

    Raises:
        ClientError: the body is invalid or holds no examples.
    """
    document = parse(body)
    name = signature_name(document)
    examples = Input()
    context = document.first("context", ABSENT)
    if context is not ABSENT:
        _add_features(examples.example_list_with_context.context, context)
    rows = document.first("examples", ABSENT)
    if rows is ABSENT:
        raise ClientError('"examples" is missing; expected {"examples": [{name: value, ...}, ...]}')
    if type(rows) is not list or not rows:
        got = describe(rows) if rows != [] else "an empty list"
        raise invalid_request(f"examples: expected a list of objects, got {got}")
    field = "example_list" if context is ABSENT else "example_list_with_context"
    for row in rows:
        _add_features(getattr(examples, field).examples.add(), row)
    return name, examples


def write_classification(response: Any) -> bytes:
    """Return the body of a `:classify` response, `{"results": [[[label, score], …], …]}`.

    Args:
        response: a `ClassificationResponse`.
    """
    if not response.result.classifications:
        raise ClientError("Cannot convert empty ClassificationResults to JSON")
    # np.float32 keeps orjson from writing the digits of a float64.
    return _results(
        [[c.label, np.float32(c.score)] for c in classification.classes]
        for classification in response.result.classifications
    )


def write_regression(response: Any) -> bytes:
    """Return the body of a `:regress` response, `{"results": [value, …]}`.

    Args:
        response: a `RegressionResponse`.
    """
    if not response.result.regressions:
        raise ClientError("Cannot convert empty RegressionResults to JSON")
    return _results(np.float32(regression.value) for regression in response.result.regressions)


def scores(response: Any) -> list[float]:
    """Return all numbers of a `ClassificationResponse` or a `RegressionResponse`."""
    result = response.result
    values = [regression.value for regression in getattr(result, "regressions", ())]
    rows = getattr(result, "classifications", ())
    return values + [c.score for row in rows for c in row.classes]


def _results(values: Any) -> bytes:
    return orjson.dumps({"results": list(values)}, option=orjson.OPT_SERIALIZE_NUMPY)


def _add_features(example: Any, features: Any) -> None:
    if type(features) is not Members:
        raise invalid_request(f"Example must be JSON object but got JSON {json_type(features)}")
    for name, values in features:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise invalid_request(f"examples: the name {name[:100]} is not UTF-8") from None
        feature = example.features.feature[name]
        feature.Clear()  # the last of duplicate keys counts
        for value in values if type(values) is list else [values]:
            _add_value(feature, name, value)


def _add_value(feature: Any, name: str, value: Any) -> None:
    """Add a value to a feature; the first value sets the feature's kind."""
    kind: str
    element: Any
    if isinstance(value, str):
        kind, element = "bytes", to_bytes(value)
    elif is_b64(value):
        kind, element = "bytes", decode_b64(value)
    elif isinstance(value, float):
        kind, element = "float", value
    elif isinstance(value, int):
        kind, element = "int64", int(value)
    else:
        raise invalid_request(
            f"Feature: {name[:100]} has element with unexpected JSON type: {json_type(value)}"
        )
    list_name = feature.WhichOneof("kind")
    if list_name not in (None, f"{kind}_list"):
        raise invalid_request(
            f"Unexpected element type in feature: {name[:100]} "
            f"expecting type: {list_name.removesuffix('_list')}"
        )
    if kind == "int64" and element > MAX_INT64:
        raise invalid_request(
            f"Feature: {name[:100]} has uint64_t element. Only int64_t is supported."
        )
    getattr(feature, f"{kind}_list").value.append(element)
