"""The asyncio client of model servers over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio

from client.errors import ServerError, UnavailableError
from client.observability.request_context import REQUESTS
from client.observability.tracing import Tracing
from client.serving.call_errors import MAX_BACKOFF, MIN_BACKOFF, call_error, should_retry
from client.serving.channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, Observer, Tls
from client.serving.deadlines import Deadline
from client.serving.flows import CallFlows, Prediction, Steps, Target, as_target
from client.serving.pool import Server, ServerPool
from client.serving.schema import DEFAULT_SIGNATURE, Schema, Signature

T = TypeVar("T")


class AsyncServingClient:
    """A `ServingClient` for asyncio; create it in the running event loop that uses it.

        async with AsyncServingClient("127.0.0.1:8500") as client:
            await client.predict("breast_cancer", frame)

    The methods take, return and raise the same as those of `ServingClient`.

    Attributes:
        pool: the servers, one for each address.
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
        """Prepare the channels, as `ServingClient` does; `tracing` records calls as spans."""
        self.address = address
        self.timeout = timeout
        self.pool = ServerPool(address, tls)
        self._observe = observe
        self._tracing = tracing
        self._flows = CallFlows()

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
        steps = self._flows.predict(model, inputs, signature_name, signature, output_filter)
        return await self._follow(steps, timeout, server)

    async def schema(
        self, model: str | Target, *, timeout: float | None = None, server: Server | None = None
    ) -> Schema:
        """Return a model's signatures and its description of itself, from the server."""
        return await self._follow(self._flows.schema(as_target(model)), timeout, server)

    async def status(
        self, model: str | Target, *, timeout: float | None = None, server: Server | None = None
    ) -> list[Any]:
        """Return the `ModelVersionStatus` of each version of a model, newest first."""
        return await self._follow(self._flows.status(as_target(model)), timeout, server)

    async def classify(
        self,
        model: str | Target,
        examples: Any,
        *,
        signature_name: str = "",
        timeout: float | None = None,
        server: Server | None = None,
    ) -> Any:
        """Return the `ClassificationResponse` to an `Input` message."""
        steps = self._flows.classify(as_target(model), examples, signature_name)
        return await self._follow(steps, timeout, server)

    async def regress(
        self,
        model: str | Target,
        examples: Any,
        *,
        signature_name: str = "",
        timeout: float | None = None,
        server: Server | None = None,
    ) -> Any:
        """Return the `RegressionResponse` to an `Input` message."""
        steps = self._flows.regress(as_target(model), examples, signature_name)
        return await self._follow(steps, timeout, server)

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
        # All steps go to one server, since another may not have the version that this one named.
        server = server or self.pool.pick()
        try:
            step = next(steps)
            while True:
                try:
                    response = await self._call(*step, deadline, server)
                except ServerError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _call(self, rpc: str, request: Any, deadline: Deadline, server: Server) -> Any:
        backoff = MIN_BACKOFF
        while True:
            try:
                return await self._call_once(rpc, request, deadline, server)
            except grpc.RpcError as error:
                if not should_retry(error, deadline.remaining() - backoff):
                    raise call_error(server.address, error.code(), error.details()) from error
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF)

    async def _call_once(self, rpc: str, request: Any, deadline: Deadline, server: Server) -> Any:
        contexts, call, metadata = REQUESTS.get(), None, None
        if contexts and self._tracing is not None:
            call = self._tracing.begin_call(rpc, server.address, contexts)
            metadata = call.metadata
        started = time.perf_counter()
        code, response = grpc.StatusCode.OK, None
        server.calls += 1
        try:
            response = await server.rpcs[rpc](
                request, timeout=deadline.remaining(), metadata=metadata
            )
            return response
        except grpc.RpcError as error:
            code = error.code()
            raise
        except (asyncio.CancelledError, grpc.aio.UsageError):
            code = grpc.StatusCode.CANCELLED
            if server.closed:
                message = f"the connection to the model server at {server.address} was closed"
                raise UnavailableError(message) from None
            raise
        finally:
            server.calls -= 1
            seconds = time.perf_counter() - started
            self.pool.observe(server, rpc, code, seconds)
            self._observe(rpc, code, seconds)
            for context in contexts:
                context.server_seconds += seconds
            if call is not None:
                call.end(code, request, response)
