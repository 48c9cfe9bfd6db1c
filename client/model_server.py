"""The Python client of a model server: arrays in, arrays out, over gRPC."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import grpc
import numpy as np

from client import messages, tensors
from client.errors import ClientError, ServerError
from client.schema import DEFAULT_SIGNATURE, DESCRIBE, Description, Schema, Signature, signatures
from client.tensors import Array

DEFAULT_TIMEOUT = 5.0

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.lb_policy_name", "round_robin"),
    # A server that comes back is found within a second; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A peer that vanished without a word is noticed even while no request is under way.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]

Reply = TypeVar("Reply")
Observer = Callable[[str, grpc.StatusCode, float], None]


@dataclass(frozen=True)
class Target:
    """Which model to ask, and which version of it: by number, by label, or the latest."""

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


@dataclass(frozen=True)
class Prediction:
    """The outputs of one call, by name, and the version that computed them."""

    outputs: Mapping[str, Array]
    version: int


class ModelServer:
    """A model server that speaks TensorFlow Serving's gRPC API.

    One object holds one channel and may be used by many threads for as long as the process lives.
    Make it after forking, not before.

        with ModelServer("127.0.0.1:8500") as server:
            server.predict("breast_cancer", {"features": rows}, signature_name="dense")
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8500",
        *,
        timeout: float = DEFAULT_TIMEOUT,
        observe: Observer = lambda rpc, code, seconds: None,
    ) -> None:
        """Prepare the channel; the connection is made when it is first needed.

        Args:
            address: `host:port`, or any gRPC target.
            timeout: seconds that a call may take if it says nothing else.
            observe: called after each call with its name, status code and duration in seconds.
        """
        self.address = address
        self.timeout = timeout
        self._observe = observe
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._predict = messages.PredictionServiceStub(self._channel).Predict
        self._metadata = messages.PredictionServiceStub(self._channel).GetModelMetadata
        self._status = messages.ModelServiceStub(self._channel).GetModelStatus
        # Of each model the version asked last and its answer, replaced as one by whichever thread.
        self._descriptions: dict[str, tuple[int, Description | None]] = {}

    def predict(
        self,
        model: str | Target,
        inputs: Mapping[str, Any],
        *,
        signature_name: str = DEFAULT_SIGNATURE,
        signature: Signature | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Run a signature of a model.

        Args:
            model: the model's name for its latest version, or a Target.
            inputs: an array, or what numpy makes one of, for each input of the signature.
            signature_name: the signature to run.
            signature: it, if the caller knows it; otherwise the server is asked for it first.
            timeout: seconds that the call may take.

        Raises:
            ServerError: the server refused the request, or cannot be reached.
            ClientError: an input is not one of the signature's, or cannot become its dtype.
        """
        target = _target(model)
        deadline = self._deadline(timeout)
        if signature is None:
            signature = self._signatures(target, deadline)[2].get(signature_name)
        request = messages.PredictRequest(model_spec=target.spec(signature_name))
        for name, values in inputs.items():
            spec = signature.inputs.get(name) if signature else None
            request.inputs[name].CopyFrom(_to_proto(name, values, spec.dtype if spec else None))
        reply = self._call("Predict", self._predict, request, deadline)
        try:
            outputs = {name: tensors.from_proto(proto) for name, proto in reply.outputs.items()}
        except ValueError as error:
            raise ClientError(f"model {target.model}: {error}", 501) from error
        return Prediction(outputs, reply.model_spec.version.value)

    def schema(self, model: str | Target, *, timeout: float | None = None) -> Schema:
        """Ask the server what a model's signatures are, and the model to describe itself.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        target = _target(model)
        deadline = self._deadline(timeout)
        version, definition, found = self._signatures(target, deadline)
        known = self._descriptions.get(target.model)
        if known is None or known[0] != version:
            known = (version, self._describe(target.model, version, found, deadline))
            self._descriptions[target.model] = known
        return Schema(target.model, version, found, known[1], definition)

    def status(self, model: str | Target, *, timeout: float | None = None) -> list[Any]:
        """Return the `ModelVersionStatus` of each version of a model, newest first.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        target = _target(model)
        request = messages.GetModelStatusRequest(model_spec=target.spec())
        deadline = self._deadline(timeout)
        reply = self._call("GetModelStatus", self._status, request, deadline)
        return list(reply.model_version_status)

    def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self.timeout if timeout is None else timeout)

    def _signatures(
        self, target: Target, deadline: Deadline
    ) -> tuple[int, Any, dict[str, Signature]]:
        request = messages.GetModelMetadataRequest(
            model_spec=target.spec(), metadata_field=["signature_def"]
        )
        reply = self._call("GetModelMetadata", self._metadata, request, deadline)
        definition = messages.SignatureDefMap()
        reply.metadata["signature_def"].Unpack(definition)
        return reply.model_spec.version.value, definition, signatures(definition)

    def _describe(
        self, model: str, version: int, found: Mapping[str, Signature], deadline: Deadline
    ) -> Description | None:
        signature = found.get(DESCRIBE)
        if signature is None or set(signature.inputs) != {"query"}:
            return None
        try:
            prediction = self.predict(
                Target(model, version),
                {"query": np.zeros(1, np.int32)},
                signature_name=DESCRIBE,
                signature=signature,
                timeout=deadline.left(),
            )
            return Description.from_outputs(prediction.outputs)
        except ServerError as error:
            if error.status in (503, 504):
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
            return None  # somebody else's signature that happens to have the name

    def _call(
        self, rpc: str, method: Callable[..., Reply], request: Any, deadline: Deadline
    ) -> Reply:
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        try:
            return method(request, timeout=deadline.left())
        except grpc.RpcError as error:
            code = error.code()
            raise ServerError(code, self._message(code, error.details() or "")) from error
        finally:
            self._observe(rpc, code, time.perf_counter() - started)

    def _message(self, code: grpc.StatusCode, details: str) -> str:
        if code is grpc.StatusCode.UNAVAILABLE:
            return f"the model server at {self.address} cannot be reached: {details}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"the model server at {self.address} did not answer in time"
        return details or code.name


class Deadline:
    """A moment by which an answer must be there, whatever number of calls it takes."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left, never less than nothing."""
        return max(0.0, self._end - time.monotonic())


def _target(model: str | Target) -> Target:
    return model if isinstance(model, Target) else Target(model)


def _to_proto(name: str, values: Any, dtype: int | None) -> Any:
    """Encode an input; without a dtype the server will refuse it, so numpy's own will do."""
    array = np.asarray(values)
    if dtype is None:
        dtype = next((e for e, d in tensors.DTYPES.items() if d == array.dtype), tensors.STRING)
    if dtype not in tensors.DTYPES:
        raise ClientError(f"input {name}: tensors of {tensors.dtype_name(dtype)} cannot be sent")
    wanted = tensors.DTYPES[dtype]
    if dtype == tensors.STRING:
        array = _as_bytes(name, array)
    elif array.dtype != wanted:
        if not np.can_cast(array.dtype, wanted, casting="same_kind"):
            raise ClientError(
                f"input {name}: expected {wanted.name}, got {array.dtype.name} values"
            )
        array = array.astype(wanted)
    return tensors.to_proto(array, dtype)


def _as_bytes(name: str, array: Array) -> Array:
    flat = np.empty(array.size, object)
    for index, value in enumerate(array.reshape(-1).tolist()):
        if not isinstance(value, str | bytes):
            raise ClientError(f"input {name}: expected strings, got {value!r}")
        flat[index] = value.encode() if isinstance(value, str) else value
    return flat.reshape(array.shape)
