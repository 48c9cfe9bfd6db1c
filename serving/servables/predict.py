"""Predict: turns a PredictRequest into a PredictResponse.

Error messages, codes and the order of the checks are those of
tensorflow_serving/servables/tensorflow/predict_util.cc.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from serving.errors import failed_precondition, internal, invalid_argument
from serving.servables import tensors
from serving.servables.servable import (
    DEFAULT_SIGNATURE,
    METHOD_CLASSIFY,
    METHOD_PREDICT,
    METHOD_REGRESS,
    Servable,
    Signature,
)
from serving.servables.session import Cancelled, never
from serving.servables.tensors import Tensor

API = "Predict"
METHODS = (METHOD_PREDICT, METHOD_CLASSIFY, METHOD_REGRESS)


def predict(servable: Servable, request: Any, cancelled: Cancelled = never) -> Any:
    """Run a signature of a servable on a PredictRequest and return the PredictResponse.

    Raises:
        ServingError: the request does not fit the signature, or the graph rejects it.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    if servable.options.check_method:
        _check_method(signature)
    _complete_inputs(request.inputs, signature)
    inputs = [_decode(request.inputs[key], key) for key in signature.inputs]
    outputs = _select_outputs(request.output_filter, signature)
    _check_dtypes(request.inputs, signature)
    fetches = [signature.outputs[output] for output in outputs]
    values = servable.run(API, [*signature.inputs.values()], fetches, inputs, cancelled)
    response = predict_pb2.PredictResponse()
    servable.write_spec(response.model_spec, name)
    for output, value in zip(outputs, values, strict=True):
        tensors.encode(value, response.outputs[output], as_content=servable.options.as_content)
    return response


def _check_method(signature: Signature) -> None:
    method = signature.definition.method_name
    if method not in METHODS:
        raise internal(
            "Expected prediction signature method_name to be one of "
            f"{{{', '.join(METHODS)}}}. Was: {method}"
        )


def _complete_inputs(inputs: Any, signature: Signature) -> None:
    """Check the names of the inputs and add the signature's defaults for missing ones.

    Source: tensorflow/cc/saved_model/util.cc.
    """
    expected, defaults = signature.inputs.keys(), signature.definition.defaults
    if len(inputs) == len(expected) and all(name in inputs for name in expected):
        return
    sent = set(inputs)
    if len(sent) > len(expected) or (len(sent) < len(expected) and not defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(expected)} "
            f"len({_format_names(sent)}) != len({_format_names(expected)}). "
            f"Sent extra: {_format_names(sent - expected)}. "
            f"Missing but required: {_format_names(expected - sent)}."
        )
    for name, tensor in signature.inputs.items():
        if name in sent:
            continue
        if name not in defaults:
            raise invalid_argument(
                f"Signature input alias: {name}(feed name: {tensor}) not found in request and no "
                "default value provided. Inputs expected to be in the request "
                f"{_format_names(sent)}, or default input alias set: {','.join(sorted(defaults))}"
            )
        inputs[name].CopyFrom(defaults[name])
    used = sent & expected
    if used != sent:
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(used))}, "
            f"request input: {','.join(sorted(sent))}"
        )


def _decode(proto: Any, name: str) -> Tensor:
    try:
        return tensors.decode(proto)
    except OverflowError as error:
        raise invalid_argument(f"tensor parsing error: {name}: {error}") from error
    except ValueError as error:
        raise invalid_argument(f"tensor parsing error: {name}") from error


def _select_outputs(output_filter: Any, signature: Signature) -> list[str]:
    if not output_filter:
        return [*signature.outputs]
    seen: set[str] = set()
    for name in output_filter:
        if name not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_format_names(signature.outputs)}."
            )
        if name in seen:
            raise invalid_argument(f"duplicate output tensor alias: {name}")
        seen.add(name)
    return sorted(seen)


def _check_dtypes(inputs: Any, signature: Signature) -> None:
    """Reject types that numpy would convert but TensorFlow Serving's session does not."""
    for index, (name, expected) in enumerate(signature.dtypes.items()):
        sent = inputs[name].dtype
        if expected is not None and sent != expected.as_datatype_enum:
            raise invalid_argument(
                f"Expects arg[{index}] to be {expected.name} "
                f"but {tf.DType(sent).name} is provided (input {name})"
            )


def _format_names(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
