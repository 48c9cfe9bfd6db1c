"""Classify, Regress and MultiInference: serialized tf.Examples in, classes and values out.

Error messages, codes and the order of the checks are those of classifier.cc, regressor.cc and
multi_inference.cc in tensorflow_serving/servables/tensorflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from serving.errors import internal, invalid_argument, unimplemented
from serving.servables import tensors
from serving.servables.servable import (
    DEFAULT_SIGNATURE,
    METHOD_CLASSIFY,
    METHOD_REGRESS,
    Servable,
    Signature,
)
from serving.servables.session import Cancelled, never
from serving.servables.tensors import Array, Tensor

INPUTS = "inputs"
CLASSES = "classes"
SCORES = "scores"
OUTPUTS = "outputs"


def classify(servable: Servable, request: Any, cancelled: Cancelled = never) -> Any:
    """Run a signature on a ClassificationRequest and return the ClassificationResponse.

    Raises:
        ServingError: the signature is not for classification, or the graph rejects the examples.
    """
    name, signature = _find_signature(servable, request.model_spec)
    plan = _Plan(servable, "Classify")
    plan.add(signature, METHOD_CLASSIFY)
    examples, values = plan.run(request.input, cancelled)
    response = classification_pb2.ClassificationResponse()
    servable.write_spec(response.model_spec, name)
    _write_classes(signature, values, examples, response.result)
    return response


def regress(servable: Servable, request: Any, cancelled: Cancelled = never) -> Any:
    """Run a signature on a RegressionRequest and return the RegressionResponse.

    Raises:
        ServingError: the signature is not for regression, or the graph rejects the examples.
    """
    name, signature = _find_signature(servable, request.model_spec)
    plan = _Plan(servable, "Regress")
    plan.add(signature, METHOD_REGRESS)
    examples, values = plan.run(request.input, cancelled)
    response = regression_pb2.RegressionResponse()
    servable.write_spec(response.model_spec, name)
    _write_values(signature, values, examples, response.result)
    return response


def multi_inference(servable: Servable, request: Any, cancelled: Cancelled = never) -> Any:
    """Run several signatures on one input in one run of the graph.

    Returns:
        A `MultiInferenceResponse`.

    Raises:
        ServingError: the tasks contradict one another; see also `classify` and `regress`.
    """
    signatures: dict[str, Signature] = {}
    plan = _Plan(servable, "MultiInference")
    for task in request.tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        _check_task(task, request.tasks[0], name, signatures)
        signature = servable.signatures.get(name)
        if signature is None:
            raise invalid_argument(f"Requested signature not found in model graph: {name}")
        if task.method_name not in (METHOD_CLASSIFY, METHOD_REGRESS):
            raise unimplemented(f"Unsupported signature method_name: {task.method_name}")
        plan.add(signature, task.method_name)
        signatures[name] = signature
    examples, values = plan.run(request.input, cancelled)
    response = inference_pb2.MultiInferenceResponse()
    for task in request.tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        result = response.results.add()
        servable.write_spec(result.model_spec, name)
        if task.method_name == METHOD_CLASSIFY:
            _write_classes(signatures[name], values, examples, result.classification_result)
        else:
            _write_values(signatures[name], values, examples, result.regression_result)
    return response


class _Plan:
    """The tensors to feed and fetch in one run of the graph."""

    def __init__(self, servable: Servable, api: str) -> None:
        self._servable = servable
        self._api = api
        self._feeds: dict[str, Any] = {}
        self._fetches: set[str] = set()

    def add(self, signature: Signature, method: str) -> None:
        """Add the tensors that a method of a signature needs."""
        exported_for = signature.definition.method_name
        if self._servable.options.check_method and exported_for != method:
            kind = "classification" if method == METHOD_CLASSIFY else "regression"
            raise invalid_argument(
                f"Expected {kind} signature method_name to be {method}. Was: {exported_for}"
            )
        find_tensors = _classification_tensors if method == METHOD_CLASSIFY else _regression_tensors
        feed, fetches = find_tensors(signature)
        self._feeds[feed] = signature.dtypes[INPUTS]
        self._fetches.update(fetches)

    def run(self, request_input: Any, cancelled: Cancelled) -> tuple[int, dict[str, Tensor]]:
        """Return the number of examples and, by name, the tensors computed from them."""
        examples = serialized_examples(request_input)
        feeds, fetches = sorted(self._feeds), sorted(self._fetches)
        for index, feed in enumerate(feeds):
            dtype = self._feeds[feed]
            if dtype is not None and dtype is not tf.string:
                raise invalid_argument(
                    f"Expects arg[{index}] to be {dtype.name} but string is provided"
                )
        values = self._servable.run(self._api, feeds, fetches, [examples] * len(feeds), cancelled)
        return len(examples), dict(zip(fetches, values, strict=True))


def _check_task(task: Any, first: Any, name: str, seen: Mapping[str, Signature]) -> None:
    if not task.model_spec.name:
        raise invalid_argument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != first.model_spec.name:
        raise invalid_argument(
            "All ModelSpecs in a MultiInferenceRequest must access the same model name."
        )
    if name in seen:
        raise invalid_argument(f"Duplicate evaluation of signature: {name}")


def _find_signature(servable: Servable, model_spec: Any) -> tuple[str, Signature]:
    name = model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name}")
    return name, signature


def _classification_tensors(signature: Signature) -> tuple[str, list[str]]:
    """Return the tensor to feed with examples and those with classes and scores."""
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(
            f"Expected one or two output Tensors, found {len(signature.outputs)}"
        )
    feed = signature.inputs.get(INPUTS)
    if feed is None:
        raise invalid_argument(
            f"No classification inputs found in SignatureDef: {signature.definition}"
        )
    fetches = [signature.outputs[name] for name in (CLASSES, SCORES) if name in signature.outputs]
    if not fetches:
        raise invalid_argument(
            "Expected classification signature outputs to contain at least one of "
            f'"{CLASSES}" or "{SCORES}". Signature was: {signature.definition}'
        )
    return feed, fetches


def _regression_tensors(signature: Signature) -> tuple[str, list[str]]:
    """Return the tensor to feed with examples and the one with the values."""
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    for side, names, name in (
        ("inputs", signature.inputs, INPUTS),
        ("outputs", signature.outputs, OUTPUTS),
    ):
        if name not in names:
            raise invalid_argument(
                f"No regression {side} found in SignatureDef: {signature.definition}"
            )
    return signature.inputs[INPUTS], [signature.outputs[OUTPUTS]]


def serialized_examples(request_input: Any) -> Array:
    """Return the serialized examples of a `tensorflow.serving.Input` as a string array.

    Raises:
        ServingError: INVALID_ARGUMENT, there are no examples.
    """
    kind = request_input.WhichOneof("kind")
    context = b""
    if kind == "example_list_with_context":
        # Appending one serialized message to another merges the two.
        context = request_input.example_list_with_context.context.SerializeToString()
    examples = getattr(request_input, kind).examples if kind else ()
    if not examples:
        raise invalid_argument("Input is empty.")
    return tensors.string_array([context + example.SerializeToString() for example in examples])


def _write_classes(
    signature: Signature, values: Mapping[str, Tensor], examples: int, result: Any
) -> None:
    classes = _get_output(signature, values, CLASSES)
    scores = _get_output(signature, values, SCORES)
    if signature.outputs.get(CLASSES) == signature.outputs.get(SCORES):
        scores = None  # as in TensorFlow Serving, a shared tensor holds classes only
    labels = numbers = None
    if classes is not None:
        labels = _check_output(classes, CLASSES, types_pb2.DT_STRING, examples)
    if scores is not None:
        numbers = _check_output(scores, SCORES, types_pb2.DT_FLOAT, examples)
    if labels is not None and numbers is not None and labels.shape[1] != numbers.shape[1]:
        raise invalid_argument(
            "Tensors class and score should match in dim_size(1). "
            f"Got {labels.shape[1]} vs. {numbers.shape[1]}"
        )
    for row in range(examples):
        row_labels = labels[row].tolist() if labels is not None else None
        row_scores = numbers[row].tolist() if numbers is not None else None
        entries = result.classifications.add().classes
        for index in range(len(row_labels if row_labels is not None else row_scores or ())):
            entry = entries.add()
            if row_labels is not None:
                entry.label = _decode_label(row_labels[index])
            if row_scores is not None:
                entry.score = row_scores[index]


def _decode_label(label: bytes) -> str:
    # A label is a string in the protocol, but a string tensor holds arbitrary bytes.
    try:
        return label.decode()
    except UnicodeDecodeError as error:
        raise internal(f"class {label!r} is not UTF-8") from error


def _check_output(output: Tensor, name: str, dtype: int, examples: int) -> Array:
    if output.ndim != 2:
        raise invalid_argument(
            f"Expected Tensor shape: [batch_size num_classes] but got {_format_shape(output)}"
        )
    if tensors.data_type(output) != dtype or isinstance(output, tensors.ProtoTensor):
        expected = types_pb2.DataType.Name(dtype)
        raise invalid_argument(f"Expected {name} Tensor of {expected}. Got: {_dtype_name(output)}")
    if output.shape[0] != examples:
        raise invalid_argument(
            f"Expected {name} output batch size of {examples}. Got: {output.shape[0]}"
        )
    return output


def _write_values(
    signature: Signature, values: Mapping[str, Tensor], examples: int, result: Any
) -> None:
    output = values[signature.outputs[OUTPUTS]]
    if not (output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] "
            f"but got {_format_shape(output)}"
        )
    if output.shape[0] != examples:
        raise invalid_argument(
            f"Input batch size did not match output batch size: {examples} vs. {output.shape[0]}"
        )
    is_float = tensors.data_type(output) == types_pb2.DT_FLOAT
    if not is_float or isinstance(output, tensors.ProtoTensor):
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {_dtype_name(output)}")
    for value in output.reshape(-1).tolist():
        result.regressions.add(value=value)


def _get_output(signature: Signature, values: Mapping[str, Tensor], name: str) -> Tensor | None:
    tensor = signature.outputs.get(name)
    return None if tensor is None else values[tensor]


def _format_shape(tensor: Tensor) -> str:
    return "[" + ",".join(map(str, tensor.shape)) + "]"


def _dtype_name(tensor: Tensor) -> str:
    return str(types_pb2.DataType.Name(tensors.data_type(tensor)))
