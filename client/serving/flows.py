"""Calls to a model server as generators, shared by the sync and the async client.

A generator yields a call's name and request and is sent the response, so `ServingClient` and
`AsyncServingClient` differ only in how a call is made.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import numpy as np

from client.errors import ClientError, InvalidArgumentError, NotFoundError, ServerError
from client.serving import protos as messages
from client.serving import tensors
from client.serving.data_frames import from_array, from_frame, is_frame
from client.serving.schema import (
    DESCRIBE,
    Description,
    Schema,
    Signature,
    order_inputs,
    read_signatures,
)
from client.serving.tensors import Array

T = TypeVar("T")
Steps = Generator[tuple[str, Any], Any, T]

MAX_SCHEMAS = 256
MAX_DESCRIBE_TRIES = 3


class Target(NamedTuple):
    """A model and one of its versions: by number, by label, or the latest."""

    model: str
    version: int | None = None
    label: str | None = None

    def spec(self, signature_name: str = "") -> Any:
        """Return the ModelSpec."""
        spec = messages.ModelSpec(name=self.model, signature_name=signature_name)
        if self.version is not None:
            spec.version.value = self.version
        elif self.label is not None:
            spec.version_label = self.label
        return spec


def as_target(model: str | Target) -> Target:
    """Return a target for the name of a model."""
    return model if isinstance(model, Target) else Target(model)


class Prediction(NamedTuple):
    """The outputs of one call by name, and the version that computed them."""

    outputs: Mapping[str, Array]
    version: int


class CallFlows:
    """The calls of one client, and its cached schemas."""

    def __init__(self) -> None:
        # Shared by threads, which replace whole entries.
        self._schemas: dict[Target, Schema] = {}
        self._descriptions: dict[Target, tuple[Any, Description | None]] = {}

    def predict(
        self,
        model: str | Target,
        inputs: Any,
        signature_name: str,
        signature: Signature | None,
        output_filter: Sequence[str],
    ) -> Steps[Prediction]:
        """Run a signature, requesting it from the server if it is not given.

        Raises:
            InvalidArgumentError: the signature is given but the inputs are not named.
        """
        target = as_target(model)
        if signature is not None:
            if not hasattr(inputs, "items"):
                kind = type(inputs).__name__
                raise InvalidArgumentError(f"expected inputs by name with a signature, got {kind}")
            return self.run(target, signature, inputs, signature_name, output_filter)
        return self._predict(target, inputs, signature_name, output_filter)

    def _predict(
        self, target: Target, inputs: Any, signature_name: str, output_filter: Sequence[str]
    ) -> Steps[Prediction]:
        """Run a signature with arrays, lists or a frame.

        The schema is requested once. If a request does not fit it, there may be a new version, so
        the schema is requested again and the request is encoded with it.
        """
        cached = self._schemas.get(target)
        schema = cached or (yield from self.schema(target))
        try:
            prediction = yield from self._execute(
                target, schema, inputs, signature_name, output_filter
            )
        except ClientError as error:
            if cached is None or error.status not in (400, 404):
                raise
            schema = yield from self.schema(target)
            if schema.equals(cached):
                raise
            return (yield from self._execute(target, schema, inputs, signature_name, output_filter))
        if prediction.version != schema.version:
            self._schemas.pop(target, None)
        return prediction

    def run(
        self,
        target: Target,
        signature: Signature | None,
        inputs: Mapping[str, Any],
        signature_name: str,
        output_filter: Sequence[str] = (),
    ) -> Steps[Prediction]:
        """Run a signature; the server rejects one that the model does not have."""
        request = messages.PredictRequest(
            model_spec=target.spec(signature_name), output_filter=output_filter
        )
        for name, values in inputs.items():
            spec = signature.inputs.get(name) if signature else None
            request.inputs[name].CopyFrom(_to_proto(name, values, spec.dtype if spec else None))
        response = yield "Predict", request
        try:
            outputs = {
                name: tensors.from_proto(response.outputs[name])
                for name in sorted(response.outputs)
            }
        except (OverflowError, ValueError) as error:
            raise ClientError(f"model {target.model}: {error}", 501) from error
        return Prediction(outputs, response.model_spec.version.value)

    def schema(self, target: Target) -> Steps[Schema]:
        """Return a model's signatures and its description of itself."""
        request = messages.GetModelMetadataRequest(
            model_spec=target.spec(), metadata_field=["signature_def"]
        )
        try:
            response = yield "GetModelMetadata", request
        except ServerError:
            self._schemas.pop(target, None)
            raise
        definition = messages.SignatureDefMap()
        response.metadata["signature_def"].Unpack(definition)
        version, signatures = response.model_spec.version.value, read_signatures(definition)
        numbered = Target(target.model, version)
        entry = self._descriptions.get(numbered)
        if entry is None or entry[0] != definition:
            entry = (definition, (yield from self._describe(numbered, signatures)))
            _store(self._descriptions, numbered, entry)
        description = entry[1]
        signatures = order_inputs(signatures, description)
        schema = Schema(target.model, version, signatures, description, definition)
        _store(self._schemas, target, schema)
        return schema

    def status(self, target: Target) -> Steps[list[Any]]:
        """Return the `ModelVersionStatus` of each version of a model, newest first."""
        response = yield (
            "GetModelStatus",
            messages.GetModelStatusRequest(model_spec=target.spec()),
        )
        return list(response.model_version_status)

    def classify(self, target: Target, examples: Any, signature_name: str) -> Steps[Any]:
        """Return the `ClassificationResponse` for the examples of an `Input`."""
        request = messages.ClassificationRequest(
            model_spec=target.spec(signature_name), input=examples
        )
        return (yield "Classify", request)

    def regress(self, target: Target, examples: Any, signature_name: str) -> Steps[Any]:
        """Return the `RegressionResponse` for the examples of an `Input`."""
        request = messages.RegressionRequest(model_spec=target.spec(signature_name), input=examples)
        return (yield "Regress", request)

    def _execute(
        self,
        target: Target,
        schema: Schema,
        inputs: Any,
        signature_name: str,
        output_filter: Sequence[str],
    ) -> Steps[Prediction]:
        if is_frame(inputs):
            signature_name, inputs = from_frame(inputs, signature_name, schema)
        elif not isinstance(inputs, Mapping):
            signature_name, inputs = from_array(inputs, signature_name, schema)
        signature = schema.signatures.get(signature_name)
        prediction = yield from self.run(target, signature, inputs, signature_name, output_filter)
        outputs = {name: tensors.as_text(name, a) for name, a in prediction.outputs.items()}
        return prediction._replace(outputs=outputs)

    def _describe(
        self, target: Target, signatures: Mapping[str, Signature]
    ) -> Steps[Description | None]:
        signature = signatures.get(DESCRIBE)
        if signature is None or set(signature.inputs) != {"query"}:
            return None
        try:
            prediction = yield from self._run_describe(target, signature)
            return Description.from_outputs(prediction.outputs)
        except ServerError as error:
            if error.status in (404, 429, 503, 504):
                raise
            return None
        except (
            ClientError,
            KeyError,
            ValueError,
            IndexError,
            TypeError,
            AttributeError,
            RuntimeError,
        ):
            return None  # an unrelated signature of the same name

    def _run_describe(self, target: Target, signature: Signature) -> Steps[Prediction]:
        """Run `describe`, again if the version is not found.

        An address may stand for several servers, not all of which have the version.
        """
        query = {"query": np.zeros(1, np.int32)}
        for _ in range(MAX_DESCRIBE_TRIES - 1):
            with suppress(NotFoundError):
                return (yield from self.run(target, signature, query, DESCRIBE))
        return (yield from self.run(target, signature, query, DESCRIBE))


def _store(cache: dict[Any, Any], key: Any, value: Any) -> None:
    if key not in cache and len(cache) >= MAX_SCHEMAS:
        cache.pop(next(iter(cache), None), None)
    cache[key] = value


def _to_proto(name: str, values: Any, dtype: int | None) -> Any:
    """Encode an input; without a dtype use numpy's, since the server will reject it anyway."""
    try:
        # numpy's string dtypes drop trailing zero bytes.
        array = np.asarray(values, object if dtype == tensors.STRING else None)
    except ValueError as error:
        raise InvalidArgumentError(f"input {name}: {error}") from None
    if dtype is None:
        dtype = next((e for e, d in tensors.DTYPES.items() if d == array.dtype), tensors.STRING)
    if dtype not in tensors.DTYPES:
        raise InvalidArgumentError(
            f"input {name}: tensors of {tensors.dtype_name(dtype)} cannot be sent"
        )
    expected = tensors.DTYPES[dtype]
    if dtype == tensors.STRING:
        array = _as_bytes(name, array)
    elif dtype == tensors.BOOL and tensors.holds_booleans(array):
        array = (array & 1).astype(np.bool_)
    elif array.dtype != expected:
        array = _cast(name, array, expected)
    return tensors.to_proto(array, dtype)


def _cast(name: str, array: Array, expected: np.dtype[Any]) -> Array:
    """Cast an array to another dtype that holds all its values."""
    are_integers = array.dtype.kind in "iu" and expected.kind in "iu"
    if not are_integers and not np.can_cast(array.dtype, expected, casting="same_kind"):
        raise InvalidArgumentError(
            f"input {name}: expected {expected.name}, got {array.dtype.name} values"
        )
    with np.errstate(over="ignore"):
        result = array.astype(expected)
    fits = result == array if are_integers else np.isfinite(result) == np.isfinite(array)
    if not fits.all():
        value = array[~fits][0]
        raise InvalidArgumentError(f"input {name}: expected {expected.name}, got {value}")
    return result


def _as_bytes(name: str, array: Array) -> Array:
    flat = np.empty(array.size, object)
    for index, value in enumerate(array.reshape(-1).tolist()):
        if not isinstance(value, str | bytes):
            raise InvalidArgumentError(f"input {name}: expected strings, got {value!r}")
        try:
            flat[index] = value.encode() if isinstance(value, str) else value
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"input {name}: {error}") from None
    return flat.reshape(array.shape)
