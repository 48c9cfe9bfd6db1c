"""Errors and their HTTP statuses."""

from __future__ import annotations

from collections.abc import Callable

import grpc

# As on TensorFlow Serving's REST port (ToHTTPStatusCode in its http_server.cc).
HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
OTHER_STATUS = 500
RETRY_AFTER_SECONDS = 1
RETRIABLE_STATUSES = (429, 503)


class ClientError(Exception):
    """A request that cannot be answered.

    Attributes:
        status: the HTTP status of the response.
        message: what was expected, what was received, and where.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status

    @property
    def retry_after(self) -> int | None:
        """Seconds after which a retry may succeed; None if a retry cannot help."""
        return RETRY_AFTER_SECONDS if self.status in RETRIABLE_STATUSES else None


class ServerError(ClientError):
    """The model server refused the request or could not be reached.

    Kinds that callers may want to distinguish have subclasses; `server_error` picks the right one.

    Attributes:
        code: the gRPC status code.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message, HTTP_STATUS.get(code, OTHER_STATUS))
        self.code = code


class InvalidArgumentError(ServerError):
    """The inputs do not fit the model; raised by the client or the server."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, message)


class NotFoundError(ServerError):
    """There is no such model or version."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.NOT_FOUND, message)


class ResourceExhaustedError(ServerError):
    """Too many requests are waiting; a retry may succeed."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.RESOURCE_EXHAUSTED, message)


class UnavailableError(ServerError):
    """The request cannot be answered now; a retry may succeed."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.UNAVAILABLE, message)


class DeadlineExceededError(ServerError):
    """No response arrived in time."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.DEADLINE_EXCEEDED, message)


KINDS: dict[grpc.StatusCode, Callable[[str], ServerError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
}


def server_error(code: grpc.StatusCode, message: str) -> ServerError:
    """Return the error for a gRPC status code."""
    kind = KINDS.get(code)
    return kind(message) if kind else ServerError(code, message)
