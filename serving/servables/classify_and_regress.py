"""Classify, Regress and MultiInference: serialized tf.Examples in, classes and values out.

Texts, codes and the order of the checks are those of TensorFlow Serving's classifier.cc,
regressor.cc and multi_inference.cc in tensorflow_serving/servables/tensorflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from serving.errors import ServingError, invalid_argument, unimplemented
from serving.servables import tensors
from serving.servables.predict import CLASSIFY, REGRESS, Run
from serving.servables.servable import DEFAULT_SIGNATURE, Servable, Signature
from serving.servables.tensors import Array

INPUTS = "inputs"
CLASSES = "classes"
SCORES = "scores"
OUTPUTS = "outputs"


def classify(servable: Servable, run: Run, request: Any, *, check_method: bool = False) -> Any:
    """Answer a ClassificationRequest.

    Args:
        servable: the version that is asked.
        run: what computes.
        request: a `tensorflow.serving.ClassificationRequest`.
        check_method: refuse signatures that were not exported for this method.

    Returns:
        A `ClassificationResponse` whose `model_spec` still lacks model and version.

    Raises:
        ServingError: the signature is not fit for it, or the graph rejects the examples.
    """
    name, signature = _signature(servable, request.model_spec)
    feed, fetches = _preprocess(signature, CLASSIFY, check_method)
    examples, values = _run(servable, run, request.input, [feed], fetches)
    response = classification_pb2.ClassificationResponse()
    response.model_spec.signature_name = name
    _write_classes(signature, values, examples, response.result)
    return response


def regress(servable: Servable, run: Run, request: Any, *, check_method: bool = False) -> Any:
    """Answer a RegressionRequest; arguments and errors are those of `classify`.

    Returns:
        A `RegressionResponse` whose `model_spec` still lacks model and version.
    """
    name, signature = _signature(servable, request.model_spec)
    feed, fetches = _preprocess(signature, REGRESS, check_method)
    examples, values = _run(servable, run, request.input, [feed], fetches)
    response = regression_pb2.RegressionResponse()
    response.model_spec.signature_name = name
    _write_values(signature, values, examples, response.result)
    return response


def multi_inference(
    servable: Servable, run: Run, request: Any, *, check_method: bool = False
) -> Any:
    """Answer a MultiInferenceRequest: several signatures on one input, in one run of the graph.

    Arguments are those of `classify`.

    Returns:
        A `MultiInferenceResponse`; the results' `model_spec`s still lack model and version.

    Raises:
        ServingError: the tasks do not go together, or as `classify`.
    """
    signatures: dict[str, Signature] = {}
    feeds: set[str] = set()
    fetches: set[str] = set()
    for task in request.tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        _check_task(task, request.tasks[0], name, signatures)
        signature = servable.signatures.get(name)
        if signature is None:
            raise invalid_argument(f"Requested signature not found in model graph: {name}")
        if task.method_name not in (CLASSIFY, REGRESS):
            raise unimplemented(f"Unsupported signature method_name: {task.method_name}")
        feed, wanted = _preprocess(signature, task.method_name, check_method)
        feeds.add(feed)
        fetches.update(wanted)
        signatures[name] = signature
    examples, values = _run(servable, run, request.input, sorted(feeds), sorted(fetches))
    response = inference_pb2.MultiInferenceResponse()
    for task in request.tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        result = response.results.add()
        result.model_spec.signature_name = name
        if task.method_name == CLASSIFY:
            _write_classes(signatures[name], values, examples, result.classification_result)
        else:
            _write_values(signatures[name], values, examples, result.regression_result)
    return response


def _check_task(task: Any, first: Any, name: str, seen: Mapping[str, Signature]) -> None:
    if not task.model_spec.name:
        raise invalid_argument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != first.model_spec.name:
        raise invalid_argument(
            "All ModelSpecs in a MultiInferenceRequest must access the same model name."
        )
    if name in seen:
        raise invalid_argument(f"Duplicate evaluation of signature: {name}")


def _signature(servable: Servable, model_spec: Any) -> tuple[str, Signature]:
    name = model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name}")
    return name, signature


def _preprocess(signature: Signature, method: str, check_method: bool) -> tuple[str, list[str]]:
    """Return the tensor that takes the examples, and those that hold the results."""
    exported_for = signature.definition.method_name
    if check_method and exported_for != method:
        kind = "classification" if method == CLASSIFY else "regression"
        raise invalid_argument(
            f"Expected {kind} signature method_name to be {method}. Was: {exported_for}"
        )
    return _classification(signature) if method == CLASSIFY else _regression(signature)


def _classification(signature: Signature) -> tuple[str, list[str]]:
    """Return the tensor that takes the examples, and those that hold classes and scores."""
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


def _regression(signature: Signature) -> tuple[str, list[str]]:
    """Return the tensor that takes the examples, and the one that holds the values."""
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


def _run(
    servable: Servable,
    run: Run,
    request_input: Any,
    feeds: Sequence[str],
    fetches: Sequence[str],
) -> tuple[int, dict[str, Array]]:
    """Return the number of examples, and the tensors computed from them, by name."""
    examples = serialized_examples(request_input)
    for index, feed in enumerate(feeds):
        dtype = servable.dtype(feed)
        if dtype is not None and dtype is not tf.string:
            raise invalid_argument(
                f"Expects arg[{index}] to be {dtype.name} but string is provided"
            )
    values = run(feeds, fetches, [examples] * len(feeds))
    return len(examples), dict(zip(fetches, values, strict=True))


def serialized_examples(request_input: Any) -> Array:
    """Return the examples of a `tensorflow.serving.Input`, serialized, [examples] of bytes.

    Raises:
        ServingError: INVALID_ARGUMENT, there are none.
    """
    kind = request_input.WhichOneof("kind")
    context = b""
    if kind == "example_list_with_context":
        # To append one serialized message to another is to merge them.
        context = request_input.example_list_with_context.context.SerializeToString()
    examples = getattr(request_input, kind).examples if kind else ()
    if not examples:
        raise invalid_argument("Input is empty.")
    return tensors.strings([context + example.SerializeToString() for example in examples])


def _write_classes(
    signature: Signature, values: Mapping[str, Array], examples: int, result: Any
) -> None:
    classes = _output(signature, values, CLASSES)
    scores = _output(signature, values, SCORES)
    if signature.outputs.get(CLASSES) == signature.outputs.get(SCORES):
        scores = None  # one tensor is taken for both
    for array, name, dtype in ((classes, CLASSES, "DT_STRING"), (scores, SCORES, "DT_FLOAT")):
        if array is not None:
            _check_output(array, name, dtype, examples)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid_argument(
            "Tensors class and score should match in dim_size(1). "
            f"Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    for row in range(examples):
        labels = classes[row].tolist() if classes is not None else None
        numbers = scores[row].tolist() if scores is not None else None
        # A label is a string in the protocol, a tensor's value any bytes.
        entries = result.classifications.add().classes
        for index in range(len(labels if labels is not None else numbers or ())):
            entry = entries.add()
            if labels is not None:
                entry.label = _text(labels[index])
            if numbers is not None:
                entry.score = numbers[index]


def _text(label: bytes) -> str:
    try:
        return label.decode()
    except UnicodeDecodeError as error:
        raise ServingError.from_number(13, f"class {label!r} is not UTF-8") from error


def _check_output(array: Array, name: str, dtype: str, examples: int) -> None:
    if array.ndim != 2:
        raise invalid_argument(
            f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}"
        )
    if array.dtype != (np.object_ if dtype == "DT_STRING" else np.float32):
        raise invalid_argument(f"Expected {name} Tensor of {dtype}. Got: {_dtype_name(array)}")
    if array.shape[0] != examples:
        raise invalid_argument(
            f"Expected {name} output batch size of {examples}. Got: {array.shape[0]}"
        )


def _write_values(
    signature: Signature, values: Mapping[str, Array], examples: int, result: Any
) -> None:
    array = values[signature.outputs[OUTPUTS]]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] "
            f"but got {_shape(array)}"
        )
    if array.shape[0] != examples:
        raise invalid_argument(
            f"Input batch size did not match output batch size: {examples} vs. {array.shape[0]}"
        )
    if array.dtype != np.float32:
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {_dtype_name(array)}")
    for value in array.reshape(-1).tolist():
        result.regressions.add(value=value)


def _output(signature: Signature, values: Mapping[str, Array], name: str) -> Array | None:
    tensor = signature.outputs.get(name)
    return None if tensor is None else values[tensor]


def _shape(array: Array) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _dtype_name(array: Array) -> str:
    return str(types_pb2.DataType.Name(tensors.enum_of(array.dtype)))
