"""What can go wrong, and the HTTP status that says so."""

from __future__ import annotations

import grpc

# Why each gRPC code becomes the HTTP status it does: TensorFlow Serving's own REST port maps them
# so, except that a deadline is 504 and not 500.
HTTP_STATUS = {
    grpc.StatusCode.CANCELLED: 499,
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
RETRIABLE = (429, 503)


class ClientError(Exception):
    """A request that cannot be answered.

    Attributes:
        status: the HTTP status that tells the caller so.
        message: what came, what was expected, and where.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status

    @property
    def retry_after(self) -> int | None:
        """Seconds after which another try may succeed, if one may at all."""
        return RETRY_AFTER_SECONDS if self.status in RETRIABLE else None


class ServerError(ClientError):
    """The model server refused the request or could not be reached.

    Attributes:
        code: the gRPC status code.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message, HTTP_STATUS.get(code, OTHER_STATUS))
        self.code = code
