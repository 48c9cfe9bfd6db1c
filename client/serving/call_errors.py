"""Errors of calls to a model server, and which calls to retry."""

from __future__ import annotations

import grpc

from client.errors import ServerError, UnavailableError, server_error
from client.serving.channel import find_proxy

# TensorFlow Serving rejects a call when all its threads are busy; retrying soon helps.
THREADS_BUSY = "Server Threadpool Exhausted"
MIN_BACKOFF, MAX_BACKOFF = 0.005, 0.1


def should_retry(error: grpc.RpcError, seconds_left: float) -> bool:
    """Return whether to retry a call, given the seconds left after the back-off."""
    return (
        error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        and THREADS_BUSY in (error.details() or "")
        and seconds_left > 0
    )


def call_error(address: str, code: grpc.StatusCode, details: str | None) -> ServerError:
    """Return the error of a failed call."""
    if code is grpc.StatusCode.UNAVAILABLE:
        proxy = find_proxy(address)
        through = f" through the proxy {proxy}" if proxy else ""
        return server_error(
            code, f"the model server at {address} cannot be reached{through}: {details}"
        )
    if code is grpc.StatusCode.CANCELLED:
        # A server cancels its calls when it stops.
        return UnavailableError(f"the model server at {address} ended the call: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return server_error(code, f"the model server at {address} did not answer in time")
    return server_error(code, details or code.name)
