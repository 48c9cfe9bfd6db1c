"""Predict: a PredictRequest becomes a PredictResponse.

Texts, codes and the order of the checks are those of
tensorflow_serving/servables/tensorflow/predict_util.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from serving.errors import ServingError, failed_precondition, invalid_argument
from serving.servables import tensors
from serving.servables.servable import DEFAULT_SIGNATURE, Servable, Signature
from serving.servables.tensors import Array

PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
METHODS = (PREDICT, CLASSIFY, REGRESS)

# Computes tensors from tensors: a servable's `run`, or one that puts requests into batches first.
Run = Callable[[Sequence[str], Sequence[str], Sequence[Array]], list[Array]]


def predict(
    servable: Servable,
    run: Run,
    request: Any,
    *,
    as_content: bool = False,
    check_method: bool = False,
) -> Any:
    """Run a signature of a model on the inputs given.

    Args:
        servable: the version that is asked.
        run: what computes.
        request: a `tensorflow.serving.PredictRequest`.
        as_content: whether the reply's tensors travel as `tensor_content`.
        check_method: refuse signatures that were not exported for one of the known methods.

    Returns:
        A `PredictResponse` whose `model_spec` still lacks model and version.

    Raises:
        ServingError: the request does not fit the signature, or the graph rejects it.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    if check_method:
        _check_method(signature)
    if signature.definition.defaults and len(request.inputs) <= len(signature.inputs):
        _fill_in(request.inputs, signature)
    else:
        _check_names(request.inputs, signature)
    response = predict_pb2.PredictResponse()
    response.model_spec.signature_name = name
    try:
        arrays = [_decode(request.inputs[name], name) for name in signature.inputs]
    except tensors.NoArrayError:
        arrays = None
    outputs = _filtered_outputs(request.output_filter, signature)
    _check_dtypes(request.inputs, signature)
    feeds, fetches = [*signature.inputs.values()], [signature.outputs[name] for name in outputs]
    try:
        if arrays is not None:
            values = run(feeds, fetches, arrays)
            for output, value in zip(outputs, values, strict=True):
                tensors.encode(value, response.outputs[output], as_content=as_content)
            return response
    except tensors.NoArrayError:
        pass
    # TensorFlow's tensors have more dimensions and types than numpy's arrays.
    serialized = [request.inputs[name].SerializeToString() for name in signature.inputs]
    replies = servable.run_serialized(feeds, fetches, serialized)
    for output, reply in zip(outputs, replies, strict=True):
        response.outputs[output].CopyFrom(tensor_pb2.TensorProto.FromString(reply))
    return response


def _check_method(signature: Signature) -> None:
    method = signature.definition.method_name
    if method not in METHODS:
        raise ServingError(
            grpc.StatusCode.INTERNAL,
            "Expected prediction signature method_name to be one of "
            f"{{{', '.join(METHODS)}}}. Was: {method}",
        )


def _fill_in(inputs: Any, signature: Signature) -> None:
    """Give inputs that were not sent the values that the signature has for them.

    Source: tensorflow/cc/saved_model/util.cc, which TensorFlow Serving uses since 2.14.
    """
    sent, defaults = set(inputs), signature.definition.defaults
    for name, tensor in signature.inputs.items():
        if name in sent:
            continue
        if name not in defaults:
            raise invalid_argument(
                f"Signature input alias: {name}(feed name: {tensor}) not found in request and no "
                f"default value provided. Inputs expected to be in the request {_names(sent)}, "
                f"or default input alias set: {','.join(sorted(defaults))}"
            )
        inputs[name].CopyFrom(defaults[name])
    used = sent & signature.inputs.keys()
    if used != sent:
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(used))}, "
            f"request input: {','.join(sorted(sent))}"
        )


def _check_names(inputs: Any, signature: Signature) -> None:
    wanted = signature.inputs.keys()
    if len(inputs) == len(wanted) and all(name in inputs for name in wanted):
        return
    sent = set(inputs)
    if len(sent) != len(wanted):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(wanted)} "
            f"len({_names(sent)}) != len({_names(wanted)}). "
            f"Sent extra: {_names(sent - wanted)}. "
            f"Missing but required: {_names(wanted - sent)}."
        )
    unknown = min(sent - wanted)
    raise invalid_argument(
        f"input tensor alias not found in signature: {unknown}. "
        f"Inputs expected to be in the set {_names(wanted)}."
    )


def _decode(proto: Any, name: str) -> Array:
    try:
        return tensors.decode(proto)
    except OverflowError as error:
        raise invalid_argument(f"tensor parsing error: {name}: {error}") from error
    except ValueError as error:
        raise invalid_argument(f"tensor parsing error: {name}") from error


def _filtered_outputs(output_filter: Any, signature: Signature) -> list[str]:
    if not output_filter:
        return [*signature.outputs]
    seen: set[str] = set()
    for name in output_filter:
        if name not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_names(signature.outputs)}."
            )
        if name in seen:
            raise invalid_argument(f"duplicate output tensor alias: {name}")
        seen.add(name)
    return sorted(seen)


def _check_dtypes(inputs: Any, signature: Signature) -> None:
    """Reject what numpy would convert but TensorFlow Serving's session would not."""
    for index, (name, expected) in enumerate(signature.dtypes.items()):
        sent = inputs[name].dtype
        if expected is not None and sent != expected.as_datatype_enum:
            raise invalid_argument(
                f"Expects arg[{index}] to be {expected.name} "
                f"but {tf.DType(sent).name} is provided (input {name})"
            )


def _names(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"
