"""The Python client of a model server over gRPC: arrays in, arrays out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc

from client.errors import ServerError, UnavailableError
from client.serving.async_client import AsyncServingClient
from client.serving.call_errors import MAX_BACKOFF, MIN_BACKOFF, call_error, should_retry
from client.serving.channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, Observer, Tls, channel
from client.serving.deadlines import Deadline
from client.serving.flows import CallFlows, Prediction, Steps, Target, as_target
from client.serving.pool import stubs
from client.serving.schema import DEFAULT_SIGNATURE, Schema, Signature

__all__ = ["AsyncServingClient", "Deadline", "Prediction", "ServingClient", "Target", "Tls"]

T = TypeVar("T")


class ServingClient:
    """A client of a model server that speaks TensorFlow Serving's gRPC API.

    A client holds one channel, is thread-safe, and may live as long as the process. Create it after
    forking, not before.

        with ServingClient("127.0.0.1:8500") as client:
            client.predict("breast_cancer", frame)
            client.predict("breast_cancer", {"features": rows}, signature_name="dense")
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: Tls | None = None,
        observe: Observer = lambda rpc, code, seconds: None,
    ) -> None:
        """Prepare the channel; it connects on first use.

        Args:
            address: `host:port`, several `ip:port` separated by commas, or any gRPC target. All
                addresses that a name resolves to are used in turn.
            timeout: default timeout of a call in seconds.
            tls: encryption of the connection; None for plain text.
            observe: called after each call with its name, status code and duration in seconds.

        Raises:
            ValueError: the address is invalid.
            OSError: a file that `tls` names cannot be read.
        """
        self.address = address
        self.timeout = timeout
        self._observe = observe
        self._channel = channel(address, tls)
        self._rpcs = stubs(self._channel)
        self._flows = CallFlows()

    def predict(
        self,
        model: str | Target,
        inputs: Any,
        *,
        signature_name: str = DEFAULT_SIGNATURE,
        signature: Signature | None = None,
        output_filter: Sequence[str] = (),
        timeout: float | None = None,
    ) -> Prediction:
        """Run a signature of a model.

        Args:
            model: the model's name for its latest version, or a Target.
            inputs: an array-like for each input of the signature; or a pandas or polars frame; or
                one array for the signature's only input.
            signature_name: the signature to run.
            signature: the signature, if known; otherwise it is requested from the server once.
                With it, inputs must be named, and strings stay bytes; without it, they are `str` if
                they are UTF-8.
            output_filter: names of the outputs to return; empty for all.
            timeout: timeout in seconds.

        Raises:
            InvalidArgumentError: an input is unknown, or cannot be converted to its dtype.
            NotFoundError: there is no such model or version.
            UnavailableError: the server cannot be reached.
            DeadlineExceededError: there was no answer in time.
            ServerError: the server refused the request for another reason.
        """
        steps = self._flows.predict(model, inputs, signature_name, signature, output_filter)
        return self._follow(steps, timeout)

    def schema(self, model: str | Target, *, timeout: float | None = None) -> Schema:
        """Return a model's signatures and its description of itself, from the server.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return self._follow(self._flows.schema(as_target(model)), timeout)

    def status(self, model: str | Target, *, timeout: float | None = None) -> list[Any]:
        """Return the `ModelVersionStatus` of each version of a model, newest first.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return self._follow(self._flows.status(as_target(model)), timeout)

    def classify(
        self,
        model: str | Target,
        examples: Any,
        *,
        signature_name: str = "",
        timeout: float | None = None,
    ) -> Any:
        """Return the `ClassificationResponse` to an `Input` message.

        Raises:
            ServerError: the server refused the request, or cannot be reached.
        """
        steps = self._flows.classify(as_target(model), examples, signature_name)
        return self._follow(steps, timeout)

    def regress(
        self,
        model: str | Target,
        examples: Any,
        *,
        signature_name: str = "",
        timeout: float | None = None,
    ) -> Any:
        """Return the `RegressionResponse` to an `Input` message.

        Raises:
            ServerError: the server refused the request, or cannot be reached.
        """
        steps = self._flows.regress(as_target(model), examples, signature_name)
        return self._follow(steps, timeout)

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> ServingClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _follow(self, steps: Steps[T], timeout: float | None) -> T:
        deadline = Deadline(self.timeout if timeout is None else timeout)
        try:
            step = next(steps)
            while True:
                try:
                    response = self._call(*step, deadline)
                except ServerError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _call(self, rpc: str, request: Any, deadline: Deadline) -> Any:
        backoff = MIN_BACKOFF
        while True:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                return self._rpcs[rpc](request, timeout=deadline.remaining())
            except grpc.RpcError as error:
                code = error.code()
                if not should_retry(error, deadline.remaining() - backoff):
                    raise call_error(self.address, code, error.details()) from error
            except ValueError as error:  # grpc's error after `close`
                code = grpc.StatusCode.CANCELLED
                message = f"the connection to the model server at {self.address} was closed"
                raise UnavailableError(message) from error
            finally:
                self._observe(rpc, code, time.perf_counter() - started)
            time.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF)
