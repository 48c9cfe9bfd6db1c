"""The Python client of a model server over gRPC: arrays in, arrays out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio

from client.errors import ServerError, server_error
from client.observability.request_context import REQUESTS
from client.observability.tracing import Tracing
from client.serving.channel import Tls, channel, proxy_of
from client.serving.deadlines import Deadline
from client.serving.flows import Dialogue, Prediction, Steps, Target
from client.serving.pool import Server, ServerPool, stubs
from client.serving.schema import DEFAULT_SIGNATURE, Schema, Signature

__all__ = ["AsyncServingClient", "Deadline", "Prediction", "ServingClient", "Target", "Tls"]

DEFAULT_ADDRESS = "127.0.0.1:8500"
DEFAULT_TIMEOUT = 5.0
# TensorFlow Serving rejects a call when all its threads are busy; retrying soon helps.
THREADS_BUSY = "Server Threadpool Exhausted"
MIN_BACKOFF, MAX_BACKOFF = 0.005, 0.1

T = TypeVar("T")
Observer = Callable[[str, grpc.StatusCode, float], None]


class ServingClient:
    """A model server that speaks TensorFlow Serving's gRPC API.

    A client holds one channel, is thread-safe, and may live as long as the process. Create it after
    forking, not before.

        with ServingClient("127.0.0.1:8500") as server:
            server.predict("breast_cancer", frame)
            server.predict("breast_cancer", {"features": rows}, signature_name="dense")
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: Tls | None = None,
        observe: Observer = lambda rpc, code, seconds: None,
    ) -> None:
        """Prepare the channel; the connection is made when it is first needed.

        Args:
            address: `host:port`, several `ip:port` with commas, or any gRPC target. All addresses
                that a name resolves to are used in turn.
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
        self._dialogue = Dialogue()

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
                With it strings stay bytes; without it they are `str` if they are UTF-8.
            output_filter: names of the outputs to return; empty for all.
            timeout: timeout in seconds.

        Raises:
            InvalidArgumentError: an input is unknown, or cannot be converted to its dtype.
            NotFoundError: there is no such model or version.
            UnavailableError: the server cannot be reached.
            DeadlineExceededError: there was no answer in time.
            ServerError: the server refused the request for another reason.
        """
        steps = _predict(self._dialogue, model, inputs, signature_name, signature, output_filter)
        return self._follow(steps, timeout)

    def schema(self, model: str | Target, *, timeout: float | None = None) -> Schema:
        """Return a model's signatures and its description of itself, from the server.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return self._follow(self._dialogue.schema(_target(model)), timeout)

    def status(self, model: str | Target, *, timeout: float | None = None) -> list[Any]:
        """Return the `ModelVersionStatus` of each version of a model, newest first.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return self._follow(self._dialogue.status(_target(model)), timeout)

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
        steps = self._dialogue.classify(_target(model), examples, signature_name)
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
        steps = self._dialogue.regress(_target(model), examples, signature_name)
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
                    reply = self._call(*step, deadline)
                except ServerError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _call(self, rpc: str, request: Any, deadline: Deadline) -> Any:
        backoff = MIN_BACKOFF
        while True:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                return self._rpcs[rpc](request, timeout=deadline.left())
            except grpc.RpcError as error:
                code = error.code()
                if not _is_busy(error, deadline.left() - backoff):
                    raise _error(self.address, code, error.details()) from error
            finally:
                self._observe(rpc, code, time.perf_counter() - started)
            time.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF)


class AsyncServingClient:
    """A `ServingClient` for asyncio; create it in the running event loop that uses it.

        async with AsyncServingClient("127.0.0.1:8500") as server:
            await server.predict("breast_cancer", frame)

    The methods take, return and raise the same as those of `ServingClient`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: Tls | None = None,
        observe: Observer = lambda rpc, code, seconds: None,
        tracing: Tracing | None = None,
    ) -> None:
        """Prepare the channels, as `ServingClient` does; `tracing` makes spans of calls.

        Attributes:
            pool: the servers, one for each address.
        """
        self.address = address
        self.timeout = timeout
        self.pool = ServerPool(address, tls)
        self._observe = observe
        self._tracing = tracing
        self._dialogue = Dialogue()

    async def predict(
        self,
        model: str | Target,
        inputs: Any,
        *,
        signature_name: str = DEFAULT_SIGNATURE,
        signature: Signature | None = None,
        output_filter: Sequence[str] = (),
        timeout: float | None = None,
        server: Server | None = None,
    ) -> Prediction:
        """Run a signature of a model on `server`, or on any if None."""
        steps = _predict(self._dialogue, model, inputs, signature_name, signature, output_filter)
        return await self._follow(steps, timeout, server)

    async def schema(
        self, model: str | Target, *, timeout: float | None = None, server: Server | None = None
    ) -> Schema:
        """Return a model's signatures and its description of itself, from the server."""
        return await self._follow(self._dialogue.schema(_target(model)), timeout, server)

    async def status(self, model: str | Target, *, timeout: float | None = None) -> list[Any]:
        """Return the `ModelVersionStatus` of each version of a model, newest first."""
        return await self._follow(self._dialogue.status(_target(model)), timeout)

    async def classify(
        self,
        model: str | Target,
        examples: Any,
        *,
        signature_name: str = "",
        timeout: float | None = None,
    ) -> Any:
        """Return the `ClassificationResponse` to an `Input` message."""
        steps = self._dialogue.classify(_target(model), examples, signature_name)
        return await self._follow(steps, timeout)

    async def regress(
        self,
        model: str | Target,
        examples: Any,
        *,
        signature_name: str = "",
        timeout: float | None = None,
    ) -> Any:
        """Return the `RegressionResponse` to an `Input` message."""
        steps = self._dialogue.regress(_target(model), examples, signature_name)
        return await self._follow(steps, timeout)

    async def close(self) -> None:
        """Close the channels; calls in flight are cancelled."""
        await self.pool.close()

    async def __aenter__(self) -> AsyncServingClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _follow(
        self, steps: Steps[T], timeout: float | None, server: Server | None = None
    ) -> T:
        deadline = Deadline(self.timeout if timeout is None else timeout)
        # All steps go to one server: another may not have the version that the first one named.
        server = server or self.pool.pick()
        try:
            step = next(steps)
            while True:
                try:
                    reply = await self._call(*step, deadline, server)
                except ServerError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _call(self, rpc: str, request: Any, deadline: Deadline, server: Server) -> Any:
        backoff = MIN_BACKOFF
        while True:
            try:
                return await self._call_once(rpc, request, deadline, server)
            except grpc.RpcError as error:
                if not _is_busy(error, deadline.left() - backoff):
                    raise _error(server.address, error.code(), error.details()) from error
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF)

    async def _call_once(self, rpc: str, request: Any, deadline: Deadline, server: Server) -> Any:
        contexts, call, metadata = REQUESTS.get(), None, None
        if contexts and self._tracing is not None:
            call = self._tracing.begin_call(rpc, server.address, contexts)
            metadata = call.metadata
        started = time.perf_counter()
        code, reply = grpc.StatusCode.OK, None
        server.calls += 1
        try:
            reply = await server.rpcs[rpc](request, timeout=deadline.left(), metadata=metadata)
            return reply
        except grpc.RpcError as error:
            code = error.code()
            raise
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        finally:
            server.calls -= 1
            seconds = time.perf_counter() - started
            self.pool.observe(server, code, seconds)
            self._observe(rpc, code, seconds)
            for context in contexts:
                context.served += seconds
            if call is not None:
                call.end(code, request, reply)


def _target(model: str | Target) -> Target:
    return model if isinstance(model, Target) else Target(model)


def _predict(
    dialogue: Dialogue,
    model: str | Target,
    inputs: Any,
    signature_name: str,
    signature: Signature | None,
    output_filter: Sequence[str],
) -> Steps[Prediction]:
    target = _target(model)
    if signature is not None:
        return dialogue.run(target, signature, inputs, signature_name, output_filter)
    return dialogue.predict(target, inputs, signature_name, output_filter)


def _is_busy(error: grpc.RpcError, left: float) -> bool:
    """Whether to retry a call, given the seconds left after the back-off."""
    return (
        error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        and THREADS_BUSY in (error.details() or "")
        and left > 0
    )


def _error(address: str, code: grpc.StatusCode, details: str | None) -> ServerError:
    if code is grpc.StatusCode.UNAVAILABLE:
        proxy = proxy_of(address)
        through = f" through the proxy {proxy}" if proxy else ""
        return server_error(
            code, f"the model server at {address} cannot be reached{through}: {details}"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return server_error(code, f"the model server at {address} did not answer in time")
    return server_error(code, details or code.name)
